"""The executor's promises: what it frees, which feeds it takes, in which dtype, from how many threads."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from onnx import helper

from optgraph import ops
from optgraph.base.errors import InputError, ModelError
from optgraph.ir.graph import Graph
from optgraph.ir.op import Op
from optgraph.ir.values import RELU, Value
from optgraph.run.reference import Executor, run, stream
from tests.support.definitions import ACT, FORMULA, rand


def chain(length: int = 3) -> tuple[Graph, list[str]]:
    """x -> sigmoid -> sigmoid -> ...; the values in order."""
    graph = Graph()
    values = [graph.add_input("x", Value(("N", 2)))]
    for _ in range(length):
        values.append(graph.add(ops.Activation(act=ACT["sigmoid"]), [values[-1]]).output)
    graph.outputs = {"y": values[-1]}
    return graph, values


def test_outputs_by_public_name_and_kept_values() -> None:
    graph, values = chain()
    x = rand(3, 2)
    found = run(graph, {"x": x}, torch.float64, keep={values[1]})
    assert set(found) == {"y", values[1]}
    once = FORMULA["sigmoid"](x)
    np.testing.assert_allclose(found[values[1]].numpy(), once)
    np.testing.assert_allclose(found["y"].numpy(), FORMULA["sigmoid"](FORMULA["sigmoid"](once)))


def test_values_are_freed_after_their_last_use() -> None:
    graph, _ = chain(5)
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0
    for _, outputs in stream(graph, {"x": rand(1, 2)}):
        alive.append(weakref.ref(outputs[0]))
        del outputs
        gc.collect()
        most = max(most, sum(r() is not None for r in alive))
    assert len(alive) == 5
    assert most <= 2


def test_unused_outputs_are_freed_and_reused_ones_stay() -> None:
    graph = Graph()
    x = graph.add_input("x", Value(("N", 4)))
    left, right = graph.add(ops.Split(axis=1, sizes=(2, 2)), [x]).outputs
    first = graph.add(ops.Activation(act=RELU), [left]).output
    graph.outputs = {"y": graph.add(ops.Binary(fn="sub"), [first, left]).output, "left": left}
    data = rand(2, 4)
    found = run(graph, {"x": data}, torch.float64)
    np.testing.assert_allclose(found["y"].numpy(), np.maximum(data[:, :2], 0) - data[:, :2])
    np.testing.assert_array_equal(found["left"].numpy(), data[:, :2])
    assert right not in found


def test_stream_is_in_topological_order() -> None:
    graph, values = chain()
    seen = [(node.output, outputs[0].dtype) for node, outputs in stream(graph, {"x": rand(1, 2)}, torch.float64)]
    assert seen == [(value, torch.float64) for value in values[1:]]


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, r"input 'x' is missing: it expects float32 \[N, 2\]"),
        ({"x": np.zeros((1, 3))}, r"input 'x' has shape \[1, 3\]: it expects float32 \[N, 2\]"),
        ({"x": np.zeros(2)}, r"has shape \[2\]"),
        ({"x": np.zeros((1, 2)), "z": np.zeros(1)}, r"no input 'z': its inputs are 'x' float32 \[N, 2\]"),
    ],
)
def test_feeds_that_do_not_fit(feeds: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        stream(chain()[0], feeds)


def test_the_batch_is_the_same_in_all_inputs() -> None:
    graph = Graph()
    x, y = graph.add_input("x", Value(("N", 2))), graph.add_input("y", Value(("N", 1)))
    graph.outputs = {"z": graph.add(ops.Binary(fn="add"), [x, y]).output}
    assert run(graph, {"x": rand(3, 2), "y": rand(3, 1)})["z"].shape == (3, 2)
    with pytest.raises(InputError, match=r"input 'y' has shape \[1, 1\].*N = 3"):
        run(graph, {"x": rand(3, 2), "y": rand(1, 1)})


def test_a_float_is_no_index() -> None:
    graph = Graph()
    i = graph.add_input("i", Value((2,), "int64"))
    graph.outputs = {"y": graph.add(ops.Cast(to="float32"), [i]).output}
    assert run(graph, {"i": np.array([1, 2], np.uint8)})["y"].tolist() == [1.0, 2.0]
    with pytest.raises(InputError, match=r"input 'i' is of dtype float64: it expects int64 \[2\]"):
        run(graph, {"i": np.array([1.0, 2.0])})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_is_of_the_dtype_asked_for(dtype: torch.dtype) -> None:
    """Whatever the model says: half inputs, casts between floats, casts from integers."""
    graph = Graph()
    x = graph.add_input("x", Value(("N", 2), "float16"))
    up = graph.add(ops.Cast(to="float32"), [x]).output
    counts = graph.add(ops.Cast(to="int64"), [up]).output
    back = graph.add(ops.Cast(to="float16"), [counts]).output
    graph.outputs = {"up": up, "counts": counts, "back": back}
    found = run(graph, {"x": torch.tensor([[1.1, 2.2]], dtype=torch.float64)}, dtype)
    assert [found[name].dtype for name in ("up", "counts", "back")] == [dtype, torch.int64, dtype]
    assert found["up"].tolist() == torch.tensor([[1.1, 2.2]], dtype=dtype).tolist()


def test_constants_stay_as_they_are() -> None:
    """Read-only, reversed and bfloat16 arrays are read; a caller who writes on an output changes no constant."""
    graph = Graph()
    x = graph.add_input("x", Value(("N", 3)))
    shift = graph.add_constant(np.arange(3, dtype=np.float32)[::-1])
    half = graph.add_constant(np.array([0.5], np.float32).astype(helper.tensor_dtype_to_np_dtype(16)))
    moved = graph.add(ops.Binary(fn="add"), [x, shift]).output
    graph.outputs = {"y": graph.add(ops.Binary(fn="mul"), [moved, half]).output, "shift": shift}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        executor = Executor(graph)
        found = executor({"x": np.ones((1, 3), np.float32)})
    assert found["y"].tolist() == [[1.5, 1.0, 0.5]]
    found["shift"].zero_()
    assert executor({"x": np.ones((1, 3), np.float32)})["shift"].tolist() == [2.0, 1.0, 0.0]


@dataclass(frozen=True, kw_only=True)
class Double(Op):
    def compute(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        assert inputs[0] is not None
        return (inputs[0].float() * 2,)  # float32, whatever the run is in


@dataclass(frozen=True, kw_only=True)
class Nothing(Op):
    pass


def single(op: Op, name: str) -> Graph:
    graph = Graph()
    x = graph.add_input("x", Value(("N", 4)))
    graph.outputs = {"y": graph.add(op, [x], name=name).output}
    return graph


def test_an_operator_of_ones_own() -> None:
    out = run(single(Double(), "mine"), {"x": np.ones((1, 4))}, torch.float64)["y"]
    assert out.tolist() == [[2.0] * 4]
    assert out.dtype == torch.float64
    with pytest.raises(ModelError, match=r"node 'none' \(Nothing\).*has no reference implementation \(define compute"):
        run(single(Nothing(), "none"), {"x": np.ones((1, 4))})


def test_what_torch_cannot_compute_names_the_node() -> None:
    broken = Graph()
    x = broken.add_input("x", Value(("N", 4)))
    y = broken.add_input("y", Value(("N", 4)))
    broken.outputs = {"z": broken.add(ops.Binary(fn="add"), [x, y], name="sum").output}
    broken.values["y"] = Value((3, 4))  # a graph that lies
    with pytest.raises(ModelError, match=r"node 'sum' \(Binary\): The size of tensor"):
        run(broken, {"x": np.ones((2, 4)), "y": np.ones((3, 4))})


def opaque(
    op_type: str, inputs: Sequence[str], values: Sequence[Value], domain: str = "", **attrs: object
) -> ops.Opaque:
    outputs = [f"o{i}" for i in range(len(values))]
    proto = helper.make_node(op_type, list(inputs), outputs, domain=domain, **attrs).SerializeToString()
    return ops.Opaque(op_type=op_type, domain=domain, proto=proto, values=tuple(values))


def test_threads_share_an_executor() -> None:
    graph = Graph()
    x = graph.add_input("x", Value(("N", 3, 8, 8)))
    w = graph.add_constant(rand(4, 3, 3, 3).astype(np.float32))
    y = graph.add(ops.Conv(kernel=(3, 3), act=RELU), [x, w]).output
    y = graph.add(opaque("Elu", ["a"], [graph.values[y]]), [y]).output
    graph.outputs = {"y": y}
    executor = Executor(graph)
    feeds = [{"x": rand(1 + i % 3, 3, 8, 8, seed=i)} for i in range(16)]
    expected = [executor(feed)["y"] for feed in feeds]
    with ThreadPoolExecutor(4) as pool:
        for out, wanted in zip(pool.map(lambda feed: executor(feed)["y"], feeds), expected, strict=True):
            torch.testing.assert_close(out, wanted, rtol=0, atol=0)


def test_feeds_take_no_gradient() -> None:
    x = torch.ones(1, 2, requires_grad=True)
    assert not run(chain()[0], {"x": x})["y"].requires_grad
