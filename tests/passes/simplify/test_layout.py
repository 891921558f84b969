import numpy as np
import pytest

from optgraph.ir.graph import Graph
from optgraph.ir.values import Act
from optgraph.ops import (
    Activation,
    Cast,
    Concat,
    Gather,
    GlobalPool,
    Pad,
    Reduce,
    Reshape,
    Resize,
    Slice,
    Softmax,
    Split,
    Tile,
    Transpose,
)
from optgraph.passes.simplify import layout, permute
from tests.support.networks import Builder, kinds, of_kind
from tests.support.simplify_checks import TO_NCHW, TO_NHWC, applied, binary, constant, opaque, refusal, transpose


def _sunk(graph: Graph) -> Graph:
    after, outcome = applied(layout.run, graph)
    assert outcome.rewrites and not outcome.refusals
    return after


def _through(op) -> Graph:
    """x -> NHWC -> op -> NCHW."""
    b = Builder()
    return b.done(transpose(b, b.graph.add(op, [transpose(b, b.x, TO_NHWC)]).output, TO_NCHW))


MOVED = [
    (Activation(act=Act("tanh")), Activation(act=Act("tanh"))),
    (Cast(to="float64"), Cast(to="float64")),
    (Pad(pads=(0, 1, 2, 3, 0, 4, 5, 6), value=1.5), Pad(pads=(0, 3, 1, 2, 0, 6, 4, 5), value=1.5)),
    (Softmax(axis=3), Softmax(axis=1)),
    (
        Slice(starts=(1, 2), ends=(5, 8), axes=(3, 1), steps=(1, 3)),
        Slice(starts=(1, 2), ends=(5, 8), axes=(1, 2), steps=(1, 3)),
    ),
    (Reduce(mode="max", axes=(3,), keepdims=True), Reduce(mode="max", axes=(1,), keepdims=True)),
    (Gather(axis=3, indices=(5, 0, 11)), Gather(axis=1, indices=(5, 0, 11))),
    (Tile(repeats=(1, 2, 3, 1)), Tile(repeats=(1, 1, 2, 3))),
    (Resize(axes=(1, 2), scales=(2.0, 1.5), mode="linear"), Resize(axes=(2, 3), scales=(2.0, 1.5), mode="linear")),
]


@pytest.mark.parametrize("op, expected", MOVED, ids=lambda op: op.kind)
def test_moves_through(op, expected):
    after = _sunk(_through(op))
    assert [node.op for node in after.nodes()] == [expected]


def test_a_resize_of_images_stays_one():
    """Kernels resize height and width."""
    b = Builder()
    y = b.graph.add(Resize(axes=(2, 3), scales=(2.0, 2.0)), [transpose(b, b.x, TO_NHWC)]).output
    after, _ = applied(layout.run, b.done(transpose(b, y, TO_NCHW)))
    assert kinds(after) == {"Transpose": 2, "Resize": 1}


def test_opaque_elementwise_moves():
    b = Builder()
    y = opaque(b.graph, "Atan", [transpose(b, b.x, TO_NHWC)], ("N", 9, 9, 12)).output
    after = _sunk(b.done(transpose(b, y, TO_NCHW)))
    assert kinds(after) == {"Atan": 1} and after.shape(after.outputs["y0"]) == ("N", 12, 9, 9)


def test_permutations_invert_and_compose():
    x = np.arange(120).reshape(2, 3, 4, 5)
    p, q = (2, 0, 3, 1), (1, 3, 0, 2)
    assert np.array_equal(x.transpose(p).transpose(permute.inverse(p)), x)
    assert np.array_equal(x.transpose(p).transpose(q), x.transpose(permute.compose(p, q)))
    assert permute.permuted_shape(x.shape, p) == x.transpose(p).shape


@pytest.mark.parametrize("shape", [(12,), (1, 1, 1, 12), (9, 1, 1), (9, 9, 12), (), (1,)])
@pytest.mark.parametrize("fn, left", [("sub", False), ("sub", True), ("mul", False)])
def test_constant_operands_are_permuted(shape, fn, left):
    b = Builder()
    x, c = transpose(b, b.x, TO_NHWC), constant(b, np.random.default_rng(0).standard_normal(shape))
    y = binary(b, fn, *((c, x) if left else (x, c)))
    after = _sunk(b.done(transpose(b, y, TO_NCHW)))
    assert kinds(after) == {"Binary": 1}


def test_shared_constant_is_permuted_once():
    b = Builder()
    c, x = b.constant(12), transpose(b, b.x, TO_NHWC)
    after = _sunk(b.done(transpose(b, binary(b, "mul", binary(b, "add", x, c), c), TO_NCHW)))
    assert kinds(after) == {"Binary": 2} and len(after.constants) == 1


def test_residual_and_concat():
    b = Builder()
    x = transpose(b, b.conv(b.x, 12, 3), TO_NHWC)
    y = transpose(b, b.conv(transpose(b, b.act(x), TO_NCHW), 12, 3), TO_NHWC)
    z = b.graph.add(Concat(axis=3), [b.add(x, y), y, x]).output
    after = _sunk(b.done(b.conv(transpose(b, z, TO_NCHW), 4)))
    assert kinds(after) == {"Conv": 3, "Activation": 1, "Binary": 1, "Concat": 1}
    assert of_kind(after, "Concat")[0].op == Concat(axis=1)


def test_split_moves_all_its_outputs():
    b = Builder()
    pieces = b.graph.add(Split(axis=3, sizes=(4, 8)), [transpose(b, b.x, TO_NHWC)]).outputs
    after = _sunk(b.done(*[transpose(b, piece, TO_NCHW) for piece in pieces]))
    assert [node.op for node in after.nodes()] == [Split(axis=1, sizes=(4, 8))]


def test_reduction_that_drops_the_axes():
    b = Builder()
    y = b.graph.add(Reduce(mode="mean", axes=(1, 2), keepdims=False), [transpose(b, b.x, TO_NHWC)]).output
    after = _sunk(b.done(y))
    assert [node.op for node in after.nodes()] == [Reduce(mode="mean", axes=(2, 3), keepdims=False)]
    b = Builder()
    y = b.graph.add(Reduce(mode="mean", axes=(1,), keepdims=False), [transpose(b, b.x, TO_NHWC)]).output
    after = _sunk(b.done(y))  # what is left is W×C of C×W
    assert kinds(after) == {"Reduce": 1, "Transpose": 1} and of_kind(after, "Transpose")[0].op.perm == (0, 2, 1)


def test_gate_of_one_pixel_is_reshaped():
    """Squeeze and excite in NHWC: the gate is N×1×1×C."""
    b = Builder()
    x = transpose(b, b.conv(b.x, 12, 3), TO_NHWC)
    pooled = b.graph.add(GlobalPool(mode="average"), [b.x]).output
    gate = b.graph.add(Reshape(shape=("N", 1, 1, 12)), [pooled]).output
    after = _sunk(b.done(transpose(b, binary(b, "mul", x, gate), TO_NCHW)))
    assert "Transpose" not in kinds(after)


def test_transpose_of_unit_axes_is_a_reshape():
    b = Builder()
    y = transpose(b, b.graph.add(GlobalPool(mode="max"), [b.x]).output, TO_NHWC)
    after = _sunk(b.done(y, b.graph.add(Reshape(shape=("N", 12)), [y]).output))
    assert kinds(after) == {"GlobalPool": 1, "Reshape": 2}
    assert of_kind(after, "Reshape")[1].inputs == of_kind(after, "GlobalPool")[0].outputs


def test_transposes_compose():
    b = Builder()
    after = _sunk(b.done(transpose(b, transpose(b, b.x, (0, 2, 1, 3)), (0, 1, 3, 2))))
    assert [node.op for node in after.nodes()] == [Transpose(perm=(0, 2, 3, 1))]


def test_cancelled_twice_over():
    """A value that is itself again after two transposes, and is then transposed anew."""
    b = Builder()
    same = transpose(b, transpose(b, b.x, TO_NHWC), TO_NCHW)
    y = transpose(b, b.act(transpose(b, same, TO_NHWC)), TO_NCHW)
    after = _sunk(b.done(b.add(same, y)))
    assert kinds(after) == {"Activation": 1, "Binary": 1}


def test_output_in_nhwc_keeps_one():
    b = Builder()
    y = b.act(transpose(b, b.conv(b.x, 4), TO_NHWC))
    after = _sunk(b.done(y))
    assert [node.op.kind for node in after.nodes()] == ["Conv", "Activation", "Transpose"]


def test_nothing_to_do():
    b = Builder()
    graph = b.done(b.conv(transpose(b, b.x, (0, 1, 3, 2)), 4))
    after, outcome = applied(layout.run, graph)
    assert outcome.rewrites == 0 and not outcome.refusals and len(after) == 2


def test_more_transposes_are_refused():
    """Both the transposed value and its ReLU are needed transposed: two would be left of one."""
    b = Builder()
    x = transpose(b, b.x, (0, 1, 3, 2))
    reason = refusal(layout.run, b.done(b.conv(x, 4, (3, 1)), b.conv(b.act(x), 4, (1, 3))))
    assert reason == "2 transposes would be left of 1"


def test_a_refusal_does_not_stop_another_region():
    b = Builder()
    x = transpose(b, b.x, (0, 1, 3, 2))
    first, second = b.conv(x, 12, (3, 1)), b.conv(b.act(x), 12, (1, 3))
    y = transpose(b, b.act(transpose(b, b.add(first, second), TO_NHWC)), TO_NCHW)
    after, outcome = applied(layout.run, b.done(y))
    assert outcome.refusals and kinds(after)["Transpose"] == 1


def test_different_permutations_do_not_meet():
    b = Builder()
    x, y = transpose(b, b.x, (0, 1, 3, 2)), transpose(b, b.act(b.x), (0, 1, 2, 3))
    after, outcome = applied(layout.run, b.done(b.add(x, y)))
    assert outcome.rewrites == 1 and kinds(after) == {"Activation": 1, "Transpose": 1, "Binary": 1}


def keras_block(b: Builder, x: str, scale: np.ndarray) -> str:
    """A convolution as Keras on torch exports it: NCHW inside, NHWC around, batch normalisation in pieces."""
    y = transpose(b, b.conv(transpose(b, x, TO_NCHW), 12, 3, bias=False), TO_NHWC)
    y = binary(b, "sub", y, constant(b, scale[None, None, None]))
    return b.act(binary(b, "add", binary(b, "mul", y, constant(b, scale)), constant(b, scale**2)))


def test_keras_network_keeps_the_one_at_its_input():
    b = Builder(size=12)
    rng = np.random.default_rng(0)
    x = keras_block(b, b.x, rng.uniform(0.5, 1, 12))
    for _ in range(10):
        x = b.add(x, keras_block(b, x, rng.uniform(0.2, 0.4, 12)))
    after = _sunk(b.done(b.conv(transpose(b, x, TO_NCHW), 4)))
    assert kinds(after) == {"Transpose": 1, "Conv": 12, "Binary": 43, "Activation": 11}


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs(seed):
    """A cube, so that every permutation of its axes fits everywhere."""
    rng = np.random.default_rng(seed)
    b = Builder(channels=4, size=4, seed=seed)
    values = [b.x]
    for _ in range(25):
        x, y = (values[-1 - min(int(rng.geometric(0.4)) - 1, len(values) - 1)] for _ in range(2))
        match rng.integers(8):
            case 0 | 1 | 2:
                values.append(transpose(b, x, [TO_NHWC, TO_NCHW, (0, 2, 1, 3)][rng.integers(3)]))
            case 3:
                values.append(b.act(x, Act("leaky_relu", 0.5)))
            case 4:
                values.append(b.add(x, y))
            case 5:
                values.append(binary(b, "mul", x, b.constant(*[1, 4][: rng.integers(1, 3)], 1, scale=0.5, mean=1.0)))
            case 6:
                joined = b.graph.add(Concat(axis=int(rng.integers(1, 4))), [x, y]).output
                axis = b.graph.producer(joined).op.axis
                values.append(b.graph.add(Slice(starts=(2,), ends=(6,), axes=(axis,), steps=(1,)), [joined]).output)
            case _:
                values.append(b.conv(x, 4, (1, 3), bias=False))
    graph = b.done(*values[-3:])
    graph.prune()
    after, _ = applied(layout.run, graph)
    assert kinds(after)["Transpose"] <= kinds(graph)["Transpose"]
