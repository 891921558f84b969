"""Resize and Upsample: in ONNX Runtime, and as each opset has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from optgraph import ops
from optgraph.base.errors import ModelError
from optgraph.ir.values import Shape, Value
from optgraph.onnx.read import read
from optgraph.onnx.sessions import session
from optgraph.onnx.write import to_onnx
from optgraph.run import reference
from tests.support.definitions import evaluate, rand
from tests.support.onnx_checks import weights

IMAGE = ("N", 3, 6, 7)
SCALES = (1, 1, 2, 2), (1, 1, 1.5, 2.5), (1, 1, 0.6, 0.8), (1, 1, 3.3, 0.33)
SIZES = (2, 3, 13, 9), (2, 3, 3, 5), (2, 3, 1, 1)


def model(op_type: str, opset: int, shape: Shape = IMAGE, /, **given: Any) -> onnx.ModelProto:
    """x -> op_type. given: its inputs scales, sizes and roi, and its attributes."""
    old = opset < 11
    slots = ("scales",) if old else ("roi", "scales", "sizes")
    arrays = {
        name: np.array(given.pop(name), np.int64 if name == "sizes" else np.float32)
        for name in slots
        if name in given and (op_type, opset) != ("Upsample", 7)
    }
    names = ["x", *(name if name in arrays else "" for name in slots)]
    while not names[-1]:
        names.pop()
    graph = helper.make_graph(
        [helper.make_node(op_type, names, ["y"], name="resize", **given)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def agrees(proto: onnx.ModelProto) -> list[str]:
    """Asserts that what is read, and what is written again, are as ONNX Runtime has the model; returns its kinds."""
    graph = read(proto)
    x = weights(*(2 if isinstance(d, str) else d for d in graph.shape("x")))
    (wanted,) = session(proto.SerializeToString(), optimize=False).run(None, {"x": x})
    written = to_onnx(graph)
    onnx.checker.check_model(written, full_check=True)
    (exported,) = session(written.SerializeToString(), optimize=False).run(None, {"x": x})
    for found in (reference.run(graph, {"x": x})["y"].numpy(), exported):
        assert found.shape == wanted.shape
        assert np.linalg.norm(wanted) > 0
        assert np.linalg.norm(found - wanted) <= 1e-6 * np.linalg.norm(wanted)
    return [node.op.kind for node in graph.nodes()]


COORDINATES = "half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize(
    "how",
    [
        *({"mode": "nearest", "nearest_mode": n} for n in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")),
        *({"mode": "linear", "antialias": antialias} for antialias in (0, 1)),
        *({"mode": "cubic", "exclude_outside": e, "antialias": a} for e, a in ((0, 0), (1, 0), (0, 1), (1, 1))),
        {"mode": "cubic", "cubic_coeff_a": -0.5},
    ],
    ids=lambda how: "-".join(map(str, how.values())),
)
def test_modes(coordinates: str, how: dict[str, Any]) -> None:
    opset = 19 if coordinates == "half_pixel_symmetric" else 18 if how.get("antialias") else 13
    how = {**{name: value for name, value in how.items() if value}, "coordinate_transformation_mode": coordinates}
    if how["mode"] == "cubic" and how.get("antialias") and coordinates == "align_corners":
        how["exclude_outside"] = 1
    for scales in SCALES:
        assert agrees(model("Resize", opset, scales=scales, **how)) == ["Resize"]
    for sizes in SIZES:
        assert agrees(model("Resize", opset, (2, *IMAGE[1:]), sizes=sizes, **how)) == ["Resize"]


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_a_region_of_the_image(mode: str) -> None:
    how = {"mode": mode, "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 0.5}
    roi = [0, 0, 0.25, -0.1, 1, 1, 0.75, 1.2]
    for opset in (11, 13, 19):
        whole = model("Resize", opset, (2, *IMAGE[1:]), roi=roi, sizes=(2, 3, 5, 9), scales=[], **how)
        assert agrees(whole) == ["Resize"]
    some = model("Resize", 18, roi=[0.25, 0.0, 0.75, 1.0], scales=(2, 1), axes=[2, 3], **how)
    assert agrees(some) == ["Resize"] and read(some).node("resize").op.axes == (2,)


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_aspect_ratio(policy: str, mode: str) -> None:
    how = {"mode": mode, "keep_aspect_ratio_policy": policy, "axes": [3, 2]}
    for sizes in ((13, 9), (4, 20), (7, 6)):
        agrees(model("Resize", 18, sizes=sizes, **how))


@pytest.mark.parametrize(("op_type", "opset"), [("Upsample", 7), ("Upsample", 9), ("Resize", 10), ("Resize", 11)])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_as_old_opsets_have_it(op_type: str, opset: int, mode: str) -> None:
    for scales in (*SCALES[: 2 if op_type == "Upsample" else 4], (1, 1, 1, 2)):
        given = {"scales": [float(scale) for scale in scales], **({"roi": []} if opset == 11 else {})}
        kinds = agrees(model(op_type, opset, mode=mode, **given))
        assert set(kinds) == {"Resize"}


def test_other_ranks() -> None:
    assert agrees(model("Resize", 13, ("N", 3, 9), scales=(1, 1, 2.5), mode="linear")) == ["Resize"]
    assert agrees(model("Resize", 13, ("N", 2, 3, 4, 5), scales=(1, 1, 2, 1.5, 0.7), mode="linear")) == ["Resize"]


def test_an_open_batch_among_sizes() -> None:
    """Fixed by a number, as ONNX Runtime has it, or its own."""
    assert agrees(model("Resize", 13, sizes=(2, 3, 12, 9))) == ["Resize"]
    assert read(model("Resize", 13, sizes=(2, 3, 12, 9))).shape("y") == (2, 3, 12, 9)
    with pytest.raises(ModelError, match="dimension 'N' is not known"):
        read(model("Resize", 13, scales=(2, 1, 1, 1)))


def test_nothing_to_resize() -> None:
    assert agrees(model("Resize", 13, scales=(1, 1, 1, 1))) == ["Identity"]
    assert agrees(model("Resize", 13, (2, 3, 6, 7), sizes=(2, 3, 6, 7))) == ["Identity"]


@pytest.mark.parametrize("scales", [(0.0,), (-1.0,), (float("inf"),), (float("nan"),), (0.01,)])
def test_sizes_that_make_no_sense(scales: Sequence[float]) -> None:
    with pytest.raises(ModelError):
        ops.Resize(axes=(2,), scales=tuple(scales)).infer([Value(("N", 3, 6, 7))])


def test_ties_are_told_in_spite_of_float32() -> None:
    """As in ONNX Runtime, to which a position of 1.5000002 is a tie."""
    roi = [0, 0, 0, -0.2, 1, 1, 1, 1.2]
    how = {"mode": "nearest", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 9.0}
    for rounding in ("round_prefer_floor", "round_prefer_ceil"):
        agrees(model("Resize", 13, (1, 1, 6, 11), roi=roi, sizes=(1, 1, 6, 13), nearest_mode=rounding, **how))


def test_reference() -> None:
    x = rand(2, 3, 4, 5)
    (out,) = evaluate(ops.Resize(axes=(3,), scales=(2.0,), nearest="floor", coordinates="asymmetric"), x)
    np.testing.assert_array_equal(out, np.repeat(x, 2, axis=3))
    (out,) = evaluate(ops.Resize(axes=(2, 3), sizes=(9, 8), mode="linear"), x)
    expected = torch.nn.functional.interpolate(torch.tensor(x), (9, 8), mode="bilinear").numpy()
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-6)
    (out,) = evaluate(ops.Resize(axes=(3,), scales=(2.0,)), np.arange(12).reshape(1, 1, 3, 4))
    assert out.dtype == np.int64
