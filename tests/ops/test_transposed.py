"""Transposed convolution: its definition, ONNX Runtime, and what becomes of it in kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import optgraph
from optgraph import ops
from optgraph.base.errors import ModelError
from optgraph.ir.values import RELU, Value
from optgraph.onnx.read import read
from optgraph.onnx.sessions import session
from optgraph.onnx.write import to_onnx
from optgraph.run import reference
from tests.support.definitions import evaluate, rand
from tests.support.onnx_checks import exported, single, types, weights

KERNELS = (1, 1), (2, 2), (3, 3), (4, 4), (2, 5)


def test_reference() -> None:
    """As its definition: each input pixel adds its multiple of the kernel."""
    x, w, b = rand(2, 4, 3, 5), rand(4, 3, 2, 3), rand(6)
    fields = {"kernel": (2, 3), "stride": (2, 3), "pads": (1, 0, 0, 2), "dilation": (3, 1), "extra": (1, 0)}
    op = ops.ConvTranspose(**fields, groups=2, act=RELU)
    full = np.zeros((2, 6, 2 * 2 + 3 + 1 + 1, 4 * 3 + 2 + 1))
    for i, j, r, s, g in np.ndindex(3, 5, 2, 3, 2):
        added = x[:, 2 * g : 2 * g + 2, i, j] @ w[2 * g : 2 * g + 2, :, r, s]
        full[:, 3 * g : 3 * g + 3, 2 * i + 3 * r, 3 * j + s] += added
    expected = np.maximum(full[:, :, 1:, :-2] + b[:, None, None], 0)
    (out,) = evaluate(op, x, w, b)
    np.testing.assert_allclose(out, expected, atol=1e-12)
    (value,) = op.infer([Value(("N", *x.shape[1:])), Value(w.shape), Value(b.shape)])
    assert value.shape == ("N", *out.shape[1:])


def model(
    channels: int, columns: int, groups: int, kernel: tuple[int, ...], size: tuple[int, ...], **attrs: Any
) -> onnx.ModelProto:
    """x -> Relu -> ConvTranspose -> Relu."""
    arrays = {"w": weights(channels, columns, *kernel), "b": weights(columns * groups)}
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("ConvTranspose", ["r", "w", "b"], ["t"], name="up", group=groups, **attrs),
        helper.make_node("Relu", ["t"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", channels, *size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def agrees(proto: onnx.ModelProto) -> dict[str, int]:
    """Asserts that the reference, the kernels and what is written again are as ONNX Runtime has the model, and nothing
    falls back; the launches."""
    graph = read(proto)
    assert [node.op.kind for node in graph.nodes()] == ["Activation", "ConvTranspose", "Activation"]
    x = weights(2, *graph.shape("x")[1:])
    (wanted,) = session(proto.SerializeToString(), optimize=False).run(None, {"x": x})
    (written,) = session(to_onnx(graph).SerializeToString(), optimize=False).run(None, {"x": x})
    net = optgraph.compile(proto, "interpret")
    for found in (reference.run(graph, {"x": x}, torch.float64)["y"].numpy(), net(x), written):
        assert found.shape == wanted.shape
        assert np.linalg.norm(found - wanted) <= 1e-6 * np.linalg.norm(wanted)
    plan = net.plan(2)
    assert plan.fallbacks == ()
    return plan.launches_by_kernel()


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 3)])
def test_kernels_and_strides(stride: tuple[int, int]) -> None:
    for kernel in KERNELS:
        found = agrees(model(3, 5, 1, kernel, (4, 5), strides=stride))
        product = all(k <= step for k, step in zip(kernel, stride, strict=True))
        copies = found.pop("copy", 0)  # one more along each axis that the stride does not divide
        assert copies in ([0] if stride == (1, 1) else [1, 2, 4])
        assert found == {"elementwise": 1, "pointwise" if product else "conv2d": 1}


def test_a_kernel_as_large_as_its_stride_is_a_matrix_product() -> None:
    assert agrees(model(8, 5, 1, (2, 2), (4, 5), strides=(2, 2))) == {"elementwise": 1, "pointwise": 1, "copy": 1}


def test_groups_dilation_and_pads() -> None:
    agrees(model(4, 3, 2, (3, 3), (4, 5), strides=(2, 2), dilations=[2, 1], pads=[1, 0, 0, 1]))
    agrees(model(4, 1, 4, (4, 4), (3, 5), strides=(2, 2), pads=[1, 1, 1, 1]))
    agrees(model(4, 2, 1, (2, 2), (3, 5), strides=(3, 3), output_padding=[2, 1]))
    agrees(model(4, 2, 1, (1, 2), (5, 5), pads=[2, 1, 1, 1], dilations=[1, 2]))


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
def test_pads_that_onnx_works_out(auto: str) -> None:
    for kernel in ((2, 2), (3, 4)):
        agrees(model(3, 5, 1, kernel, (4, 5), strides=(2, 2), auto_pad=auto))
    for shape in ([8, 10], [7, 9], [10, 12]):
        agrees(model(3, 2, 1, (3, 3), (4, 5), strides=(2, 2), auto_pad=auto, output_shape=shape))


def test_of_one_axis_and_of_three() -> None:
    agrees(model(3, 5, 1, (3,), (9,), strides=(2,), pads=[1, 1], output_padding=[1]))
    agrees(model(4, 2, 2, (4,), (9,), strides=(3,), pads=[1, 0]))
    volume = model(3, 2, 1, (3, 2, 3), (3, 4, 3), strides=(2, 1, 2), pads=[1, 0, 0, 1, 0, 1])
    assert [f.reason for f in optgraph.compile(volume, "interpret").plan(1).fallbacks if f.op == "ConvTranspose"] == [
        "a transposed convolution over 3 axes"
    ]


def test_a_stride_with_too_many_phases_falls_back() -> None:
    """The weights of 10^12 phases fit no memory, though the output has nine pixels."""
    plan = optgraph.compile(model(2, 3, 1, (3, 3), (1, 1), strides=(10**6, 10**6)), "torch").plan(1)
    assert [f.reason for f in plan.fallbacks] == ["a stride of [1000000, 1000000] has too many phases"]


def test_export() -> None:
    fields = {"kernel": (2, 3), "stride": (2, 2), "pads": (1, 0, 0, 2), "dilation": (3, 1), "extra": (1, 0)}
    graph = single(ops.ConvTranspose(**fields, act=RELU), weights(4, 3, 2, 3), weights(3))
    assert types(exported(graph)) == ["ConvTranspose", "Relu"]


@pytest.mark.parametrize(
    "shapes, reason",
    [
        ([(2, 3, 4, 4), (4, 3, 2, 2)], "input has 3 channels"),
        ([(2, 4, 4, 4), (4, 3, 3, 2)], "does not fit"),
        ([(2, 4, 4, 4), (4, 3, 2, 2), (4,)], "bias"),
        ([(2, 4, 1, 1), (4, 3, 2, 2)], "leave nothing"),
        ([(2, 4, "H", 4), (4, 3, 2, 2)], "'H' is not known"),
    ],
)
def test_shapes_that_do_not_fit(shapes: list[Any], reason: str) -> None:
    fields = {"kernel": (2, 2), "stride": (2, 2), "pads": (1, 1, 1, 1), "dilation": (1, 1), "extra": (0, 0)}
    with pytest.raises(ModelError, match=reason):
        ops.ConvTranspose(**fields).infer([Value(shape) for shape in shapes])


@pytest.mark.parametrize("attrs", [{"strides": [0, 1]}, {"pads": [-1, 0, 0, 0]}, {"strides": [1]}])
def test_attributes_that_make_no_sense(attrs: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="strides"):
        read(model(3, 5, 1, (2, 2), (4, 5), **attrs))
