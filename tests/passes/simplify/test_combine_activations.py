import pytest

from optgraph.ir.values import RELU, Act
from optgraph.passes.simplify import combine_activations
from tests.support.networks import Builder, kinds
from tests.support.simplify_checks import applied, binary, refusal

GATES = [(Act("sigmoid"), Act("silu")), (Act("hard_sigmoid", 1 / 6, 0.5), Act("hard_swish"))]


@pytest.mark.parametrize("gate, expected", GATES)
@pytest.mark.parametrize("left", [False, True])
def test_gate(gate, expected, left):
    b = Builder()
    y = b.act(b.x, gate)
    after, outcome = applied(combine_activations.run, b.done(binary(b, "mul", *((y, b.x) if left else (b.x, y)))))
    (node,) = after.nodes()
    assert outcome.rewrites == 1 and node.op.act == expected and len(node.origin) == 2


@pytest.mark.parametrize("gate", [Act("tanh"), Act("hard_sigmoid", 0.2, 0.5), Act("hard_sigmoid", 1 / 6, 0.4)])
def test_other_gates_stay(gate):
    b = Builder()
    after, outcome = applied(combine_activations.run, b.done(binary(b, "mul", b.x, b.act(b.x, gate))))
    assert outcome.rewrites == 0 and kinds(after) == {"Activation": 1, "Binary": 1}


def test_gate_of_another_value():
    b = Builder()
    y = b.act(b.x, RELU)
    values = binary(b, "mul", y, b.act(b.x, Act("sigmoid"))), binary(b, "add", b.x, b.act(b.x, Act("sigmoid")))
    _, outcome = applied(combine_activations.run, b.done(*values))
    assert outcome.rewrites == 0


CLIPS = [
    ((RELU, RELU), RELU),
    ((RELU, Act("clip", -1.0, 0.5)), Act("clip", 0.0, 0.5)),
    ((Act("clip", -0.5, 0.7), RELU), Act("clip", 0.0, 0.7)),
    ((Act("clip", -0.5, 0.5), Act("clip", -0.2, 0.9)), Act("clip", -0.2, 0.5)),
    ((Act("clip", -0.5, 0.5), Act("clip", -0.7, 0.9), RELU), Act("clip", 0.0, 0.5)),
]


@pytest.mark.parametrize("acts, expected", CLIPS)
def test_clips(acts, expected):
    b = Builder()
    y = b.x
    for act in acts:
        y = b.act(y, act)
    after, outcome = applied(combine_activations.run, b.done(y))
    assert outcome.rewrites == len(acts) - 1 and [node.op.act for node in after.nodes()] == [expected]


def test_clip_of_something_else():
    b = Builder()
    after, outcome = applied(combine_activations.run, b.done(b.act(b.act(b.x, Act("tanh"))), b.act(b.conv(b.x, 4))))
    assert outcome.rewrites == 0 and len(after) == 4


@pytest.mark.parametrize("gated", [False, True])
def test_inner_activation_read_elsewhere(gated):
    b = Builder()
    inner = b.act(b.x, Act("sigmoid") if gated else RELU)
    outer = binary(b, "mul", b.x, inner) if gated else b.act(inner, Act("clip", 0.0, 0.5))
    assert "needed elsewhere" in refusal(combine_activations.run, b.done(outer, b.conv(inner, 4)))
