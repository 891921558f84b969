import numpy as np
import pytest

from optgraph.ir.graph import Graph
from optgraph.ir.values import RELU
from optgraph.ops import Affine, Conv, ConvTranspose, Gemm, GlobalPool, Reshape
from optgraph.passes.simplify import batchnorm, fold_affine
from tests.support.networks import Builder, kinds, of_kind
from tests.support.simplify_checks import applied, binary, constant, refusal


def _folded(graph: Graph, rewrites: int = 1) -> Graph:
    after, outcome = applied(fold_affine.run, graph, 1e-6)
    assert outcome.rewrites == rewrites and not outcome.refusals and "Affine" not in kinds(after)
    return after


def _valid_conv(b: Builder, x: str, channels: int, kernel: int, groups: int = 1, bias: bool = True) -> str:
    """A convolution without padding."""
    w = b.constant(channels, b.graph.shape(x)[1] // groups, kernel, kernel)
    inputs = [x, w, b.constant(channels)] if bias else [x, w]
    return b.graph.add(Conv(kernel=(kernel, kernel), groups=groups), inputs).output


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 3, 12])
def test_after_a_transposed_convolution(bias, groups):
    b = Builder()
    window = {"kernel": (2, 3), "stride": (2, 2), "pads": (0, 1, 0, 0), "dilation": (1, 1), "extra": (0, 1)}
    inputs = [b.x, b.constant(12, 24 // groups, 2, 3), *([b.constant(24)] if bias else [])]
    y = b.graph.add(ConvTranspose(**window, groups=groups), inputs, origin=("up",)).output
    (node,) = _folded(b.done(b.affine(y))).nodes()
    assert node.get("b") and len(node.origin) == 2


def test_before_a_transposed_convolution_nothing_folds():
    """The border of the output sees fewer taps than the rest."""
    b = Builder()
    window = {"kernel": (3, 3), "stride": (2, 2), "pads": (0, 0, 0, 0), "dilation": (1, 1), "extra": (0, 0)}
    graph = b.done(b.graph.add(ConvTranspose(**window), [b.affine(b.x), b.constant(12, 5, 3, 3)]).output)
    outcome = fold_affine.run(graph)
    assert outcome.rewrites == 0 and kinds(graph) == {"Affine": 1, "ConvTranspose": 1}


def _scale(b: Builder, x: str) -> str:
    channels = b.graph.shape(x)[1]
    return b.graph.add(Affine(), [x, b.constant(channels, mean=1.0), constant(b, np.zeros(channels))]).output


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 3, 12])
def test_after_a_convolution(bias, groups):
    b = Builder()
    after = _folded(b.done(b.affine(b.conv(b.x, 24, 3, groups=groups, bias=bias))))
    (conv,) = after.nodes()
    assert conv.get("b") and len(conv.origin) == 2
    assert all(array.dtype == np.float32 for array in after.constants.values())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 3, 12])
def test_before_a_convolution_without_padding(bias, groups):
    b = Builder()
    assert kinds(_folded(b.done(_valid_conv(b, b.affine(b.x), 24, 3, groups, bias)))) == {"Conv": 1}


def test_a_scale_before_a_padded_convolution():
    b = Builder()
    after = _folded(b.done(b.conv(_scale(b, b.x), 8, 3, bias=False)))
    assert not after.nodes()[0].get("b")  # nothing to add


def test_a_shift_before_a_padded_convolution():
    b = Builder()
    assert "padding is zero" in refusal(fold_affine.run, b.done(b.conv(b.affine(b.x), 8, 3)))


def test_between_convolutions():
    b = Builder()
    after = _folded(b.done(b.conv(b.affine(b.depthwise(b.x)), 8)))
    assert after.nodes()[0].get("b") and kinds(after) == {"Conv": 2}


@pytest.mark.parametrize("bias", [False, True])
def test_gemm(bias):
    b = Builder()
    flat = b.graph.add(Reshape(shape=("N", 12)), [b.graph.add(GlobalPool(mode="max"), [b.x]).output]).output
    inputs = [b.affine(flat), b.constant(7, 12), *([b.constant(7)] if bias else [])]
    after = _folded(b.done(b.affine(b.graph.add(Gemm(), inputs).output)), 2)
    assert kinds(after) == {"GlobalPool": 1, "Reshape": 1, "Gemm": 1}


def test_residual_scale():
    """Inception-ResNet's x + 0.17 f(x)."""
    b = Builder()
    x = b.conv(b.x, 12, 3)
    graph = b.done(b.add(x, binary(b, "mul", b.conv(b.act(x), 12), constant(b, 0.17))))
    assert batchnorm.run(graph).rewrites == 1
    assert kinds(_folded(graph)) == {"Conv": 2, "Activation": 1, "Binary": 1}


def test_shared_weight_is_copied():
    b = Builder()
    w = b.constant(12, 12, 1, 1)
    first, second = (b.graph.add(Conv(kernel=(1, 1)), [x, w]).output for x in (b.x, b.act(b.x)))
    after = _folded(b.done(b.affine(first), second))
    assert w in after.constants and [conv.get("w") == w for conv in of_kind(after, "Conv")].count(True) == 1


def test_convolution_read_elsewhere():
    b = Builder()
    y = b.conv(b.x, 8)
    reason = refusal(fold_affine.run, b.done(b.affine(y), y))
    assert "also needed elsewhere" in reason


def test_affine_read_elsewhere():
    """The pre-activation of ResNet v2."""
    b = Builder()
    y = b.affine(b.pool(b.x))
    reason = refusal(fold_affine.run, b.done(b.conv(y, 8), b.act(y)))
    assert "also needed elsewhere" in reason


def test_activation_in_between():
    b = Builder()
    y = b.graph.add(Affine(act=RELU), [b.conv(b.x, 8), b.constant(8), b.constant(8)]).output
    assert "has an activation" in refusal(fold_affine.run, b.done(y))
    b = Builder()
    y = b.graph.add(Affine(act=RELU), [b.x, b.constant(12), b.constant(12)]).output
    assert "has an activation" in refusal(fold_affine.run, b.done(b.conv(y, 8)))


@pytest.mark.parametrize("fields", [{"act": RELU}, {"post": RELU}, {"pre_act": RELU}])
def test_convolution_that_is_fused_already(fields):
    b = Builder()
    if "pre_act" in fields:
        assert "prologue" in refusal(fold_affine.run, b.done(b.conv(b.affine(b.x), 12, **fields)))
    else:
        assert "epilogue" in refusal(fold_affine.run, b.done(b.affine(b.conv(b.x, 12, **fields))))


def test_weight_that_is_computed():
    b = Builder()
    w = b.graph.add(
        Reshape(shape=(9, 12, 1, 1)), [b.graph.add(Reshape(shape=(9, 12, 1, 1)), [b.constant(9, 12)]).output]
    ).output
    y = b.graph.add(Conv(kernel=(1, 1)), [b.x, w]).output
    assert "not constants" in refusal(fold_affine.run, b.done(b.affine(y)))


def test_weights_are_rounded_once():
    b = Builder()
    y = b.affine(b.conv(b.x, 5, 3))
    graph = b.done(y)
    conv, affine = graph.nodes()
    weight, bias, scale, shift = (graph.constants[v].astype(np.float64) for v in (*conv.inputs[1:], *affine.inputs[1:]))
    fold_affine.run(graph)
    (folded,) = graph.nodes()
    exact = (weight * scale.reshape(-1, 1, 1, 1)).astype(np.float32)
    assert np.array_equal(graph.constants[folded.get("w")], exact)
    assert np.array_equal(graph.constants[folded.get("b")], (bias * scale + shift).astype(np.float32))
