import numpy as np

from optgraph.ir.graph import Graph
from optgraph.ir.values import Value
from optgraph.onnx import read
from optgraph.ops import Reshape
from optgraph.passes.simplify import fold_shapes
from tests.support.networks import Builder, kinds
from tests.support.simplify_checks import applied, binary, constant, opaque


def test_static_shape_is_a_constant():
    graph = Graph()
    x = graph.add_input("x", Value((2, 3, 5, 7)))
    graph.outputs = {
        "shape": opaque(graph, "Shape", [x], (4,), dtype="int64").output,
        "image": opaque(graph, "Shape", [x], (2,), dtype="int64", start=-2).output,
        "channels": opaque(graph, "Shape", [x], (1,), dtype="int64", start=1, end=2).output,
        "size": opaque(graph, "Size", [x], (), dtype="int64").output,
    }
    assert fold_shapes.run(graph).rewrites == 4
    graph.verify()
    folded = {name: graph.constants[value].tolist() for name, value in graph.outputs.items()}
    assert folded == {"shape": [2, 3, 5, 7], "image": [5, 7], "channels": [3], "size": 210}


def test_only_the_asked_dimensions_must_be_known():
    graph = Graph()
    x = graph.add_input("x", Value(("N", 3, 5, 7)))
    graph.outputs = {
        "image": opaque(graph, "Shape", [x], (2,), dtype="int64", start=2).output,
        "all": opaque(graph, "Shape", [x], (4,), dtype="int64").output,
    }
    outcome = fold_shapes.run(graph)
    assert outcome.rewrites == 1 and len(graph) == 1 and "only when the model runs" in outcome.refusals[0].reason


def test_reshape_with_a_known_shape():
    b = Builder()
    shape = constant(b, [0, 3, -1], "int64")
    y = opaque(b.graph, "Reshape", [b.x, shape], ("N", 3, 324)).output
    after, outcome = applied(fold_shapes.run, b.done(b.act(y)))
    assert outcome.rewrites == 1 and not after.constants
    assert after.nodes()[0].op == Reshape(shape=("N", 3, 324))


def test_reshape_that_contradicts_the_graph():
    b = Builder()
    y = opaque(b.graph, "Reshape", [b.x, constant(b, [0, 3, -1], "int64")], ("N", "?", 324)).output
    outcome = fold_shapes.run(b.done(y))
    assert outcome.rewrites == 0 and "later nodes" in outcome.refusals[0].reason
    b = Builder()
    y = opaque(b.graph, "Reshape", [b.x, constant(b, [0, 5, -1], "int64")], ("N", 3, 324)).output
    outcome = fold_shapes.run(b.done(y))
    assert outcome.rewrites == 0 and "cannot reshape" in outcome.refusals[0].reason


def test_expand():
    b = Builder()
    y = opaque(b.graph, "Expand", [b.x, constant(b, [1, 12, 1, 9], "int64")], ("N", 12, 9, 9)).output
    after, outcome = applied(fold_shapes.run, b.done(binary(b, "add", b.x, y)))
    assert outcome.rewrites == 1 and kinds(after) == {"Binary": 1, "Reshape": 1}
    b = Builder()
    y = opaque(b.graph, "Expand", [b.x, constant(b, [2, 1, 12, 9, 9], "int64")], (2, "N", 12, 9, 9)).output
    after, outcome = applied(fold_shapes.run, b.done(y))
    assert outcome.rewrites == 1 and kinds(after) == {"Expand": 1}


def test_a_symbolic_batch_through_import():
    """The usual `x.view(x.size(0), -1)`, which import resolves, leaves nothing behind."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"], axis=0),
        helper.make_node("Unsqueeze", ["batch", "zero"], ["front"]),
        helper.make_node("Concat", ["front", "minus"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    initializers = [numpy_helper.from_array(np.array(v), n) for n, v in (("zero", 0), ("minus", [-1]))]
    initializers[0].dims[:] = []
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [info("x", TensorProto.FLOAT, ["b", 3, 4, 4])], [info("y", TensorProto.FLOAT, None)], initializers
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    imported = read.read(model)
    fold_shapes.run(imported)
    assert kinds(imported) == {"Reshape": 1} and imported.shape(imported.outputs["y"]) == ("N", 48)
