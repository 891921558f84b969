from optgraph.ir.graph import Graph
from optgraph.ir.values import Value
from optgraph.ops import Cast, Gemm, Reduce, Reshape, Softmax, Transpose
from optgraph.passes.simplify import layout_ends
from tests.support.networks import Builder, kinds, of_kind
from tests.support.simplify_checks import TO_NCHW, TO_NHWC, applied, binary, refusal, transpose


def test_preprocessing_in_nhwc():
    b = Builder(channels=9, size=9)
    y = b.graph.add(Cast(to="float32"), [b.x]).output
    y = binary(b, "sub", binary(b, "mul", b.constant(1, mean=3.0), y), b.constant(1, 1, 9))
    after, outcome = applied(layout_ends.run, b.done(b.conv(transpose(b, y, TO_NCHW), 4, 3)))
    assert outcome.rewrites == 1
    assert [node.op.kind for node in after.nodes()] == ["Transpose", "Cast", "Binary", "Binary", "Conv"]
    assert after.shape(of_kind(after, "Binary")[1].inputs[1]) == (1, 9, 1, 1)


def test_input_read_twice_is_left():
    b = Builder()
    y = b.act(b.x)
    after, outcome = applied(layout_ends.run, b.done(transpose(b, y, TO_NHWC), b.conv(b.x, 4)))
    assert outcome.rewrites == 0 and kinds(after)["Transpose"] == 1


def test_operator_that_changes_the_rank():
    b = Builder()
    y = b.graph.add(Reduce(mode="max", axes=(2,), keepdims=False), [b.x]).output
    assert "changes the rank" in refusal(layout_ends.run, b.done(transpose(b, y, (0, 2, 1))))
    b = Builder()
    y = binary(b, "mul", b.x, b.constant(2, 1, 12, 1, 1))
    assert "changes the rank" in refusal(layout_ends.run, b.done(transpose(b, y, (1, 0, 2, 3, 4))))


def test_operator_that_does_not_move():
    b = Builder()
    after, outcome = applied(layout_ends.run, b.done(transpose(b, b.conv(b.x, 4), TO_NHWC)))
    assert outcome.rewrites == 0 and len(after) == 2


def _head(b: Builder, perm: tuple[int, ...], shape: tuple) -> tuple[str, str]:
    turned = transpose(b, b.conv(b.x, 4, 3), perm)
    flat = b.graph.add(Reshape(shape=shape), [turned]).output
    w, bias = b.constant(7, b.graph.shape(flat)[1], scale=0.1), b.constant(7)
    return flat, b.graph.add(Gemm(), [flat, w, bias]).output


def test_flattened_nhwc_image():
    b = Builder()
    _, y = _head(b, TO_NHWC, ("N", -1))
    graph = b.done(b.graph.add(Softmax(axis=1), [y]).output)
    after, outcome = applied(layout_ends.run, graph)
    assert outcome.rewrites == 1 and kinds(after) == {"Conv": 1, "Reshape": 1, "Gemm": 1, "Softmax": 1}


def test_any_permutation_of_the_image():
    b = Builder(size=5)
    x = b.graph.add(Reshape(shape=("N", 12, 5, 5)), [b.x]).output
    sliced = b.pool(x, "max", stride=2)
    flat = b.graph.add(Reshape(shape=("N", 108)), [transpose(b, sliced, (0, 3, 1, 2))]).output
    y = b.graph.add(Gemm(), [flat, b.constant(7, 108)]).output
    after, outcome = applied(layout_ends.run, b.done(y))
    assert outcome.rewrites == 1 and "Transpose" not in kinds(after)


def test_flattened_image_read_elsewhere():
    b = Builder()
    flat, y = _head(b, TO_NHWC, ("N", -1))
    assert "needed elsewhere" in refusal(layout_ends.run, b.done(y, flat))


def test_batch_that_moves():
    b = Builder()
    graph = Graph()
    x = graph.add_input("x", Value((3, 3, 2, 2)))
    turned = graph.add(Transpose(perm=(1, 0, 2, 3)), [x]).output
    flat = graph.add(Reshape(shape=(3, 12)), [turned]).output
    weight = graph.add_constant(b.graph.constants[b.constant(7, 12)])
    graph.outputs["y"] = graph.add(Gemm(), [flat, weight]).output
    assert "batch" in refusal(layout_ends.run, graph)


def test_flattened_image_times_a_computed_weight():
    b = Builder()
    turned = transpose(b, b.conv(b.x, 4, 3), TO_NHWC)
    flat = b.graph.add(Reshape(shape=("N", -1)), [turned]).output
    weight = b.act(b.constant(7, 324))
    y = b.graph.add(Gemm(), [flat, weight]).output
    assert "not a constant" in refusal(layout_ends.run, b.done(y))
