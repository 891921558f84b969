"""quantize: what it takes, what it refuses, and what becomes of networks of other kinds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import optgraph
from optgraph.base.errors import InputError, ModelError
from optgraph.int8 import machine
from optgraph.int8.correct import with_biases
from optgraph.int8.pictures import Pictures
from optgraph.int8.verdict import Judge, Verdict
from optgraph.onnx.sessions import session
from tests.support.cli_models import classifier

RNG = np.random.default_rng(3)
X = RNG.standard_normal((12, 3, 12, 12)).astype(np.float32)
ANY = 9.0


def model_of(nodes: list[tuple[str, str, str, dict[str, Any]]], arrays: dict[str, np.ndarray], shape: list[Any]) -> Any:
    made = [helper.make_node(op, ins.split(), outs.split(), name=outs, **attrs) for op, ins, outs, attrs in nodes]
    graph = helper.make_graph(
        made,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(made[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def normal(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    (found,) = session(model.SerializeToString(), optimize=False).run(None, {"x": x})
    return found


def test_probabilities_are_left_in_float() -> None:
    """A softmax on a grid of 1/255 would be of no use."""
    found = optgraph.quantize(classifier(), X, tolerance=ANY)
    onnx.checker.check_model(found.model, full_check=True)
    y = run(found.model, X)
    assert np.allclose(y.sum(1), 1, atol=1e-5) and len(np.unique(y)) > 100
    assert found.verdict.error < 0.1 and found.verdict.top1 is not None
    exact = run(classifier(), X)
    assert found.verdict.probability == pytest.approx(np.abs(y - exact).mean(), rel=1e-3)
    assert found.model.metadata_props == classifier().metadata_props


def test_what_is_known_of_pictures_stays() -> None:
    model = classifier()
    model.producer_name = "pytorch"
    model.metadata_props.add(key="names", value="{}")
    found = optgraph.quantize(model, X, tolerance=ANY)
    assert found.model.producer_name == "pytorch" and found.model.metadata_props[0].key == "names"


def test_a_bias_that_two_share_and_one_that_is_missing() -> None:
    arrays = {"w": normal(4, 3, 3, 3), "v": normal(4, 4, 1, 1), "u": normal(4, 4, 1, 1), "b": normal(4)}
    nodes: list[Any] = [("Conv", "x w b", "p", {"pads": [1] * 4}), ("Relu", "p", "r", {})]
    nodes += [("Conv", "r v b", "q", {}), ("Conv", "q u", "y", {})]
    model = model_of(nodes, arrays, ["N", 3, 12, 12])
    apart = onnx.ModelProto.FromString(model.SerializeToString())
    with_biases(apart)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in apart.graph.initializer}
    biases = [node.input[2] for node in apart.graph.node if node.op_type == "Conv"]
    assert len(set(biases)) == 3 and [(stored[name] == arrays["b"]).all() for name in biases] == [True, True, False]
    assert not stored[biases[2]].any() and np.array_equal(run(apart, X), run(model, X))
    found = optgraph.quantize(model, X, tolerance=ANY)
    assert [loss.op for loss in found.losses] == ["Conv"] * 3
    assert found.verdict.error < 0.05 and found.verdict.top1 is None and found.verdict.probability is None


def test_gates_products_and_transposed_convolutions() -> None:
    """What has no integer kernel stays in float between grids; ONNX Runtime is kept from making it integers."""
    arrays = {"w": normal(8, 3, 3, 3), "s": normal(8, 8, 1, 1), "t": normal(8, 4, 2, 2), "z": normal(4, 4, 1, 1)}
    arrays |= {"m": normal(12, 5)}
    nodes: list[Any] = [("Conv", "x w", "c", {"pads": [1] * 4}), ("LeakyRelu", "c", "r", {"alpha": 0.1})]
    nodes += [("GlobalAveragePool", "r", "g", {}), ("Conv", "g s", "e", {}), ("Sigmoid", "e", "k", {})]
    nodes += [("Mul", "r k", "n", {}), ("MaxPool", "n", "p", {"kernel_shape": [2, 2], "strides": [2, 2]})]
    nodes += [("ConvTranspose", "p t", "d", {"strides": [2, 2]}), ("Conv", "d z", "f", {}), ("MatMul", "f m", "y", {})]
    model = model_of(nodes, arrays, ["N", 3, 12, 12])
    found = optgraph.quantize(model, X, tolerance=ANY)
    kinds = [loss.op for loss in found.losses]
    assert sorted(kinds) == sorted(
        ["Conv", "LeakyRelu", "GlobalAveragePool", "Conv", "Sigmoid", "Mul", "Conv", "MatMul"]
    )
    assert found.verdict.error < 0.1
    assert found.here.error == pytest.approx(found.verdict.error, rel=0.5)
    assert "ConvTranspose" not in {loss.op for loss in found.losses}


def test_between_two_that_are_kept_in_float_there_is_no_grid() -> None:
    """Beside a layer in int8 there is one, which is the price of a layer kept by itself."""
    arrays = {name: normal(8, 8 if i else 3, 3, 3) for i, name in enumerate("abcd")}
    nodes: list[Any] = [("Conv", "x a", "p", {}), ("Conv", "p b", "q", {}), ("Conv", "q c", "r", {})]
    model = model_of([*nodes, ("Conv", "r d", "y", {})], arrays, ["N", 3, 12, 12])
    off = []
    for keep, on_grids in (([], "xpqr"), (["q"], "xpqr"), (["q", "r"], "xpr"), (["p", "q", "r"], "r")):
        found = optgraph.quantize(model, X, keep=keep, tolerance=ANY)
        read = [node.input[0] for node in found.model.graph.node if node.op_type == "QuantizeLinear"]
        assert "".join(name.removesuffix("/float") for name in read if "y" not in name) == on_grids
        off.append(found.verdict.error)
    assert off[2] < off[0] and off[3] < off[2]


def test_scalars_and_weights_of_zeros() -> None:
    """As attention multiplies its scores, and as what was pruned is left."""
    arrays = {"q": normal(12, 12), "s": np.float32(0.3), "w": np.zeros((6, 3, 3, 3), np.float32)}
    arrays |= {"b": np.ones(6, np.float32), "z": normal(6, 3, 3, 3)}
    nodes: list[Any] = [("MatMul", "x q", "p", {}), ("Mul", "p s", "n", {}), ("Conv", "n w b", "c", {})]
    nodes += [("Conv", "n z", "d", {}), ("Add", "c d", "y", {})]
    found = optgraph.quantize(model_of(nodes, arrays, ["N", 3, 12, 12]), X)
    told = {loss.op: loss.why for loss in found.losses if loss.layer != "d"}
    assert {"MatMul", "Mul", "Conv", "Add"} == told.keys() and found.verdict.error < 0.05
    assert told["Conv"] == "weights: none but the bias"


def test_whatever_pictures_are_given_as(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    (tmp_path / ".hidden.png").write_bytes(b"no picture")
    net = optgraph.compile(classifier(), "torch")
    files = sorted(tmp_path.glob("[0-9].png"))
    want = net.preprocess(*files)
    ways: list[Any] = [
        tmp_path,
        str(tmp_path),
        files,
        (str(file) for file in files),
        want,
        {"x": want},
        [want[:1], want[1:]],
    ]
    ways.append([Image.open(file) for file in files])
    for given in ways:
        pictures = Pictures.of(net, given, 2)
        for _ in range(2):  # again for each pass
            batches = [feeds["x"] for feeds in pictures()]
            assert max(map(len, batches)) <= 2 and np.array_equal(np.concatenate(batches), want)
        singles = pictures.single(2)
        assert [len(feeds["x"]) for feeds in singles] == [1, 1] and np.array_equal(singles[1]["x"], want[1:2])


def test_a_model_of_a_fixed_batch() -> None:
    found = optgraph.quantize(classifier((4, 3, 12, 12)), X, tolerance=ANY, batch=3)
    assert found.verdict.pictures == 12
    with pytest.raises(InputError, match="expects float32 of shape"):
        optgraph.quantize(classifier((4, 3, 12, 12)), X[:6], tolerance=ANY)


def with_weights_of(dtype: type) -> onnx.ModelProto:
    model = classifier()
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return model


def faint() -> onnx.ModelProto:
    return model_of([("Conv", "x w", "y", {})], {"w": 1e-3 * normal(4, 3, 1, 1)}, ["N", 3, 12, 12])


def answers_zero() -> Verdict:
    zero, other = (model_of([("Mul", "x s", "y", {})], {"s": np.float32(s)}, ["N", 3, 12, 12]) for s in (0, 1))
    return Judge(zero, lambda: [{"x": X}])(other)


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "fp16": (lambda: optgraph.quantize(with_weights_of(np.float16), X.astype(np.float16)), ModelError, "of float16"),
    "quantised": (
        lambda: optgraph.quantize(optgraph.quantize(classifier(), X, tolerance=ANY).model, X),
        ModelError,
        "quantised already.*give the float model",
    ),
    "no layer": (
        lambda: optgraph.quantize(model_of([("Tanh", "x", "y", {})], {}, ["N", 3, 12, 12]), X),
        ModelError,
        "no layer can be in int8",
    ),
    "no pictures": (lambda: optgraph.quantize(classifier(), []), InputError, "no pictures"),
    "not numbers": (lambda: optgraph.quantize(classifier(), np.full_like(X, np.nan)), InputError, "finite"),
    "not finite": (lambda: optgraph.quantize(classifier(), np.full_like(X, np.inf)), InputError, "finite"),
    "overflow": (lambda: optgraph.quantize(classifier(), X * np.float32(3e38)), InputError, "finite"),
    "no range": (
        lambda: optgraph.quantize(faint(), X * np.float32(6e37), calibrate="percentile"),
        InputError,
        "no range",
    ),
    "method": (lambda: optgraph.quantize(classifier(), X, calibrate="guess"), InputError, "use minmax, percentile"),
    "tolerance": (lambda: optgraph.quantize(classifier(), X, tolerance=-1), InputError, "tolerance -1"),
    "look": (lambda: optgraph.quantize(classifier(), X, look=0), InputError, "look 0"),
    "keep": (lambda: optgraph.quantize(classifier(), X, keep=["stm"]), InputError, "keep 'stm'.*close are /stem/Conv"),
    "nothing left": (
        lambda: optgraph.quantize(classifier(), X, tolerance=0),
        InputError,
        "tolerance 0: only with nothing in int8.* off with all layers in int8, [0-9.e-]+ with '/.*' alone: allow more",
    ),
    "the one layer": (
        lambda: optgraph.quantize(faint(), X, tolerance=1e-9),
        InputError,
        "off with all layers in int8: allow more",
    ),
    "all kept": (
        lambda: optgraph.quantize(faint(), X, keep=["y"]),
        InputError,
        "keep: these are all the layers that can be in int8",
    ),
    "black": (lambda: optgraph.quantize(classifier(), X * 0), InputError, "pictures are 0 all over: give some"),
    "grey": (lambda: optgraph.quantize(classifier(), X * 0 + 0.5, calibrate="entropy"), InputError, "0.5 all over"),
    "no answer": (answers_zero, InputError, "'y' is 0 on all these pictures"),
    "shape": (lambda: optgraph.quantize(classifier(), X[:, :, :5]), InputError, "expects float32 of shape"),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("why", REFUSED)
def test_refusals(why: str) -> None:
    call, error, said = REFUSED[why]
    with pytest.raises(error, match=said):
        call()


def test_how_many_pictures_are_different() -> None:
    for x, many in ((X[:1], 1), (np.repeat(X[:1], 5, 0), 1), (np.concatenate([X, X[:3]]), 12)):
        found = optgraph.quantize(classifier(), x, tolerance=ANY, look=1, batch=4)
        assert found.different == found.to_json()["different"] == many and found.verdict.pictures == len(x)


def test_sums_that_are_cut_off_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class CutOff:
        def run(self, names: None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            pairs = min(2 * machine._X * machine._W, 2**15 - 1) * machine._CHANNELS // 2
            return [np.full_like(feeds["x"], 200 * pairs // (machine._X * machine._W * machine._CHANNELS))]

    flags = next((line.split() for line in Path("/proc/cpuinfo").read_text().splitlines() if "flags" in line), [])
    if {"avx512_vnni", "avx_vnni"} & set(flags):
        assert not machine.saturates()
    monkeypatch.setattr(machine, "session", lambda *args, **kwargs: CutOff())
    assert machine.saturates()
