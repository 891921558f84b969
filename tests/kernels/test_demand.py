"""How long launches are expected to take: by the longest of what they demand, and the same for `pays` and `predict`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from optgraph import ops
from optgraph.base.devices import BEST, H100, PREDICTED, SM_80, SM_90, WORST, Target
from optgraph.cost.predict import predict
from optgraph.ir.graph import Graph
from optgraph.ir.values import Window
from optgraph.kernels import depthwise, pointwise
from optgraph.kernels.frame.demand import Demand, by_tile, expected, multiplied
from optgraph.kernels.frame.launch import Launch, targeting
from optgraph.kernels.frame.tile import PLANNED_BATCHES, Tile
from optgraph.kernels.frame.work import Program
from optgraph.plan.lowering import lower
from optgraph.plan.weights import Shapes
from tests.support.networks import Builder

AROUND = Window((3, 3), pads=(1, 1, 1, 1))


def product(
    pixels: int, channels: int, columns: int, target: Target = SM_90, dtype: torch.dtype = torch.float16
) -> Launch:
    x, out = (torch.empty(1, pixels, 1, size, dtype=dtype, device="meta") for size in (channels, columns))
    with targeting(target):
        return pointwise.pointwise(x, torch.empty(channels, columns, dtype=dtype, device="meta"), [out])


def demands(chain: float = 0.0, moved: float = 0.0, **parts: float) -> list[Demand]:
    return [Demand(moved, {"L1": 0.0, **parts}, chain, 1)] * 2


def test_the_longest_of_what_it_demands_is_what_it_takes() -> None:
    launch = product(64, 64, 64)
    rounds = -(-launch.programs // H100.sms)
    found = expected(launch, H100, False, demands(chain=50_000.0, L1=90_000.0))
    assert found.bound == "L1"
    assert found.time.low == pytest.approx(BEST.launch + rounds * 90_000 / H100.clock)
    assert found.time.high == pytest.approx(WORST.launch + rounds * 90_000 / H100.clock)
    assert expected(launch, H100, False, demands(chain=50_000.0)).bound == "chain"
    assert expected(launch, H100, False, demands()).bound == "latency"


def test_one_program_gets_more_of_l2_than_its_share_and_all_of_them_no_more() -> None:
    one, all_of_them = product(16, 64, 64), product(132 * 100 * 128, 64, 64)
    alone, together = (expected(launch, H100, False, demands(moved=1e6)) for launch in (one, all_of_them))
    assert alone.bound == together.bound == "L2"
    assert alone.time.low - BEST.launch == pytest.approx(1e6 / BEST.port / H100.clock)
    each = all_of_them.programs / H100.sms * 1e6 / H100.clock
    assert together.time.low - BEST.launch == pytest.approx(each / BEST.l2(H100))
    assert together.time.high - WORST.launch == pytest.approx(each / WORST.l2(H100))


def test_a_launch_begins_early_where_the_chip_can() -> None:
    for target, early in ((SM_90, BEST.early), (SM_80, BEST.launch)):
        launch = product(64, 64, 64, target)
        apart, chained = (expected(launch, target.device, early=chained).time.low for chained in (False, True))
        assert apart - chained == pytest.approx(BEST.launch - early)


def test_programs_beside_each_other_hide_each_others_waits() -> None:
    launch = product(132 * 100 * 128, 64, 64)
    one, four = (
        expected(launch, H100, False, [replace(d, resident=resident) for d in demands(chain=1e4)])
        for resident in (1, 4)
    )
    assert one.time.low - BEST.launch == pytest.approx(4 * (four.time.low - BEST.launch), rel=0.1)


def test_a_tile_demands_more_at_the_worst_and_for_more_work() -> None:
    tile, program = Tile(128, 64, 64, 4, 4), Program(50_000.0, product=2.0 * 128 * 64 * 512, steps=8)
    best, worst = (by_tile(program, tile, "fp16", H100, end) for end in (BEST, WORST))
    assert best.chain < worst.chain and all(best.parts[part] < worst.parts[part] for part in best.parts)
    longer = by_tile(replace(program, product=2 * program.product, steps=16), tile, "fp16", H100, BEST)
    waiting = by_tile(replace(program, waits=10), tile, "fp16", H100, BEST)
    assert longer.chain > best.chain and longer.parts["tensor cores"] == 2 * best.parts["tensor cores"]
    assert waiting.chain - best.chain == pytest.approx(10 * BEST.load / 1.25)


def test_products_are_of_the_dtype_of_their_weights() -> None:
    assert multiplied(product(64, 64, 64)) == "fp16"
    assert multiplied(product(64, 64, 64, dtype=torch.float32)) == "fp32"
    x = torch.empty(1, 9, 9, 64, dtype=torch.bfloat16, device="meta")
    with targeting(SM_90):
        launch = depthwise.depthwise(x, torch.empty(3, 3, 64, dtype=x.dtype, device="meta"), x, window=AROUND)
    assert multiplied(launch) == "fp16"


# ---- what decides fusions is what is predicted


def separable(size: int, channels: int, columns: int) -> Graph:
    b = Builder(channels=channels, size=size)
    x = b.conv(b.x, channels)
    weights = b.constant(channels, 1, 3, 3), "", b.constant(columns, channels, 1, 1)
    return b.done(b.graph.add(ops.Separable(kernel=(3, 3), pads=(1, 1, 1, 1)), (x, *weights)).output)


def bottleneck(size: int, channels: int, columns: int) -> Graph:
    b = Builder(channels=channels, size=size)
    x = b.conv(b.x, channels)
    weights = b.constant(channels, channels, 3, 3), "", b.constant(columns, channels, 1, 1)
    return b.done(b.graph.add(ops.Bottleneck(kernel=(3, 3), pads=(1, 1, 1, 1)), (x, *weights)).output)


def took(graph: Graph, batch: int, target: Target) -> tuple[int, float]:
    """How many launches all behind the first are, and the middle of what they are predicted to take."""
    plan = lower(graph, batch, "fp16", target)
    behind = predict(plan, Shapes(graph.constants)).launches[1:]
    return len(behind), sum(launch.time.middle for launch in behind)


SIZES = [(147, 128, 128), (37, 256, 728), (19, 728, 728), (56, 64, 256), (28, 128, 512), (14, 256, 1024), (8, 192, 320)]


def cases() -> Iterator[tuple[str, Target, int]]:
    for of in ("separable", "bottleneck"):
        for target in PREDICTED:
            for batch in PLANNED_BATCHES:
                yield of, target, batch


@pytest.mark.parametrize(("of", "target", "batch"), list(cases()), ids=str)
def test_one_launch_is_chosen_where_it_is_predicted_to_be_faster(
    of: str, target: Target, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, decides = {
        "separable": (separable, "optgraph.kernels.separable.pays"),
        "bottleneck": (bottleneck, "optgraph.ops.bottleneck.pays"),
    }[of]
    for size in SIZES:
        if of == "bottleneck" and size[1] > 256:
            continue
        graph = build(*size)
        launches, chosen = took(graph, batch, target)
        both = []
        for one in (True, False):
            with monkeypatch.context() as patch:
                patch.setattr(decides, lambda *_, one=one, **__: one)
                both.append(took(graph, batch, target))
        assert [count for count, _ in both] == [1, 2]
        assert chosen == min(seconds for _, seconds in both), (size, launches, both)
