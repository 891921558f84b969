"""What is kept as it came: run by ONNX, written as it was or in the meaning of a later opset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

import optgraph
from optgraph import ops
from optgraph.base.errors import ModelError
from optgraph.ir.graph import Graph
from optgraph.ir.op import Op
from optgraph.ir.values import RELU, Value
from optgraph.onnx.write import to_onnx
from optgraph.run.reference import Executor, run
from tests.support.definitions import ACT, rand
from tests.support.onnx_checks import add_opaque, exported, imported, single, types, weights

# ---- reference, against the definition


def alone(op: Op, name: str) -> Graph:
    """x of N×4 -> op -> y."""
    graph = Graph()
    x = graph.add_input("x", Value(("N", 4)))
    graph.outputs = {"y": graph.add(op, [x], name=name).output}
    return graph


def opaque(
    op_type: str, inputs: Sequence[str], values: Sequence[Value], domain: str = "", **attrs: object
) -> ops.Opaque:
    outputs = [f"o{i}" for i in range(len(values))]
    proto = helper.make_node(op_type, list(inputs), outputs, domain=domain, **attrs).SerializeToString()
    return ops.Opaque(op_type=op_type, domain=domain, proto=proto, values=tuple(values))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_opaque_runs_in_onnx(dtype: torch.dtype) -> None:
    x = torch.tensor([[-1.0, 2.0, -0.5, 0.25]], dtype=dtype)
    out = run(alone(opaque("Elu", ["a"], [Value(("N", 4))], alpha=0.5), "elu"), {"x": x}, dtype)["y"]
    assert out.dtype == dtype
    expected = torch.where(x > 0, x, 0.5 * (x.double().exp() - 1).to(dtype))
    torch.testing.assert_close(out, expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-6, atol=0)


def test_opaque_with_an_absent_input_and_two_outputs() -> None:
    graph = Graph()
    x = graph.add_input("x", Value((2, 4)))
    k = graph.add_constant(np.array([2], np.int64))
    top = opaque("TopK", ["a", "b"], [Value((2, 2)), Value((2, 2), "int64")])
    values, places = graph.add(top, [x, k]).outputs
    low = graph.add_constant(np.array(3.0, np.float32))
    clipped = graph.add(opaque("Clip", ["a", "", "c"], [Value((2, 2))]), [values, "", low]).output
    graph.outputs = {"clipped": clipped, "places": places}
    found = run(graph, {"x": np.array([[1.0, 5.0, 2.0, 0.0], [9.0, -1.0, 1.0, 2.0]])}, torch.float64)
    assert found["clipped"].tolist() == [[3.0, 2.0], [3.0, 2.0]]
    assert found["places"].tolist() == [[1, 2], [0, 3]]
    assert found["places"].dtype == torch.int64


def test_it_means_what_it_meant_in_its_opset() -> None:
    """Clip had attributes until opset 11; Softmax ran over all axes from `axis` on until 13."""
    clip = alone(opaque("Clip", ["a"], [Value(("N", 4))], min=1.5, max=3.0), "clip")
    clip.opset = 6
    assert run(clip, {"x": np.array([[1.0, 2.0, 3.0, 4.0]])})["y"].tolist() == [[1.5, 2.0, 3.0, 3.0]]
    graph = Graph()
    x = graph.add_input("x", Value(("N", 2, 3)))
    graph.outputs = {"y": graph.add(opaque("Softmax", ["a"], [Value(("N", 2, 3))], axis=1), [x]).output}
    data = rand(2, 2, 3)
    exp = np.exp(data)
    for opset, axes in ((12, (1, 2)), (13, (1,))):
        graph.opset = opset
        out = run(graph, {"x": data}, torch.float64)["y"].numpy()
        np.testing.assert_allclose(out, exp / exp.sum(axes, keepdims=True), rtol=1e-12)


@pytest.mark.parametrize(
    ("op_type", "domain", "message"),
    [
        ("Nonsense", "", "ONNX opset 17 has no such operator"),
        ("FusedConv", "com.microsoft", "nothing here computes it"),
    ],
)
def test_an_operator_onnx_does_not_know(op_type: str, domain: str, message: str) -> None:
    graph = alone(opaque(op_type, ["a"], [Value(("N", 4))], domain), "odd")
    graph.domains = {"": 17, "com.microsoft": 1}
    with pytest.raises(ModelError, match=rf"node 'odd' \({op_type}\): {message}"):
        Executor(graph)


# ---- ONNX out, in ONNX Runtime against the reference


def test_opaque_as_it_came() -> None:
    graph = single(ops.Activation(act=RELU))
    graph.opset = 13
    add_opaque(graph, "Elu", alpha=0.5)
    model = exported(graph)
    assert types(model) == ["Relu", "Elu"]
    assert (model.graph.node[1].name, model.graph.node[1].attribute[0].f) == ("ours", 0.5)


def test_opaque_is_written_in_the_opset_that_gave_it_its_meaning() -> None:
    """Not in the file's own, which may be newer than other programs know."""
    for source, written in ((21, 17), (23, 22)):  # Atan took more types in opset 22, and was the same from 7 on
        graph = single(ops.Activation(act=RELU))
        graph.opset = source
        add_opaque(graph, "Atan")
        assert exported(graph).opset_import[0].version == written


def test_opaque_of_an_old_opset_is_converted() -> None:
    """Softmax ran over all axes from `axis` on until opset 13; Upsample became Resize."""
    graph = single(ops.Activation(act=ACT["tanh"]))
    graph.opset = 9
    add_opaque(graph, "Softmax", axis=1)
    add_opaque(graph, "Upsample", np.array([1, 1, 2, 2], np.float32), shape=("N", 4, 18, 16), mode="nearest")
    model = to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == 17
    assert "Upsample" not in types(model)
    x = weights(2, 4, 9, 8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    exp = np.exp(np.tanh(x))
    expected = exp / exp.sum((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected.repeat(2, 2).repeat(2, 3), rtol=1e-5)


def test_opaque_of_another_domain_imports_it() -> None:
    graph = single(ops.Activation(act=ACT["tanh"]), shape=("N", 4))
    proto = helper.make_node("Normalizer", ["a"], ["b"], domain="ai.onnx.ml", norm="L2")
    op = ops.Opaque(
        op_type="Normalizer", domain="ai.onnx.ml", proto=proto.SerializeToString(), values=(Value(("N", 4)),)
    )
    graph.outputs = {"y": graph.add(op, [graph.outputs["y0"]]).output}
    graph.domains = {"": 17, "ai.onnx.ml": 2, "unused": 1}
    model = exported(graph)
    assert {o.domain: o.version for o in model.opset_import} == {"": 17, "ai.onnx.ml": 2}


# ---- ONNX in, against ONNX Runtime


CASES = {
    "opaque_atan": [("Atan", "x", "e", {}), ("Conv", "e w", "y", {})],
}


@pytest.mark.parametrize("name", CASES)
def test_import(name: str) -> None:
    imported(CASES[name], kept="Atan")


@pytest.mark.parametrize("outputs", ["y", ", y", ", , y", "all, y"])
def test_outputs_without_a_name(outputs: str) -> None:
    """The last state of an LSTM in both directions, as text recognition reads it."""
    rng = np.random.default_rng(0)
    shapes = {"w": (2, 16, 3), "r": (2, 16, 4)}
    inits = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    lstm = helper.make_node("LSTM", ["x", "w", "r"], outputs.split(", "), hidden_size=4, direction="bidirectional")
    graph = helper.make_graph(
        [lstm],
        "lstm",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [5, 2, 3])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in inits.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    x = rng.normal(size=(5, 2, 3)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {"x": x})
    for backend in ("torch", "interpret"):
        np.testing.assert_allclose(optgraph.compile(model, backend)(x), wanted, rtol=1e-4, atol=1e-6)
