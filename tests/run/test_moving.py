"""What moves elements only: no fallback, as few launches as may be, and exactly the reference's numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from optgraph import ops
from optgraph.ir.graph import Graph
from optgraph.ir.op import Op
from optgraph.ir.values import RELU, Shape, Value
from optgraph.passes import pipeline
from optgraph.plan.plans import Plans
from optgraph.run import reference
from optgraph.run.engine import Engine
from tests.support.networks import Builder

CPU = torch.device("cpu")
IMAGE = ("N", 12, 6, 10)


def launches(graph: Graph, batch: int = 2) -> dict[str, int]:
    """Asserts that the kernels have the reference's numbers and nothing falls back; the launches, by kernel."""
    pipeline.apply(graph, pipeline.FUSE)
    run = Engine(Plans(graph, "fp32"), CPU)
    feeds = {}
    for i, name in enumerate(graph.inputs):
        value = graph.values[name]
        shape = [batch if isinstance(d, str) else d for d in value.shape]
        numbers = np.random.default_rng(i).normal(size=shape) * (1 if value.dtype.startswith("float") else 100)
        feeds[name] = torch.from_numpy(numbers.astype(value.dtype))
    expected = reference.run(graph, feeds, torch.float64)
    found = run(feeds, batch)
    for name, wanted in expected.items():
        assert found[name].shape == wanted.shape
        assert (found[name].double() - wanted).abs().max() <= 1e-6 * wanted.abs().max()
        assert wanted.abs().max() > 0
    plan = run.plan(batch)
    assert plan.fallbacks == ()
    return plan.launches_by_kernel()


def made(*chain: Op, shape: Shape = IMAGE, dtype: str = "float32", channels_last: bool = True) -> Graph:
    """x, as a kernel leaves it, through a chain of operators."""
    graph = Graph()
    y = graph.add_input("x", Value(shape, dtype))
    if channels_last:
        y = graph.add(ops.Pad(pads=(0, 0, 1, 0, 0, 0, 0, 1)), [y]).output
    for op in chain:
        y = graph.add(op, [y]).output
    graph.outputs["y"] = y
    return graph


# Of images [2, 12, 7, 11] as they lie in memory: the operators, and the launches they come to.
FREE: dict[str, tuple[Op, ...]] = {
    "head of a detector": (ops.Transpose(perm=(0, 2, 3, 1)), ops.Reshape(shape=("N", -1, 4))),
    "channels dealt out": (ops.Reshape(shape=("N", 3, 4, 7, 11)), ops.Transpose(perm=(0, 1, 3, 4, 2))),
    "tokens": (ops.Reshape(shape=("N", 12, 77)), ops.Transpose(perm=(0, 2, 1))),
    "rows": (ops.Slice(starts=(1, -9), ends=(6, 2**31), axes=(2, 3), steps=(2, 3)),),
    "one of many": (ops.Gather(axis=1, indices=(5,)),),
    "every other": (ops.Gather(axis=1, indices=(1, 4, 7, 10)),),
    "one backwards": (ops.Slice(starts=(3,), ends=(2,), axes=(2,), steps=(-1,)),),
}
COPIED: dict[str, tuple[Op, ...]] = {
    "flattened": (ops.Reshape(shape=("N", -1)),),
    "shuffled": (
        ops.Reshape(shape=("N", 3, 4, 7, 11)),
        ops.Transpose(perm=(0, 2, 1, 3, 4)),
        ops.Reshape(shape=("N", 12, 7, 11)),
    ),
    "images of other images": (ops.Reshape(shape=("N", 22, 6, 7)),),
    "depth to space, written out": (
        ops.Reshape(shape=("N", 2, 2, 3, 7, 11)),
        ops.Transpose(perm=(0, 3, 4, 1, 5, 2)),
        ops.Reshape(shape=("N", 3, 14, 22)),
    ),
    "depth to space": (ops.DepthToSpace(block=2),),
    "depth to space, by column": (ops.DepthToSpace(block=2, mode="CRD"),),
    "tile": (ops.Tile(repeats=(1, 2, 3, 1)),),
    "expand": (ops.Slice(starts=(1,), ends=(2,), axes=(2,), steps=(1,)), ops.Expand(shape=(1, 12, 5, 1))),
    "expand to a higher rank": (ops.Expand(shape=(3, 1, 1, 1, 1)),),
}
SELECTED: dict[str, tuple[Op, ...]] = {
    "mirrored": (ops.Slice(starts=(-1,), ends=(-(2**31),), axes=(3,), steps=(-1,)),),
    "turned": (ops.Slice(starts=(-1, 5, 2), ends=(-100, 0, 9), axes=(3, 2, 1), steps=(-2, -1, 3)),),
    "channels turned": (ops.Slice(starts=(-1,), ends=(-100,), axes=(1,), steps=(-1,)),),
    "gathered channels": (ops.Gather(axis=1, indices=(3, 1, 11, 1, 0)),),
    "gathered rows": (ops.Gather(axis=2, indices=(6, 0, 0)),),
    "gathered tokens": (ops.Reshape(shape=("N", 12, 77)), ops.Gather(axis=2, indices=(35, 0, 12))),
    "reflect": (ops.Pad(pads=(0, 0, 2, 3, 0, 0, 1, 4), mode="reflect"),),
    "wrap": (ops.Pad(pads=(0, 0, 2, 3, 0, 0, 1, 4), mode="wrap"),),
    "reflected channels": (ops.Pad(pads=(0, 2, 0, 0, 0, 1, 0, 0), mode="reflect"),),
    "nearest": (ops.Resize(axes=(2, 3), scales=(2.0, 1.5)),),
    "one pixel": (ops.Resize(axes=(2, 3), sizes=(1, 1), nearest="ceil"),),
    "a column less": (ops.Resize(axes=(3,), sizes=(10,), coordinates="asymmetric", nearest="floor"),),
    "of the same size": (ops.Resize(axes=(2, 3), scales=(1.05, 1.05), mode="linear"),),
    "shrunk": (ops.Resize(axes=(2,), sizes=(3,), nearest="ceil"),),
    "linear": (ops.Resize(axes=(2, 3), scales=(2.0, 0.7), mode="linear"),),
    "cubic": (ops.Resize(axes=(3, 2), sizes=(25, 5), mode="cubic", exclude_outside=True),),
    "antialiased": (ops.Resize(axes=(2, 3), sizes=(3, 5), mode="linear", antialias=True),),
    "corners": (ops.Resize(axes=(2, 3), sizes=(9, 9), mode="linear", coordinates="align_corners"),),
    "channels interpolated": (ops.Resize(axes=(1,), sizes=(5,), mode="linear"),),
    "batch of three from two": (ops.Resize(axes=(0,), sizes=(3,)),),
}


@pytest.mark.parametrize("what", FREE)
def test_views(what: str) -> None:
    assert launches(made(*FREE[what])) == {"pad": 1}


@pytest.mark.parametrize("what", COPIED)
def test_copies(what: str) -> None:
    assert launches(made(*COPIED[what])) == {"pad": 1, "copy": 1}


@pytest.mark.parametrize("what", SELECTED)
def test_selections(what: str) -> None:
    assert launches(made(*SELECTED[what])) == {"pad": 1, "resample": 1}


def test_an_axis_after_another() -> None:
    """Height and width go together, each other axis takes a launch of its own."""
    for op, count in (
        (ops.Resize(axes=(0, 2, 3), sizes=(3, 9, 4), mode="linear"), 2),
        (ops.Pad(pads=(0, 2, 1, 0, 0, 1, 0, 3), mode="reflect"), 2),
        (ops.Slice(starts=(-1,) * 3, ends=(-100,) * 3, axes=(1, 2, 3), steps=(-1,) * 3), 2),
        (ops.Gather(axis=1, indices=(0, 2, 1)), 1),
    ):
        assert launches(made(op)) == {"pad": 1, "resample": count}
    assert launches(made(ops.Pad(pads=(0, 2, 1, 0, 1, 3), mode="wrap"), shape=("N", 5, 9), channels_last=False)) == {
        "resample": 2
    }
    numbers = made(ops.Pad(pads=(0, 2, 1, 0, 0, 1, 0, 3), mode="wrap"), dtype="int64", channels_last=False)
    assert launches(numbers) == {"resample": 2}


@pytest.mark.parametrize(
    "op, shape",
    [
        (ops.Pad(pads=(0, 0, 0, 0, 0, 9, 0, 0), value=0.5), IMAGE),
        (ops.Pad(pads=(0, 2, 1, 0, 0, -1, 0, 3), value=0.5), IMAGE),
        (ops.Pad(pads=(0, 2, 1, 0, 0, 5, 0, 3), mode="edge"), IMAGE),
        (ops.Pad(pads=(0, 0, 2, 0, 1, 0), value=0.5), ("N", 5, 9)),
        (ops.Pad(pads=(0, 1, 0, 2)), ("N", 5)),
    ],
)
def test_padding_of_any_axis(op: Op, shape: Shape) -> None:
    assert launches(made(op, shape=shape, channels_last=False)) == {"pad": 1}


def test_space_to_depth() -> None:
    assert launches(made(ops.SpaceToDepth(block=2), channels_last=False)) == {"copy": 1}


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
def test_whole_numbers_are_moved_too(dtype: str) -> None:
    shuffled = made(*COPIED["shuffled"], shape=("N", 12, 7, 11), dtype=dtype, channels_last=False)
    assert launches(shuffled) == {"copy": 1}
    big = made(ops.Gather(axis=1, indices=(2, 0)), shape=("N", 3, 5, 5), dtype=dtype, channels_last=False)
    assert launches(big) == {"resample": 1}


def test_large_whole_numbers_stay_what_they_are() -> None:
    """float32 has no 2^24 + 1."""
    graph = Graph()
    x, y = (graph.add_input(name, Value((2, 3, 4, 5), "int64")) for name in "xy")
    graph.outputs["joined"] = graph.add(ops.Concat(axis=1), [x, y]).output
    graph.outputs["padded"] = graph.add(ops.Pad(pads=(0, 0, 1, 0, 0, 0, 0, 1)), [x]).output
    pipeline.apply(graph, pipeline.FUSE)
    run = Engine(Plans(graph, "fp32"), CPU)
    feeds = {name: 2**24 + torch.arange(120).reshape(2, 3, 4, 5) for name in "xy"}
    found = run(feeds, 2)
    assert torch.equal(found["joined"], torch.cat([feeds["x"], feeds["y"]], 1))
    assert torch.equal(found["padded"], torch.nn.functional.pad(feeds["x"], (0, 1, 1, 0)))
    assert [f.reason for f in run.plan(2).fallbacks] == ["no kernel pads numbers of type int64"]


@pytest.mark.parametrize("axis, shape", [(1, ("N", 5, 4)), (2, ("N", 5, 4)), (2, IMAGE), (3, IMAGE), (1, ("N", 5))])
def test_concatenation_along_any_axis(axis: int, shape: Shape) -> None:
    graph = Graph()
    x, y = graph.add_input("x", Value(shape)), graph.add_input("y", Value(shape))
    graph.outputs["z"] = graph.add(ops.Concat(axis=axis), [x, y, x]).output
    assert launches(graph) == {"copy": 3}


def test_concatenation_with_a_constant() -> None:
    graph = Graph()
    x = graph.add_input("x", Value((1, 5, 6, 6)))
    y = graph.add(ops.Activation(act=RELU), [x]).output
    grid = graph.add_constant(np.arange(72, dtype=np.float32).reshape(1, 2, 6, 6), "grid")
    graph.outputs["z"] = graph.add(ops.Concat(axis=1), [y, grid]).output
    assert launches(graph, batch=1) == {"elementwise": 1, "copy": 1}


def test_what_is_repeated_or_resized_is_written_into_a_concatenation() -> None:
    b = Builder(channels=4, size=6)
    pooled = b.graph.add(ops.GlobalPool(mode="average"), [b.x]).output
    wide = b.graph.add(ops.Expand(shape=("N", 4, 6, 6)), [pooled]).output
    half = b.graph.add(ops.Pool(kernel=(2, 2), stride=(2, 2), mode="max"), [b.x]).output
    twice = b.graph.add(ops.Resize(axes=(2, 3), scales=(2.0, 2.0), mode="linear"), [half]).output
    graph = b.done(b.conv(b.concat(wide, b.conv(b.x, 3), twice), 5))
    found = launches(graph)
    assert found == {"global_pool": 1, "copy": 1, "pool": 1, "resample": 1, "pointwise": 2}


def test_a_constant_for_each_image() -> None:
    graph = Graph()
    x = graph.add_input("x", Value(("N", 6, 5)))
    token = graph.add_constant(np.arange(5, dtype=np.float32).reshape(1, 1, 5), "token")
    tokens = graph.add(ops.Expand(shape=("N", 1, 5)), [token, x]).output
    graph.outputs["y"] = graph.add(ops.Concat(axis=1), [tokens, x]).output
    for batch in (1, 3):
        assert launches(graph.copy(), batch) == {"copy": 3}
