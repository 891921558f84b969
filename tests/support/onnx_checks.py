"""ONNX in and out of one operator or a small model, each against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from optgraph import ops
from optgraph.ir.graph import Graph
from optgraph.ir.op import Op
from optgraph.ir.values import Shape, Value
from optgraph.onnx.read import read
from optgraph.onnx.write import to_onnx
from optgraph.ops.registry import OURS
from optgraph.run import reference

IMAGE = ("N", 4, 9, 8)


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


# ---- out


def single(op: Op, *constants: np.ndarray | None, shape: Shape = IMAGE, residual: int = -1) -> Graph:
    """x of `shape` -> op, its further inputs constants; slot `residual` is an input of the output's shape."""
    graph = Graph("single")
    inputs = [graph.add_input("x", Value(shape))]
    inputs += ["" if array is None else graph.add_constant(array, "weight") for array in constants]
    if residual >= 0:
        (out,) = op.infer([graph.values[v] if v else None for v in inputs])
        inputs += [""] * (residual + 1 - len(inputs))
        inputs[residual] = graph.add_input("residual", out)
    outputs = graph.add(op, inputs, name="node").outputs
    graph.outputs = {f"y{i}": value for i, value in enumerate(outputs)}
    return graph


def types(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def feeds_for(graph: Graph, batch: int) -> dict[str, np.ndarray]:
    shapes = {name: [batch if d == "N" else int(d) for d in graph.shape(name)] for name in graph.inputs}
    return {name: weights(*shape).astype(graph.values[name].dtype) for name, shape in shapes.items()}


def exported(graph: Graph, exact: bool = False) -> onnx.ModelProto:
    """Exports, and compares ONNX Runtime in float32 with the reference in float64 on batches of 1 and 3."""
    model = to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    names = [node.name for node in model.graph.node]
    assert len(names) == len(set(names))
    assert [o.name for o in model.graph.output] == list(graph.outputs)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        feeds = feeds_for(graph, batch)
        expected = reference.run(graph, feeds, torch.float64)
        for name, out in zip(graph.outputs, session.run(list(graph.outputs), feeds), strict=True):
            wanted = expected[name].numpy()
            assert out.shape == wanted.shape
            assert out.dtype == graph.values[graph.outputs[name]].dtype
            assert np.linalg.norm(wanted) > 0
            assert np.linalg.norm(out - wanted) <= (0 if exact else 1e-6) * np.linalg.norm(wanted)
    return model


def add_opaque(graph: Graph, op_type: str, *constants: np.ndarray, shape: Shape | None = None, **attrs: object) -> None:
    """`op_type` after the first output, on further constants."""
    (public, value), *_ = graph.outputs.items()
    inputs = [value, *(graph.add_constant(array, "extra") for array in constants)]
    proto = helper.make_node(op_type, [f"p{i}" for i in range(len(inputs))], ["q"], name="theirs", **attrs)
    out = Value(shape or graph.shape(value))
    op = ops.Opaque(op_type=op_type, domain="", proto=proto.SerializeToString(), values=(out,))
    graph.outputs[public] = graph.add(op, inputs, name="ours").output


# ---- in

RNG = np.random.default_rng(0)
FLOAT = TensorProto.FLOAT


def model(nodes, inits=None, shape=("n", 4, 9, 7), opset=17, outputs=("y",), dtype=FLOAT, **kwargs) -> onnx.ModelProto:
    """A model of input x; `nodes` are (op_type, inputs, output, attributes) or NodeProtos."""
    protos = [
        n if isinstance(n, onnx.NodeProto) else helper.make_node(n[0], n[1].split(), n[2].split(), name=n[2], **n[3])
        for n in nodes
    ]
    graph = helper.make_graph(
        protos,
        "g",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info(o, FLOAT, None) for o in outputs],
        [numpy_helper.from_array(v, k) for k, v in (inits or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **kwargs)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def agree(proto: onnx.ModelProto, batch: int = 2) -> dict[str, int]:
    """Asserts that the imported graph computes what ONNX Runtime does; returns the op kinds."""
    graph = read(proto)
    graph.verify()
    shape = [batch if isinstance(d, str) else d for d in graph.shape("x")]
    x = RNG.standard_normal(shape).astype(np.float32)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": x})
    actual = reference.run(graph, {"x": x})
    for info, e in zip(session.get_outputs(), expected, strict=True):
        got = actual[info.name].numpy()
        assert got.shape == e.shape
        assert np.linalg.norm(got - e) <= 1e-5 * np.linalg.norm(e)
        assert np.linalg.norm(e) > 0
    kinds: dict[str, int] = {}
    for node in graph.nodes():
        kinds[node.op.kind] = kinds.get(node.op.kind, 0) + 1
    return kinds


INITS = {
    "w": weights(5, 4, 3, 2),
    "wt": weights(4, 3, 2, 2),
    "b": weights(5),
    "s": weights(4),
    "m": weights(4) - 1,
    "v": np.abs(weights(4)) + 0.1,
    "c4": weights(4) + 1,
    "c": weights(1, 4, 1, 1),
    "scalar": np.array(2.5, np.float32),
    "zero": np.array(0.0, np.float32),
    "one": np.array(1.0, np.float32),
    "fc": weights(6, 4),
    "fct": weights(4, 6),
    "fb": weights(6),
    "ax0": ints(0),
    "ax23": ints(2, 3),
    "sizes": ints(1, 3),
    "starts": ints(-1, 1),
    "ends": ints(-100, 6),
    "axes": ints(2, 3),
    "steps": ints(-2, 2),
    "pads": ints(0, 0, 1, 0, 0, 0, 2, 3),
    "minus": ints(-1),
    "minus_i": np.array(-1, np.int64),
    "square": ints(2, 0, 1, 1).reshape(2, 2),
    "repeats": ints(1, 2, 1, 3),
    "zero_i": np.array(0, np.int64),
    "zero_v": ints(0),
    "one_v": ints(1),
    "two_v": ints(2),
}


def imported(nodes, opset: int = 17, kept: str = "") -> None:
    """Asserts that `nodes` import as operators of ours, but for `kept`, and compute what ONNX Runtime does."""
    used = {i for n in nodes for i in (n.input if isinstance(n, onnx.NodeProto) else n[1].split())}
    kinds = agree(model(nodes, {k: v for k, v in INITS.items() if k in used}, opset=opset))
    assert kinds.keys() - {op.__name__ for op in OURS.ops} == ({kept} if kept else set())
