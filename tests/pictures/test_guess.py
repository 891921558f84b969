"""What is done to pictures where nobody says: where a model shows it, and what its exporter suggests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optgraph.api.compiling import compile
from optgraph.base.errors import InputError
from optgraph.ir.values import Value
from optgraph.pictures.guess import guess
from optgraph.pictures.preprocess import NAMED, Preprocess

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
FIRST, LAST = ("N", 3, 16, 16), ("N", 16, 16, 3)


def model(
    steps: Sequence[tuple[str, object]] = (),
    producer: str = "",
    shape: Sequence[int | str] = FIRST,
    dtype: int = TensorProto.FLOAT,
    metadata: dict[str, str] | None = None,
) -> onnx.ModelProto:
    """A network whose image first goes through `steps`: operators with a constant, '' for none."""
    nodes, constants, name = [], [], "x"
    for i, (kind, constant) in enumerate(steps):
        names = [name]
        if constant != "":
            array = np.array(constant, np.float32)
            layout = (1, -1, 1, 1) if shape[1] == 3 else (-1,)
            constants.append(numpy_helper.from_array(array.reshape(layout) if array.ndim else array, f"c{i}"))
            names.append(f"c{i}")
        extra = {"to": 1} if kind == "Cast" else {"perm": [0, 3, 1, 2]} if kind == "Transpose" else {}
        nodes.append(helper.make_node(kind, names, [f"v{i}"], **extra))
        name = f"v{i}"
    nodes.append(helper.make_node("GlobalAveragePool", [name], ["y"]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    made = helper.make_model(graph, producer_name=producer, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(made, metadata or {})
    return made


def guessed(
    steps: Sequence[tuple[str, object]] = (),
    producer: str = "",
    shape: tuple[int | str, ...] = FIRST,
    metadata: dict[str, str] | None = None,
) -> Preprocess:
    return guess(model(steps, producer, shape, metadata=metadata), "x", Value(shape))


@pytest.mark.parametrize(
    ("producer", "shape", "like"),
    [
        ("pytorch", FIRST, "torch"),
        ("pytorch", LAST, "keras"),  # Keras on torch
        ("pytorch", ("N", 1, 16, 16), "keras"),
        ("tf2onnx", LAST, "keras"),
        ("", FIRST, "keras"),
    ],
)
def test_by_its_exporter(producer: str, shape: tuple, like: str) -> None:
    found = guessed(producer=producer, shape=shape)
    assert replace(found, why="") == NAMED[like]
    sure = like == "torch" or producer == "tf2onnx"
    assert found.why.startswith("a guess: " if sure else "by default: ") and "--preprocess" in found.why


@pytest.mark.parametrize(
    ("steps", "scale"),
    [
        ([("Div", 255.0)], 1),
        ([("Mul", 1 / 255)], 1),
        ([("Mul", 1 / 127.5), ("Add", -1.0)], 1),  # Keras's Rescaling
        ([("Div", 255.0), ("Sub", MEAN), ("Div", STD)], 1),
        ([("Sub", [123.675, 116.28, 103.53]), ("Div", [58.395, 57.12, 57.375])], 1),
        ([("Sub", [103.939, 116.779, 123.68])], 1),  # as Caffe's
        ([("Cast", ""), ("Mul", 1 / 255)], 1),
        ([("Sub", MEAN), ("Div", STD)], 255),
        ([("Mul", 2.0), ("Sub", 1.0)], 255),
        ([("Sub", 0.5), ("Div", 0.5)], 255),
    ],
)
@pytest.mark.parametrize("shape", [FIRST, LAST])
def test_a_network_that_scales_pixels_itself(steps: list, scale: float, shape: tuple) -> None:
    moved = [("Transpose", "")] if shape == LAST else []
    for each in (steps, [*steps, *moved]):
        found = guessed(each, "pytorch", shape)
        assert (found.scale, found.mean, found.std) == (scale, (0.0,), (1.0,))
        assert found.why == f"for the network scales pixels from 0 to {255 // scale} itself"
        assert found.crop == (0.875 if shape == FIRST else None)


@pytest.mark.parametrize(
    "steps",
    [
        [("Mul", [0.458, 0.448, 0.45]), ("Add", [-0.03, -0.088, -0.188])],  # torchvision's transform_input
        [("Add", 3.0)],
        [("Mul", 1.2), ("Add", -0.3)],
        [("Div", 0.0)],
        [("Mul", -1 / 255)],
        [("Relu", ""), ("Div", 255.0)],
    ],
)
def test_first_steps_that_say_nothing(steps: list) -> None:
    assert replace(guessed(steps, "pytorch"), why="") == NAMED["torch"]


def test_a_constant_less_the_image_is_no_scaling() -> None:
    made = model([("Sub", 0.5), ("Div", 0.5)])
    made.graph.node[0].input[:] = ["c0", "x"]
    assert replace(guess(made, "x", Value(FIRST)), why="") == NAMED["keras"]
    made = model([("Mul", 1 / 255)])
    made.graph.node[0].input[:] = ["c0", "x"]
    assert guess(made, "x", Value(FIRST)).name == "none"


def test_integers_and_ultralytics() -> None:
    assert guess(model(), "x", Value(FIRST, "uint8")).name == "none"
    metadata = {"author": "Ultralytics", "task": "classify"}
    found = guessed(producer="pytorch", metadata=metadata)
    assert (found.scale, found.mean, found.std, found.crop) == (255.0, (0.0,), (1.0,), 1.0)
    for other in (metadata | {"task": "detect"}, {"names": "['a']", "stride": "32"}):
        found = guessed(producer="pytorch", metadata=other)
        assert (found.scale, found.mean, found.crop) == (255.0, (0.0,), None)


def test_a_circle_of_nodes_ends() -> None:
    made = model([("Identity", "")])
    made.graph.node[0].output[:] = ["x"]
    assert guess(made, "x", Value(FIRST)).name == "keras"


def test_compile_takes_what_is_said_and_else_guesses() -> None:
    made = model(producer="pytorch")
    assert compile(made, "torch").preprocessing == guess(made, "x", Value(FIRST))
    assert compile(made, "torch", preprocess="caffe").preprocessing == NAMED["caffe"]
    own = Preprocess(mean=(127.0,), std=(128.0,), crop=0.875)
    assert compile(made, "torch", preprocess=own).preprocessing == own
    with pytest.raises(InputError, match="use keras, torch, caffe, none"):
        compile(made, "torch", preprocess="tf")


def test_nothing_is_cut_off_for_a_network_without_classes() -> None:
    made = model([("Relu", "")], producer="pytorch")
    del made.graph.node[1:]
    made.graph.output[0].name = "v0"
    found = compile(made, "torch").preprocessing
    assert found is not None and (found.name, found.crop) == ("torch", None)
    cut = compile(made, "torch", preprocess="torch").preprocessing
    assert cut == NAMED["torch"]


def test_nothing_is_cut_off_a_picture_whose_size_the_network_takes() -> None:
    made = model(producer="pytorch", shape=("n", 3, "h", "w"))
    found = compile(made, "torch", sizes=[(16, 16), (16, 24)])
    assert found.preprocessing is not None and found.preprocessing.crop is None
    assert found.preprocessing.mean == NAMED["torch"].mean
    assert found.at(16, 24).preprocessing == found.preprocessing
