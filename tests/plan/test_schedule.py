"""The schedule: what may run at the same time shares no byte, and it is as much as the data allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from optgraph.base.dtypes import ITEMSIZE
from optgraph.ir.graph import Graph
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.view import View
from optgraph.onnx.read import read
from optgraph.passes import pipeline
from optgraph.plan.lowering import lower
from optgraph.plan.memory import Lifetime, allocate
from optgraph.plan.plan import Call, Plan
from optgraph.plan.schedule import STREAMS, Block, Footprint, dependences, streams, waves
from tests.support.networks import Builder, inception_a, inception_resnet, preactivation_resnet, xception
from tests.support.paths import GRAPHS

# The launches on the longest chain of each, at most.
WAVES = {"inception_v3": 51, "xception": 76, "inception_resnet_v2": 179, "googlenet": 27, "inception_v4": 77}


def fused(graph: Graph) -> Graph:
    pipeline.apply(graph, pipeline.FUSE)
    return graph


@cache
def network(name: str, size: int = 299) -> Graph:
    graph = read(GRAPHS / f"torch_{name}.onnx", ("N", 3, size, size), allow_stripped=True)
    pipeline.apply(graph, pipeline.SIMPLIFY)
    return fused(graph)


def elements(view: View) -> np.ndarray:
    """The bytes of its buffer that a view is made of, by the first of each element."""
    index = np.full(view.shape, view.offset)
    for axis, (size, stride) in enumerate(zip(view.shape, view.strides, strict=True)):
        index += (np.arange(size) * stride).reshape([-1 if i == axis else 1 for i in range(len(view.shape))])
    return index.ravel() * ITEMSIZE[view.dtype]


def direct(stream: Sequence[int], waits: Sequence[Sequence[int]]) -> list[set[int]]:
    """For each call those that it follows: the one before it on its stream, and those it waits for."""
    tails: dict[int, int] = {}
    found = []
    for i, (mine, awaited) in enumerate(zip(stream, waits, strict=True)):
        found.append({*awaited, *([tails[mine]] if mine in tails else [])})
        tails[mine] = i
    return found


def ancestors(stream: Sequence[int], waits: Sequence[Sequence[int]]) -> list[set[int]]:
    """For each call all that are over when it begins."""
    before: list[set[int]] = []
    for earlier in direct(stream, waits):
        before.append(earlier.union(*(before[j] for j in earlier)))
    return before


def longest_chain(needs: Iterable[Iterable[int]]) -> int:
    depths: list[int] = []
    for earlier in needs:
        depths.append(1 + max((depths[j] for j in earlier), default=0))
    return max(depths)


def conflicts(
    calls: Sequence[Call], blocks: Mapping[str, Block], stream: Sequence[int], waits: Sequence[Sequence[int]]
) -> list[tuple[int, int]]:
    """The pairs of calls that nothing orders, although one writes a byte that the other touches."""

    size = max(end for _, end in blocks.values())

    def touched(views: Iterable[View]) -> np.ndarray:
        mask = np.zeros(size, bool)
        for view in views:
            if view.base in blocks:
                mask[elements(view) + blocks[view.base][0]] = True
        return mask

    @cache
    def written(i: int) -> np.ndarray:
        return touched(calls[i].written)

    @cache
    def used(i: int) -> np.ndarray:
        return touched(calls[i].views())

    before = ancestors(stream, waits)
    together = [(i, j) for j in range(len(calls)) for i in range(j) if i not in before[j]]
    return [(i, j) for i, j in together if (written(i) & used(j)).any() or (used(i) & written(j)).any()]


def blocks_of(plan: Plan) -> dict[str, Block]:
    """Where each buffer is, by the views of it."""
    ends: dict[str, int] = {}
    for call in plan.calls:
        for view in call.views():
            ends[view.base] = max(ends.get(view.base, 0), Footprint.of(view).end)
    return {name: (offset, offset + ends[name]) for name, offset in plan.offsets.items()}


def one_by_one(plan: Plan) -> list[Lifetime]:
    """The buffers' lifetimes if calls never ran together."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for i, call in enumerate(plan.calls):
        for view in call.views():
            first.setdefault(view.base, i)
            last[view.base] = i
    last.update({view.base: len(plan.calls) for view in plan.outputs.values()})
    return [Lifetime(name, end - start, first[name], last[name]) for name, (start, end) in blocks_of(plan).items()]


NOTHING = Kernel(lambda: None)


# ---- footprints


@st.composite
def windows(draw: st.DrawFn) -> View:
    """A window on a buffer of 3×4×5 pixels with 12 channels: some of each axis; or on the same seen as 3×4×5×2×6."""
    shape = draw(st.sampled_from([(3, 4, 5, 12), (3, 4, 5, 2, 6)]))
    strides = [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
    offset, sizes, steps = 0, [], []
    for size, stride in zip(shape, strides, strict=True):
        start = draw(st.integers(0, size - 1))
        step = draw(st.integers(1, 2))
        offset += start * stride
        sizes.append(draw(st.integers(1, -(-(size - start) // step))))
        steps.append(step * stride)
    order = draw(st.permutations(range(len(shape))))
    dtype = draw(st.sampled_from(["float16", "float32"]))
    return View("b", tuple(sizes[i] for i in order), tuple(steps[i] for i in order), dtype, offset)


@given(windows(), windows())
def test_views_that_share_a_byte_meet(a: View, b: View) -> None:
    assume(a.dtype == b.dtype)
    if np.intersect1d(elements(a), elements(b)).size:
        assert Footprint.of(a).meets(Footprint.of(b)) and Footprint.of(b).meets(Footprint.of(a))


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(2, 40)),
    st.lists(st.tuples(st.integers(0, 39), st.integers(1, 40)), min_size=2, max_size=2),
)
@example((1, 1, 1, 12), [(0, 4), (4, 8)])
def test_slices_of_channels_meet_if_and_only_if_they_share_one(shape: tuple[int, ...], slices: list) -> None:
    n, h, w, c = shape
    parts = [
        View("b", (n, min(size, c - start % c), h, w), (h * w * c, 1, w * c, c), "float16", start % c)
        for start, size in slices
    ]
    a, b = parts
    assert Footprint.of(a).meets(Footprint.of(b)) == (np.intersect1d(elements(a), elements(b)).size > 0)


# ---- dependences and waves


def test_branches_of_an_inception_block_are_one_wave_a_level() -> None:
    plan = lower(fused(inception_a()))
    names = [call.name for call in plan.calls]
    # One pointwise for three branches and the pool, a 5×5 and a 3×3 and the pool, another 3×3, the 1×1 that joins them.
    assert sorted(names[1:4]) == ["conv2d", "conv2d", "pool"]
    assert plan.schedule.wave == (0, 1, 1, 1, 2, 3)
    needs = dependences(plan.calls)
    assert needs[0] == () and needs[1:4] == ((0,), (0,), (0,))
    second = needs[4][0]
    assert names[second] == "conv2d"
    assert needs[5] == tuple(i for i in range(5) if i != second)


def test_reader_of_a_slice_needs_no_writer_of_another() -> None:
    def view(base: str, start: int, channels: int) -> View:
        return View(base, (2, 3, 3, channels), (90, 30, 10, 1), "float16", start)

    calls = [
        Call(NOTHING, "a", {"out": view("whole", 0, 4)}),
        Call(NOTHING, "b", {"out": view("whole", 4, 6)}),
        Call(NOTHING, "c", {"x": view("whole", 4, 6), "out": view("c", 0, 10)}),
        Call(NOTHING, "d", {"x": view("whole", 0, 10), "out": view("d", 0, 10)}),
        Call(NOTHING, "e", {"x": view("whole", 3, 2), "other": view("c", 0, 10), "out": view("e", 0, 10)}),
    ]
    assert dependences(calls) == ((), (), (1,), (0, 1), (0, 1, 2))
    assert waves(dependences(calls)) == (0, 0, 1, 1, 2)


@pytest.mark.parametrize("name", WAVES)
def test_there_are_as_many_waves_as_calls_on_the_longest_chain(name: str) -> None:
    plan = lower(network(name), dtype="fp16")
    assert plan.waves == longest_chain(dependences(plan.calls)) <= WAVES[name]
    assert list(plan.schedule.wave) == sorted(plan.schedule.wave)


@pytest.mark.parametrize("name", WAVES)
def test_waves_take_no_more_memory_than_one_call_at_a_time(name: str) -> None:
    """The stem is what needs most in these networks, and it is a chain."""
    plan = lower(network(name), dtype="fp16")
    assert plan.arena_bytes == allocate(one_by_one(plan))[1]


# ---- streams


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("name", WAVES)
def test_reuse_of_memory_makes_no_chain_longer(name: str, batch: int) -> None:
    plan = lower(network(name), batch, "fp16")
    assert longest_chain(direct(plan.schedule.stream, plan.schedule.waits)) == plan.waves < len(plan.calls)
    assert plan.schedule.streams < STREAMS


@pytest.mark.parametrize("name", WAVES)
def test_no_wait_follows_from_the_others(name: str) -> None:
    plan = lower(network(name), dtype="fp16")
    before = ancestors(plan.schedule.stream, plan.schedule.waits)
    for awaited, earlier in zip(plan.schedule.waits, direct(plan.schedule.stream, plan.schedule.waits), strict=True):
        assert not any(j in before[other] for j in awaited for other in earlier)


@pytest.mark.parametrize("build", [inception_a, xception, inception_resnet, preactivation_resnet])
def test_what_may_run_together_shares_no_byte_in_blocks(build: Callable[[], Graph]) -> None:
    plan = lower(fused(build()), 2)
    assert conflicts(plan.calls, blocks_of(plan), plan.schedule.stream, plan.schedule.waits) == []


@pytest.mark.parametrize("name", WAVES)
def test_what_may_run_together_shares_no_byte_in_networks(name: str) -> None:
    plan = lower(network(name, size=139), dtype="fp16")
    assert conflicts(plan.calls, blocks_of(plan), plan.schedule.stream, plan.schedule.waits) == []


@pytest.mark.parametrize("name", ["inception_v3", "inception_resnet_v2"])
def test_memory_planned_for_one_call_at_a_time_orders_more(name: str) -> None:
    """The checks above can fail: there, data alone orders too little, and what is enough makes chains longer."""
    plan = lower(network(name, size=139), dtype="fp16")
    offsets, _ = allocate(one_by_one(plan))
    blocks = {n: (offsets[n], offsets[n] + end - start) for n, (start, end) in blocks_of(plan).items()}
    apart, _ = allocate([Lifetime(n, end - start, 0, 0) for n, (start, end) in blocks.items()])
    needs = dependences(plan.calls)
    data_alone = streams(plan.calls, needs, {n: (offset, offset + 1) for n, offset in apart.items()})
    assert conflicts(plan.calls, blocks, *data_alone) != []
    safe = streams(plan.calls, needs, blocks)
    assert conflicts(plan.calls, blocks, *safe) == []
    assert longest_chain(direct(*safe)) > plan.waves


def test_a_chain_is_one_stream_that_waits_for_nothing() -> None:
    b = Builder(channels=4, size=5)
    x = b.x
    for _ in range(5):
        x = b.conv(x, 4, 3)
    plan = lower(fused(b.done(x)))
    assert plan.schedule.stream == (0,) * 5 and plan.schedule.waits == ((),) * 5 and plan.waves == 5


def test_more_branches_than_streams() -> None:
    b = Builder(channels=4, size=5)
    x = b.conv(b.x, 4, 3)
    branches = [b.conv(b.conv(x, 4, 3), 4, (1, 3)) for _ in range(STREAMS + 3)]
    plan = lower(fused(b.done(b.conv(b.concat(*branches), 4))))
    assert plan.waves == 4 and plan.schedule.streams == STREAMS
    assert len(set(plan.schedule.stream[1 : STREAMS + 1])) == STREAMS
    assert conflicts(plan.calls, blocks_of(plan), plan.schedule.stream, plan.schedule.waits) == []


@st.composite
def programs(draw: st.DrawFn) -> list[Call]:
    """Random calls: each writes a buffer of its own or a slice of a shared one, and reads some that are complete."""
    parts = draw(st.lists(st.integers(1, 4), min_size=2, max_size=12))
    calls: list[Call] = []
    whole: list[View] = []
    for number, count in enumerate(parts):
        available = list(whole)
        pitch = 4 * count
        for part in range(count):
            reads = draw(st.lists(st.sampled_from(available), max_size=3, unique=True)) if available else []
            out = View(f"b{number}", (draw(st.integers(1, 100)), 4), (pitch, 1), "float16", 4 * part)
            calls.append(Call(NOTHING, f"{number}.{part}", {"xs": tuple(reads), "out": out}))
        rows = max(call.written[0].shape[0] for call in calls[-count:])
        whole.append(View(f"b{number}", (rows, pitch), (pitch, 1), "float16"))
    return calls


@given(programs(), st.booleans())
def test_any_program_on_any_memory_that_fits_it(calls: list[Call], by_wave: bool) -> None:
    needs = dependences(calls)
    times = waves(needs) if by_wave else range(len(calls))
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for i, call in zip(times, calls, strict=True):
        for view in call.views():
            first.setdefault(view.base, i)
            last[view.base] = i
            sizes[view.base] = max(sizes.get(view.base, 0), Footprint.of(view).end)
    offsets, _ = allocate([Lifetime(n, size, first[n], last[n]) for n, size in sizes.items()])
    blocks = {n: (offset, offset + sizes[n]) for n, offset in offsets.items()}
    stream, waits = streams(calls, needs, blocks)
    assert conflicts(calls, blocks, stream, waits) == []
    assert all(j < i and stream[j] != stream[i] for i, awaited in enumerate(waits) for j in awaited)
