"""What a plan of int8 stores as integers, and what it makes floats of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from optgraph.base.devices import INTERPRET
from optgraph.ir.graph import Graph
from optgraph.ir.quant import Grid, Quant
from optgraph.ir.values import Act
from optgraph.ops import Activation, Concat, FakeQuantize, Gather, Gemm, Pad, Reshape, Resize, Softmax, Split, Transpose
from optgraph.ops.rounding import Rounding
from optgraph.passes import pipeline
from optgraph.plan.integers import Integers
from optgraph.plan.lowering import lower
from optgraph.plan.plan import Plan
from optgraph.plan.plans import Plans
from optgraph.run.engine import Engine
from optgraph.run.reference import Executor
from tests.support.networks import Builder

ONE, TWO = Quant(0.05, -3), Quant(0.04)


def rounded(b: Builder, x: str, quant: Quant = ONE) -> str:
    return b.graph.add(FakeQuantize(quant=quant), [x]).output


def conv(b: Builder, x: str, channels: int, kernel: int = 1, quants: tuple[Quant, ...] = (ONE,), **fields: Any) -> str:
    """One whose weights are integers, a scale a channel."""
    value = b.conv(x, channels, kernel, quants=quants, **fields)
    node = b.graph.producer(value)
    assert node is not None
    w = b.graph.constants[node.get("w")]
    scale = (np.abs(w).max((1, 2, 3)) / 127).astype(np.float32)
    grid = Grid("int8", tuple(map(float, scale)), (0,) * channels, 0)
    column = scale[:, None, None, None]
    name = b.graph.add_constant(np.rint(w / column).astype(np.float32) * column, "w8", grid)
    return b.graph.update(node, inputs=node.inputs_with(w=name)).output


def dtypes(plan: Plan) -> dict[str, list[str]]:
    """By node, what its launches write."""
    found: dict[str, list[str]] = {}
    for call in plan.calls:
        found.setdefault(call.node, []).extend(view.dtype for view in call.written)
    return found


def answers(graph: Graph, bound: float = 0.02, batch: int = 2) -> Plan:
    """The plan of int8. What the interpreter answers is the reference's, but for what fp16 rounds and for ties."""
    plans = Plans(graph, "int8")
    engine = Engine(plans, torch.device("cpu"))
    shapes = {name: [batch if d == "N" else int(d) for d in graph.shape(name)] for name in graph.inputs}
    feeds = {name: torch.randn(shape, generator=torch.Generator().manual_seed(1)) for name, shape in shapes.items()}
    got, want = engine(feeds, batch), Executor(graph)(feeds)
    for name, reference in want.items():
        assert got[name].dtype == reference.dtype and reference.std() > 0
        assert (got[name] - reference).norm() <= bound * reference.norm(), name
    return plans.get(batch, INTERPRET)


def kinds_of(plan: Plan) -> dict[str, str]:
    """By kernel, the types of x and weight of its launches."""
    return {
        call.name: " ".join(
            [
                *(v.dtype for p, v in call.reads.items() if p == "x"),
                *(plan.packed[w.key].dtype for p, w in call.weights.items() if p == "weight"),
            ]
        )
        for call in plan.calls
    }


@pytest.mark.parametrize(
    ("kernel", "groups", "name"), [(1, 1, "pointwise"), (3, 1, "conv2d"), (3, 16, "depthwise"), (3, 4, "conv2d")]
)
@pytest.mark.parametrize("quant", [ONE, TWO])
def test_integers_are_multiplied_with_integers(kernel: int, groups: int, name: str, quant: Quant) -> None:
    b = Builder(channels=16)
    x = rounded(b, b.x, quant)
    y = conv(b, x, 16, kernel, groups=groups, act=Act("relu"))
    plan = answers(b.done(conv(b, y, 5, quants=())), 1e-3)
    assert kinds_of(plan)[name] == "int8 int8" and set(plan.grids) == {x, y}


def test_a_float_weight_has_integers_made_floats() -> None:
    b = Builder(channels=16)
    x = rounded(b, b.x)
    plan = answers(b.done(b.conv(x, 6, 3)))
    assert kinds_of(plan)["conv2d"] == "int8 float16"


def test_a_weight_with_a_zero_of_its_own_is_a_float() -> None:
    b = Builder(channels=16)
    y = conv(b, rounded(b, b.x), 6)
    node = b.graph.producer(y)
    assert node is not None
    w = node.get("w")
    grid = b.graph.grids[w]
    b.graph.grids[w] = replace(grid, dtype="uint8", zero=(120,) * 6)
    plan = answers(b.done(conv(b, y, 5, quants=())))
    assert "int8 float16" in [
        " ".join((c.reads["x"].dtype, plan.packed[c.weights["weight"].key].dtype)) for c in plan.calls[1:]
    ]


def test_unsigned_weights_in_the_middle_are_symmetric() -> None:
    b = Builder(channels=16)
    y = conv(b, rounded(b, b.x), 6, quants=())
    w = b.graph.producer(y).get("w")
    b.graph.grids[w] = replace(b.graph.grids[w], dtype="uint8", zero=(128,) * 6)
    assert kinds_of(answers(b.done(y), 1e-3))["pointwise"] == "int8 int8"


def test_siblings_of_one_grid_and_of_two() -> None:
    b = Builder(channels=16)
    x = rounded(b, b.x)
    siblings = [conv(b, x, 8, quants=(ONE, TWO)), conv(b, x, 24), conv(b, x, 5, quants=(TWO,))]
    y = [conv(b, value, 4, 3, quants=()) for value in siblings]
    graph = b.done(*y)
    pipeline.apply(graph, pipeline.FUSE)
    plan = answers(graph, 1e-3)
    assert plan.launches_by_kernel() == {"elementwise": 1, "pointwise": 1, "conv2d": 3}
    assert plan.calls[1].arguments["quants"] == ((ONE,), (ONE, TWO), (TWO,))


def test_of_siblings_one_is_an_output_and_so_all_are_floats() -> None:
    b = Builder(channels=16)
    x = rounded(b, b.x)
    first, second = conv(b, x, 8), conv(b, x, 24)
    graph = b.done(first, conv(b, second, 4, quants=()))
    pipeline.apply(graph, pipeline.FUSE)
    plan = answers(graph)
    merged = next(node for node in graph.nodes() if len(node.outputs) == 2)
    assert dtypes(plan)[merged.name] == ["float16", "float16"]


def test_siblings_and_a_residual() -> None:
    b = Builder(channels=16)
    x = rounded(b, b.x)
    siblings = [conv(b, x, 8), conv(b, x, 24, quants=(TWO,))]
    total = b.graph.producer(b.add(conv(b, siblings[1], 8), siblings[0]))
    assert total is not None and isinstance(total.op, Rounding)
    graph = b.done(conv(b, b.graph.update(total, replace(total.op, quants=(TWO,))).output, 4, quants=()))
    pipeline.apply(graph, pipeline.FUSE)
    plan = answers(graph)
    assert [dtypes(plan)[node.name] for node in graph.nodes()][1:-1] == [["int8", "int8"], ["int8"]]
    assert plan.calls[2].arguments["after"].residual_quant == plan.calls[2].arguments["after"].before_residual == ONE
    b = Builder(channels=8)
    x = rounded(b, b.x)
    graph = b.done(b.conv(last(b, b.add(conv(b, x, 8, quants=()), x), ONE), 3))
    pipeline.apply(graph, pipeline.FUSE)
    assert any(node.get("residual") for node in graph.nodes() if node.op.kind == "Conv")
    answers(graph)


def last(b: Builder, value: str, *quants: Quant) -> str:
    node = b.graph.producer(value)
    assert node is not None and isinstance(node.op, Rounding)
    return b.graph.update(node, replace(node.op, quants=quants)).output


MOVED: dict[str, tuple[Callable[[Builder, str], str], bool]] = {
    "concat": (lambda b, x: b.concat(x, conv(b, x, 5)), True),
    "concat of two grids": (lambda b, x: b.concat(x, conv(b, x, 5, quants=(TWO,))), False),
    "rows of two grids": (
        lambda b, x: b.graph.add(Concat(axis=2), [x, conv(b, x, 16, quants=(TWO,))]).output,
        False,
    ),
    "pad off the grid": (
        lambda b, x: b.graph.add(Pad(pads=(0, 0, 1, 2, 0, 0, 2, 1), value=0.123), [x]).output,
        False,
    ),
    "pad beyond the grid": (lambda b, x: b.graph.add(Pad(pads=(0, 0, 1, 2, 0, 0, 2, 1), value=50), [x]).output, False),
    "split": (lambda b, x: b.graph.add(Split(axis=1, sizes=(6, 10)), [x]).outputs[1], True),
    "max pool": (lambda b, x: b.pool(x, "max", stride=2), True),
    "average pool": (lambda b, x: last(b, b.pool(x), TWO), True),
    "pad": (lambda b, x: b.graph.add(Pad(pads=(0, 0, 1, 2, 0, 0, 2, 1)), [x]).output, True),
    "relu": (lambda b, x: b.act(x), True),
    "silu": (lambda b, x: last(b, b.act(x, Act("silu")), TWO), True),
    "softmax": (lambda b, x: b.graph.add(Softmax(axis=1, log=False), [x]).output, False),
    "gathered": (lambda b, x: b.graph.add(Gather(axis=1, indices=(3, 1, 8, 2)), [x]).output, True),
    "nearest": (lambda b, x: b.graph.add(Resize(axes=(2, 3), scales=(2.0, 1.5)), [x]).output, True),
    "linear": (lambda b, x: b.graph.add(Resize(axes=(2, 3), scales=(2.0, 2.0), mode="linear"), [x]).output, False),
}


@pytest.mark.parametrize("kind", MOVED)
def test_between_two_convolutions(kind: str) -> None:
    make, integers = MOVED[kind]
    b = Builder(channels=8)
    made = make(b, conv(b, rounded(b, b.x), 16, 3))
    graph = b.done(conv(b, made, 5, quants=()))
    pipeline.apply(graph, [step for step in pipeline.FUSE if step.name == "place_concat"])
    plan = answers(graph)
    assert (made in plan.grids) == integers


def test_outputs_are_floats() -> None:
    """Whatever their buffer is shared with."""
    b = Builder(channels=8)
    x = conv(b, rounded(b, b.x), 16)
    y = conv(b, x, 12, 3)
    flat = b.graph.add(Reshape(shape=("N", -1)), [y]).output
    joined = b.graph.add(Concat(axis=1, in_place=(True, True)), [x, y]).output
    plan = answers(b.done(flat, joined, conv(b, y, 3)))
    assert {flat, joined}.isdisjoint(plan.grids)


def test_what_is_kept_in_float32_is() -> None:
    b = Builder(channels=8)
    x = rounded(b, b.x)
    y = conv(b, x, 16)
    z = conv(b, y, 8)
    graph = b.done(conv(b, z, 3, quants=()))
    node = graph.producer(y)
    assert node is not None
    found = Integers.of(graph, {y}, {node.name})
    assert set(found.values) == {x, z} and node.name not in found.nodes


def test_no_other_dtype_stores_integers() -> None:
    b = Builder(channels=8)
    graph = b.done(conv(b, rounded(b, b.x), 4))
    assert not lower(graph, 1, "fp16").grids


def test_a_fallback_reads_and_writes_integers() -> None:
    """Of a computed weight no kernel knows."""
    b = Builder(channels=8)
    x = rounded(b, b.x)
    weight = b.graph.add(Activation(act=Act("tanh")), [b.constant(4, 8, 1, 1)]).output
    node = b.graph.producer(conv(b, x, 4))
    assert node is not None
    y = b.graph.update(node, inputs=node.inputs_with(w=weight)).output
    plan = answers(b.done(conv(b, y, 3, quants=())))
    assert [f.node for f in plan.fallbacks] == [node.name] and y in plan.grids


def test_a_dense_layer_of_images() -> None:
    """Whose weight is reordered for images that lie N×H×W×C."""
    b = Builder(channels=8, size=5)
    y = conv(b, rounded(b, b.x), 6)
    w = b.constant(7, 6 * 25, scale=0.1)
    scale = float(np.float32(np.abs(b.graph.constants[w]).max() / 127))
    numbers = (np.rint(b.graph.constants[w] / np.float32(scale)) * np.float32(scale)).astype(np.float32)
    w = b.graph.add_constant(numbers, "w8", Grid("int8", (scale,), (0,)))
    plan = answers(b.done(b.graph.add(Gemm(), [y, w]).output), 1e-5)
    assert kinds_of(plan)["dense"] == "int8 int8"


def test_a_max_pool_before_a_convolution() -> None:
    """One launch of floats; of integers, two."""
    for integers in (True, False):
        b = Builder(channels=16)
        pooled = b.pool(rounded(b, b.x), "max", stride=2)
        y = conv(b, pooled, 6) if integers else b.conv(pooled, 6, quants=(ONE,))
        graph = b.done(conv(b, y, 3, quants=()))
        pipeline.apply(graph, [step for step in pipeline.FUSE if step.name == "fuse_max_pool"])
        plan = answers(graph, 1e-3 if integers else 0.02)
        names = ["pool", "pointwise"] if integers else ["elementwise", "pooled_pointwise"]
        assert [call.name for call in plan.calls[1:-1]] == names and len(plan.grids) == 2


def test_a_residual_that_lies_otherwise_is_copied() -> None:
    b = Builder(channels=8)
    x = rounded(b, b.x)
    total = b.add(conv(b, x, 8, quants=()), b.graph.add(Transpose(perm=(0, 1, 3, 2)), [x]).output)
    graph = b.done(conv(b, last(b, total, ONE), 3, quants=()))
    pipeline.apply(graph, pipeline.FUSE)
    plan = answers(graph, 1e-3)
    assert [call.name for call in plan.calls] == ["elementwise", "elementwise", "pointwise", "pointwise"]
