import numpy as np
import pytest

from optgraph.ir.graph import Graph, Source
from optgraph.ir.values import BATCH, RELU, Act, Value
from optgraph.ops import Binary, Gemm, GlobalPool, Separable
from optgraph.passes.fuse import epilogue
from tests.support.networks import Builder, difference, inception_resnet, kinds, of_kind, preactivation_resnet, xception

SIGMOID = Act("sigmoid")


def fused(graph: Graph):
    """The graph after the pass and the outcome, the numbers compared."""
    after = graph.copy()
    outcome = epilogue.run(after)
    assert difference(graph, after) < 1e-12
    return after, outcome


def test_activation_into_a_convolution():
    b = Builder()
    after, outcome = fused(b.done(b.act(b.conv(b.x, 5), SIGMOID)))
    (conv,) = after.nodes()
    assert outcome.rewrites == 1 and not outcome.refusals
    assert conv.op.act == SIGMOID and not conv.op.post
    assert [name[:4] for name in conv.origin] == ["conv", "act_"]


@pytest.mark.parametrize("kind", ["Pool", "GlobalPool", "Affine", "Binary", "Separable"])
def test_activation_into_other_operators(kind):
    b = Builder(channels=6)
    if kind == "Pool":
        y = b.pool(b.x)
    elif kind == "GlobalPool":
        y = b.graph.add(GlobalPool(mode="average"), (b.x,)).output
    elif kind == "Affine":
        y = b.affine(b.x)
    elif kind == "Binary":
        y = b.graph.add(Binary(fn="mul"), (b.x, b.constant(6, 1, 1))).output
    else:
        op = Separable(kernel=(3, 3), pads=(1, 1, 1, 1))
        y = b.graph.add(op, (b.x, b.constant(6, 1, 3, 3), "", b.constant(4, 6, 1, 1), "")).output
    after, outcome = fused(b.done(b.act(y)))
    (node,) = after.nodes()
    assert outcome.rewrites == 1 and node.op.kind == kind
    assert (node.op.post if kind == "Binary" else node.op.act) == RELU


def test_activation_into_gemm():
    b = Builder()
    x = b.graph.add_input("v", Value((BATCH, 6)))
    y = b.graph.add(Gemm(), (x, b.constant(4, 6), b.constant(4)))
    graph = b.done(b.act(y.output))
    assert epilogue.run(graph).rewrites == 1
    assert of_kind(graph, "Gemm")[0].op.act == RELU and len(graph) == 1


def test_activation_stays_where_the_raw_value_is_needed():
    b = Builder()
    y = b.conv(b.x, 5)
    after, outcome = fused(b.done(b.act(y), y))
    assert outcome.rewrites == 0 and len(after) == 2
    assert [r.reason for r in outcome.refusals] == ["the output of 'conv' is also needed without the activation"]


def test_second_activation_stays():
    b = Builder()
    after, outcome = fused(b.done(b.act(b.act(b.conv(b.x, 5)), SIGMOID)))
    assert outcome.rewrites == 1 and kinds(after) == {"Conv": 1, "Activation": 1}
    assert [r.reason for r in outcome.refusals] == ["'conv' has an activation already"]


def test_activation_after_concat_stays():
    b = Builder()
    after, outcome = fused(b.done(b.act(b.concat(b.conv(b.x, 5), b.x))))
    assert outcome.rewrites == 0 and kinds(after)["Activation"] == 1


def test_activation_addition_and_its_activation():
    b = Builder()
    x = b.act(b.conv(b.x, 5, 3))
    y = b.act(b.conv(x, 5), SIGMOID)
    after, outcome = fused(b.done(b.act(b.add(x, y)), x))
    first, second = after.nodes()
    assert outcome.rewrites == 4
    assert second.op.act == SIGMOID and second.op.post == RELU and second.get("residual") == first.output
    assert [name[:4] for name in second.origin] == ["conv", "act_", "add_", "act_"]


def test_addition_with_an_activation_of_its_own():
    b = Builder()
    y = b.graph.add(Binary(fn="add", post=SIGMOID), (b.conv(b.x, 12, act=RELU), b.x)).output
    after, outcome = fused(b.done(y))
    (conv,) = after.nodes()
    assert outcome.rewrites == 1 and conv.op.act == RELU and conv.op.post == SIGMOID


@pytest.mark.parametrize("swap", [False, True])
def test_the_deeper_operand_takes_the_addition(swap):
    b = Builder()
    shallow, deep = b.conv(b.x, 5), b.conv(b.conv(b.x, 7), 5)
    after, outcome = fused(b.done(b.add(deep, shallow) if swap else b.add(shallow, deep)))
    (node,) = [node for node in after.nodes() if node.get("residual")]
    assert outcome.rewrites == 1 and node.output == deep and node.get("residual") == shallow


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("first", ["pool", "conv"])
def test_a_tie_goes_to_the_pool(swap, first):
    b = Builder()
    if first == "pool":
        pool, conv = b.pool(b.x, "max"), b.conv(b.x, 12, 5)
    else:
        conv, pool = b.conv(b.x, 12, 5), b.pool(b.x, "max")
    after, _ = fused(b.done(b.add(conv, pool) if swap else b.add(pool, conv)))
    assert of_kind(after, "Pool")[0].get("residual") == conv


@pytest.mark.parametrize("swap", [False, True])
def test_addition_goes_to_the_operand_that_may_take_it(swap):
    b = Builder()
    shallow, deep = b.conv(b.x, 5), b.conv(b.conv(b.x, 7), 5)
    after, outcome = fused(b.done(b.add(deep, shallow) if swap else b.add(shallow, deep), deep))
    assert outcome.rewrites == 1 and after.producer(shallow).get("residual") == deep


def test_addition_of_two_needed_values_stays_and_takes_its_activation():
    b = Builder()
    y, z = b.conv(b.x, 5), b.conv(b.x, 5, 3)
    after, outcome = fused(b.done(b.act(b.add(y, z)), y, z))
    assert outcome.rewrites == 1 and of_kind(after, "Binary")[0].op.post == RELU
    assert "is also needed without the addition" in outcome.refusals[0].reason


def test_addition_to_itself_stays():
    b = Builder()
    y = b.conv(b.x, 5)
    _, outcome = fused(b.done(b.add(y, y)))
    assert outcome.rewrites == 0 and "is also needed" in outcome.refusals[0].reason


def test_second_addition_stays():
    b = Builder()
    y = b.conv(b.x, 12)
    after, outcome = fused(b.done(b.add(b.add(y, b.x), b.x)))
    assert outcome.rewrites == 1 and kinds(after) == {"Conv": 1, "Binary": 1}
    assert [r.reason for r in outcome.refusals] == ["'conv' has a residual already"]


def test_activation_behind_a_concat():
    b = Builder()
    joined = b.concat(b.conv(b.x, 5), b.pool(b.x), b.add(b.conv(b.x, 12), b.x))
    graph = b.done(b.conv(b.act(joined), 3))
    graph.sources = {joined: Source("joined")}
    after, outcome = fused(graph)
    assert outcome.rewrites == 2 and kinds(after) == {"Conv": 3, "Pool": 1, "Concat": 1}
    (concat,) = of_kind(after, "Concat")
    producers = [after.producer(value) for value in concat.inputs]
    assert [(node.op.act, node.op.post) for node in producers] == [(RELU, Act())] * 2 + [(Act(), RELU)]
    assert all(f"act_{joined}" in node.origin for node in producers)
    assert concat.output not in after.sources  # it is no longer what the ONNX model calls so


def test_activation_behind_a_concat_stays_unless_all_take_it():
    b = Builder()
    _, outcome = fused(b.done(b.act(b.concat(b.conv(b.x, 5), b.x))))
    assert outcome.rewrites == 0
    assert [r.reason for r in outcome.refusals] == ["not all that is concatenated can take an activation"]
    b = Builder()
    y = b.conv(b.x, 5)
    _, outcome = fused(b.done(b.act(b.concat(y, b.pool(b.x))), y))
    assert [r.reason for r in outcome.refusals] == ["the output of 'conv' is also needed without the activation"]
    b = Builder()
    joined = b.concat(b.conv(b.x, 5), b.pool(b.x))
    _, outcome = fused(b.done(b.act(joined), joined))
    assert [r.reason for r in outcome.refusals] == ["the output of 'concat' is also needed without the activation"]


def test_broadcast_addition_stays():
    b = Builder()
    y = b.graph.add(GlobalPool(mode="average"), (b.conv(b.x, 5),)).output
    _, outcome = fused(b.done(b.add(b.conv(b.x, 5), y)))
    assert outcome.rewrites == 0 and [r.reason for r in outcome.refusals] == ["an operand is broadcast"]


def test_constant_operand_stays():
    b = Builder()
    x = b.graph.add_input("fixed", Value((1, 12, 9, 9)))
    graph = b.done(b.add(b.conv(x, 5), b.constant(1, 5, 9, 9)), b.x)
    outcome = epilogue.run(graph)
    assert outcome.rewrites == 0 and [r.reason for r in outcome.refusals] == ["an operand is constant"]


def test_subtraction_is_no_residual():
    b = Builder()
    y = b.graph.add(Binary(fn="sub"), (b.x, b.conv(b.x, 12))).output
    after, outcome = fused(b.done(y))
    assert outcome.rewrites == 0 and len(after) == 2


def test_networks():
    after, _ = fused(inception_resnet())
    assert kinds(after) == {"Conv": 9, "Concat": 1}
    assert sum(bool(node.get("residual")) and node.op.post == RELU for node in of_kind(after, "Conv")) == 1
    after, _ = fused(preactivation_resnet())
    assert not kinds(after)["Binary"] and kinds(after)["Activation"] == 0 and kinds(after)["Affine"] == 2
    first, second = fused(xception())[0], fused(xception(swap=True))[0]
    assert kinds(first)["Binary"] == 0 and of_kind(first, "Pool")[0].get("residual")
    assert [node.op for node in first.nodes()] == [node.op for node in second.nodes()]


def test_weights_are_shared():
    graph = inception_resnet()
    after = graph.copy()
    epilogue.run(after)
    assert all(np.shares_memory(array, graph.constants[name]) for name, array in after.constants.items())
