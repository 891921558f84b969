"""What import knows of values: constants of any operators, sizes with an open batch, conditions."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

import optgraph
from optgraph.base.budget import Budget
from optgraph.base.errors import InputError, ModelError
from optgraph.onnx.read import read
from optgraph.onnx.sessions import InnerValues, session
from optgraph.onnx.write import to_onnx
from optgraph.run import reference

IMAGE = "float[N,4,6,10] x"
ROWS = "float[N,4] x"


def parsed(inputs: str, body: str, opset: int = 17, output: str = "float[] y") -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => ({output}) {body}')
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return model


def right(model: onnx.ModelProto, batches: tuple[int, ...] = (1, 2, 3)) -> optgraph.ir.graph.Graph:
    """Asserts that the imported graph, and the simplified file, answer as ONNX Runtime does; returns the former."""
    graph = read(model)
    written = session(to_onnx(optgraph.simplify(graph)).SerializeToString(), optimize=False)
    running = session(model.SerializeToString(), optimize=False)
    names = [output.name for output in model.graph.output]
    for batch in batches:
        shape = [batch if isinstance(d, str) else d for d in graph.shape("x")]
        feeds = {"x": np.random.default_rng(batch).normal(size=shape).astype(np.float32)}
        wanted = running.run(names, feeds)
        ours = reference.run(graph, feeds)
        for name, want, file in zip(names, wanted, written.run(names, feeds), strict=True):
            for got in (ours[name].numpy(), file):
                assert got.shape == want.shape
                np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    return graph


SIZES = {
    "the batch times a number, and back": """<int64[1] axis = {0}, int64[2] rest = {6, 10}, int64 four = {4}>
        { s = Shape <start: int = 0, end: int = 1> (x) m = Mul (s, four) t = Concat <axis: int = 0> (m, rest)
           r = Reshape (x, t) q = Shape (r) zero = Constant <value_int: int = 0> () n = Gather (q, zero)
           b = Div (n, four) bu = Unsqueeze (b, axis) left = Constant <value_ints: ints = [4, -1]> ()
           u = Concat <axis: int = 0> (bu, left) e = Exp (r) y = Reshape (e, u) }""",
    "attention within windows": """<int64[6] t = {-1,4,2,3,2,5}, int64[3] u = {-1,15,4}, int64[4] v = {-1,60,4,1}>
        { r = Reshape (x, t) p = Transpose <perm: ints = [0,2,4,3,5,1]> (r) w = Reshape (p, u)
          q = Transpose <perm: ints = [0,2,1]> (w) s = MatMul (w, q) a = Softmax (s) o = MatMul (a, w)
          y = Reshape (o, v) }""",
    "all in one row": """<int64[2] t = {1, -1}> { y = Reshape (x, t) }""",
    "flattened over the batch": """{ f = Flatten <axis: int = 3> (x) e = Exp (f) y = Flatten <axis: int = 0> (e) }""",
    "two batches joined": """{ e = Exp (x) y = Concat <axis: int = 0> (x, e) }""",
    "a batch more is a batch twice": """<int64[3] rest = {4, 6, 10}>
        { c = Concat <axis: int = 0> (x, x) n = Shape <end: int = 1> (x) m = Add (n, n)
          t = Concat <axis: int = 0> (m, rest) y = Reshape (c, t) }""",
    "expanded to five batches": """<int64[1] five = {5}, int64[1] seven = {7}, float[1,7] k = {1,2,3,4,5,6,7}>
        { n = Shape <end: int = 1> (x) m = Mul (n, five) t = Concat <axis: int = 0> (m, seven) y = Expand (k, t) }""",
    "scales of a whole shape as floats": """{ d = MaxPool <kernel_shape: ints = [2, 2], strides: ints = [2, 2]> (x)
          s = Shape (x) sf = Cast <to: int = 1> (s) t = Shape (d) tf = Cast <to: int = 1> (t) k = Div (sf, tf)
          y = Resize <mode: string = "nearest"> (d, , k) }""",
    "half of a size, rounded": """<float half = {0.5}, int64[1] i2 = {2}, int64[1] i4 = {4}, int64[1] i0 = {0}>
        { s = Shape (x) hw = Slice (s, i2, i4, i0) f = Cast <to: int = 1> (hw) m = Mul (f, half) o = Floor (m)
          z = Cast <to: int = 7> (o) bc = Slice (s, i0, i2, i0) t = Concat <axis: int = 0> (bc, z)
          y = Resize <mode: string = "linear"> (x, , , t) }""",
    "a grid of cells": """<int64 three = {3}, float start = {0.0}, float step = {1.0}, float half = {0.5}>
        { s = Shape (x) w = Gather (s, three) f = Cast <to: int = 1> (w) r = Range (start, f, step) g = Add (r, half)
          y = Mul (x, g) }""",
    "a mask of ones for the batch": """<int64[3] rest = {1, 6, 10}>
        { n = Shape <end: int = 1> (x) t = Concat <axis: int = 0> (n, rest)
          m = ConstantOfShape <value: tensor = float[1] {2.0}> (t) y = Concat <axis: int = 1> (x, m) }""",
    "torch's expand(-1, ...)": """<int64[4] given = {-1, 4, 6, 10}, int64 minus = {-1}, float[1,4,1,1] k = {1,2,3,4}>
        { s = Shape (x) ones = Shape (s) o = ConstantOfShape <value: tensor = int64[1] {1}> (ones)
          e = Equal (given, minus) t = Where (e, o, given) b = Expand (k, t) y = Mul (x, b) }""",
    "padding to the same size, as torch traces it": """<float two = {2.0}, float none = {0.0}, int64 three = {3},
          int64[1] axis = {0}, int64[7] before = {0,0,0,0,0,0,0}>
        { s = Shape (x) w = Gather (s, three) f = Cast <to: int = 1> (w) h = Div (f, two) r = Sub (f, h)
          k = Clip (r, none, ) i = Cast <to: int = 7> (k) u = Unsqueeze (i, axis)
          p = Concat <axis: int = 0> (before, u) y = Pad (x, p) }""",
    "the size of all": """<int64 two = {2}, int64[1] axis = {0}>
        { n = Size (x) h = Div (n, two) u = Unsqueeze (h, axis) z = Concat <axis: int = 0> (u, c) y = Reshape (x, z)
          c = Constant <value_ints: ints = [2]> () }""",
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_with_an_open_batch(name: str) -> None:
    model = parsed(IMAGE, SIZES[name])
    # Written in the order of thought, the nodes of one are not in that of computing.
    nodes = sorted(model.graph.node, key=lambda node: node.op_type != "Constant")
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    right(model)


@pytest.mark.parametrize(
    "name", ["the batch times a number, and back", "two batches joined", "attention within windows"]
)
def test_multiples_of_the_batch_through_the_kernels(name: str, tmp_path) -> None:
    model = parsed(IMAGE, SIZES[name])
    nodes = sorted(model.graph.node, key=lambda node: node.op_type != "Constant")
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    optgraph.compile(model, "interpret").save(tmp_path / "net.optgraph")
    net = optgraph.load(tmp_path / "net.optgraph", "interpret")
    for batch in (1, 3):
        x = np.random.default_rng(0).normal(size=(batch, 4, 6, 10)).astype(np.float32)
        (wanted,) = session(model.SerializeToString(), optimize=False).run(["y"], {"x": x})
        np.testing.assert_allclose(net(x), wanted, rtol=1e-5, atol=1e-6)


UNKNOWN = {
    "half a batch": """<int64 two = {2}, int64[1] rest = {8}>
        { n = Shape <end: int = 1> (x) h = Div (n, two) t = Concat <axis: int = 0> (h, rest) y = Reshape (x, t) }""",
    "a batch of one": """<int64[2] t = {1, 4}> { y = Reshape (x, t) }""",
    "rows of eight": """<int64[2] t = {-1, 8}> { y = Reshape (x, t) }""",
    "more rows than images": """{ a = Concat <axis: int = 0> (x, x) y = Add (a, x) }""",
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_only_a_fixed_batch_makes_known(name: str) -> None:
    model = parsed(ROWS, UNKNOWN[name])
    with pytest.raises(ModelError) as raised:
        optgraph.compile(model, "torch").plan()
    assert "fix the batch with --input-shape 1,4" in str(raised.value) and "\n" not in str(raised.value)


CONSTANTS = {
    "a bias as dynamo writes it": """<float[3,4,1,1] w = {1,2,3,4,5,6,7,8,9,10,11,12}, float zero = {0.25}>
        { s = Shape <start: int = 0, end: int = 1> (w) b = Expand (zero, s) c = CastLike (b, w) o = Shape (c)
          d = Expand (c, o) y = Conv (x, w, d) }""",
    "a weight that a training batchnorm standardises": """<float[3,4,1,1] w = {1,2,3,5,5,6,7,9,9,10,12,12},
          float[3] g = {0.5,0.25,2}, float[3] z = {0,1,0}, float[3] n = {0,1,0}, float[3] o = {1,1,1},
          int64[3] t = {1,3,4}, int64[4] back = {3,4,1,1}>
        { r = Reshape (w, t) b, m, v = BatchNormalization <training_mode: int = 1> (r, g, z, n, o) k = Reshape (b, back)
          y = Conv (x, k) }""",
    "a quantised weight": """<int8[3,4,1,1] q = {1,2,3,4,5,6,7,8,9,10,11,12}, float[3] scale = {0.5,0.25,2},
          int8[3] zero = {1,2,3}>
        { w = DequantizeLinear <axis: int = 0> (q, scale, zero) y = Conv (x, w) }""",
    "a target of any arithmetic": """<float[2] a = {1.5, 5.5}, int64[2] front = {0, 0}>
        { b = Sqrt (a) c = Mul (b, b) d = Round (c) e = CumSum (d, i) f = Cast <to: int = 7> (e)
          m = ReduceMin <keepdims: int = 1> (f) r = Concat <axis: int = 0> (front, m, l) y = Reshape (x, r) }""",
    "indices that are not zero": """<int64[4] a = {0, 3, 0, 1}>
        { z = NonZero (a) p = Squeeze (z) y = Gather <axis: int = 1> (x, p) }""",
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_of_any_operators(name: str) -> None:
    model = parsed(IMAGE, CONSTANTS[name])
    for extra, value in (("i", np.array(0)), ("l", np.array([-1]))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, extra))
    right(model)


def test_random_numbers_are_not_folded_at_import() -> None:
    body = """{ r = RandomNormal <shape: ints = [4, 1, 1]> () c = Abs (r) y = Mul (x, c) }"""
    kinds = [node.op.kind for node in read(parsed(IMAGE, body)).nodes()]
    assert "RandomNormal" in kinds


def test_a_constant_over_the_budget_stays_in_the_graph() -> None:
    body = """<int64[2] t = {1024, 1024}, float k = {2.0}> { e = Tile (u, t) m = ReduceMax <keepdims: int = 0> (e)
        y = Mul (x, m) }"""
    model = parsed(IMAGE, body)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((1, 1), np.float32), "u"))
    right(model)
    small = read(model, budget=Budget(folded_bytes=4096))
    assert max(array.nbytes for array in small.constants.values()) < 4096


BRANCHES = {
    "of a known size": "{ s = Shape (x) c = Equal (d, four) y = If (c) %s d = Gather (s, one) }",
    "of a constant": "{ c = Constant <value: tensor = bool {0}> () y = If (c) %s }",
    "of the rank": "{ s = Shape (x) r = Size (s) c = Greater (r, two) y = If (c) %s }",
    "of a batch that is never none": "{ s = Shape (x) d = Gather (s, nought) c = Greater (d, nought) y = If (c) %s }",
}
TAKEN = """<then_branch = then () => (float[] t) <float k = {2.0}> { a = Mul (x, k) t = Exp (a) },
    else_branch = else () => (float[] e) { a = Neg (x) e = Exp (a) }>"""
NUMBERS = {"nought": 0, "one": 1, "two": 2, "four": 4}


def branched(body: str, inputs: str = ROWS) -> onnx.ModelProto:
    model = parsed(inputs, body)
    for name, value in NUMBERS.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value), name))
    order = {"Constant": 0, "Shape": 1, "Size": 2, "Gather": 2, "Equal": 3, "Greater": 3}
    nodes = sorted(model.graph.node, key=lambda node: order.get(node.op_type, 4))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


@pytest.mark.parametrize("name", BRANCHES)
def test_a_branch_that_is_known(name: str) -> None:
    graph = right(branched(BRANCHES[name] % TAKEN))
    assert {node.op.kind for node in graph.nodes()} <= {"Binary", "Activation"}


def test_branches_of_equal_names_nested_ones_and_outer_values() -> None:
    """Two with the same names inside, one of them inside another."""
    inner = TAKEN.replace("a = ", "b = ").replace("(a)", "(b)")
    body = f"""{{ c = Constant <value: tensor = bool {{1}}> () p = If (c) {TAKEN} q = If (c) {TAKEN}
        r, s, y2 = If (c) <then_branch = outer () => (float[] i, float[] i2, float[] i3)
            {{ a = Neg (p) i = If (c) {inner} i2 = Add (a, i) i3 = Neg (i2) }},
          else_branch = other () => (float[] z, float[] z2, float[] z3) {{ z = Neg (x) z2 = Neg (z) z3 = Neg (z2) }}>
        u = Add (q, r) v = Add (u, s) y = Add (v, y2) }}"""
    model = branched(body)
    graph = right(model)
    x = {"x": np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)}
    inside = InnerValues(model)
    names = [name for name in graph.sources if name in inside]
    (values,) = inside.run(names, x)
    ours = reference.run(graph, x, keep=names)
    assert {"p", "q", "r", "s"} <= set(names)
    for name in names:
        np.testing.assert_allclose(ours[name], values[name], rtol=1e-5)


@pytest.mark.parametrize("condition", ["Equal (d, one)", "Greater (d, four)", "Equal (d, two)"])
def test_a_condition_on_the_open_batch_is_not_known(condition: str) -> None:
    model = branched(f"{{ s = Shape (x) d = Gather (s, nought) c = {condition} y = If (c) {TAKEN} }}")
    with pytest.raises(ModelError, match=r"\(If\): control flow is not supported.*trace the model"):
        read(model)
    assert read(model, input_shape=(2, 4)).nodes()


def test_a_branch_that_hands_through_a_value_from_around_it() -> None:
    """ONNX Runtime wants an Identity there."""
    body = "{ c = Constant <value: tensor = bool {1}> () a = Neg (x) y = If (c) <then_branch = t () => (float[] a) {}, "
    model = parsed(ROWS, body + "else_branch = e () => (float[] b) { b = Exp (x) }> }")
    x = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(reference.run(read(model), {"x": x})["y"], -x)


def test_a_number_out_of_a_shape_with_the_batch_is_a_constant() -> None:
    """As attention scales by the root of its width."""
    body = """{
        shape = Shape(x)
        one = Constant<value = int64[1] {1}>()
        channels = Gather(shape, one)
        number = Cast<to = 1>(channels)
        root = Sqrt(number)
        y = Div(x, root)
    }"""
    graph = optgraph.simplify(right(parsed(IMAGE, body)))
    assert len(graph) == 1


def test_batchnorm_of_weights_in_training_mode_is_a_constant() -> None:
    """As standardised weights are exported; of the network's own values it stays refused."""
    body = """{
        scale = Constant<value = float[3] {1.0, 2.0, 0.5}>()
        zeros = Constant<value = float[3] {0.0, 0.0, 0.0}>()
        raw = Constant<value = float[1,3,4] {1.0, 2.0, 4.0, 8.0, 3.0, 1.0, 0.0, 5.0, -1.0, -2.0, 3.0, 0.5}>()
        own, mean, var = BatchNormalization<training_mode = 1, momentum = 1.0>(raw, scale, zeros, zeros, scale)
        shape = Constant<value = int64[4] {3, 4, 1, 1}>()
        w = Reshape(own, shape)
        y = Conv(x, w)
    }"""
    assert [node.op.kind for node in optgraph.simplify(right(parsed(IMAGE, body))).nodes()] == ["Conv"]
    moved = body.replace("(raw,", "(x,").replace("Conv(x, w)", "Identity(own)")
    with pytest.raises(ModelError, match="training mode"):
        read(parsed("float[N,3,6,10] x", moved))


MESSAGES = {
    "the sizes of an OCR network": (
        "float[N,3,48,W] x",
        "(N,3,48,?): fix it with --input-shape N,3,48,W, with numbers for W",
    ),
    "channels last": ("float[B,H,W,3] x", "--input-shape N,H,W,3, with numbers for H and W"),
    "one of two inputs": ("float[N,3,48,W] x, float[N,2] z", "--input-shape x=N,3,48,W, with numbers for W"),
    "no shape at all": ("float[] x, float[N,2] z", "--input-shape x=N,C,H,W, with numbers for C, H and W"),
    "by the model's own name": ("float[3,frames,5] x", "--input-shape 3,frames,5, with numbers for frames"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_an_open_size_is_told_by_this_inputs_own_dimensions(name: str) -> None:
    inputs, says = MESSAGES[name]
    with pytest.raises(ModelError) as raised:
        read(parsed(inputs, "{ y = Exp (x) }"))
    assert says in str(raised.value) and "299" not in str(raised.value)


def test_the_batch_of_every_input_is_to_be_fixed() -> None:
    body = "<int64[2] t = {1, 4}> { r = Reshape (x, t) y = Add (r, k) }"
    with pytest.raises(ModelError, match=r"fix the batch with --input-shape x=1,4 --input-shape k=2,4$"):
        read(parsed("float[N,4] x, float[2,4] k", body))


def test_inputs_with_an_open_first_dimension_have_one_batch() -> None:
    model = parsed("float[N,4,6,10] x, float[M,4,1,1] k", "{ y = Mul (x, k) }")
    net = optgraph.compile(model, "torch")
    x, k = np.ones((3, 4, 6, 10), np.float32), np.full((3, 4, 1, 1), 2, np.float32)
    np.testing.assert_array_equal(net({"x": x, "k": k}), 2 * x)
    with pytest.raises(InputError, match="inputs of different batch sizes: 3 and 1"):
        net({"x": x, "k": k[:1]})


def test_a_scalar_of_a_shape_may_be_negated() -> None:
    body = """{
        shape = Shape(x)
        one = Constant<value = int64 {1}>()
        channels = Gather(shape, one)
        minus = Neg(channels)
        number = Cast<to = 1>(minus)
        y = Mul(x, number)
    }"""
    assert len(optgraph.simplify(right(parsed(IMAGE, body)))) == 1
