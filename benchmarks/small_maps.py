"""What a persistent kernel could gain on the 17² and 8² maps of the Inceptions at batch 1, in fp16 on an H100: waves of
launches as they are, and the same with a counter in memory for every wait between them. Predictions: nothing runs.

    python -m benchmarks.small_maps

Prints the table of docs/gpu.md.
"""

from __future__ import annotations

from itertools import groupby

from benchmarks.cost import asked, fused
from optgraph.base.devices import BEST, SM_90, WORST
from optgraph.cost.predict import Predicted
from optgraph.plan.lowering import lower
from optgraph.plan.weights import Shapes

MAPS = (17, 8)
# From the last store of a program to the first load of one that waits for it: the store is there, the counter is
# raised, the counter is seen. Three ways to L2 and back, idle, and three loads as `WORST` has them.
COUNTER = [3 * end.load / SM_90.device.clock for end in (BEST, WORST)]


def waited(wave: list[Predicted], early: bool) -> list[float]:
    """What a wave waits for the one before it. early: as planned, a launch by itself may begin early."""
    may = early and len(wave) == 1 and wave[0].early
    return [end.wait(SM_90.device, may) for end in (BEST, WORST)]


def busy(wave: list[Predicted]) -> list[float]:
    """What it takes from there on."""
    waits = [[end.wait(SM_90.device, launch.early) for end in (BEST, WORST)] for launch in wave]
    longest = [max(launch.time[i] - wait[i] for launch, wait in zip(wave, waits, strict=True)) for i in (0, 1)]
    return [max(longest[i], sum(launch.share[i] for launch in wave)) for i in (0, 1)]


def shown(times: list[list[float]]) -> str:
    return "–".join(f"{1e6 * sum(time[i] for time in times):.0f}" for i in (0, 1))


def row(network: str, maps: tuple[int, ...] | None) -> str:
    """maps: sides of the outputs that count; None: all there are."""
    graph = fused(network)
    plan, weights = lower(graph, 1, "fp16", SM_90), Shapes(graph.constants)
    pairs = zip(plan.schedule.wave, asked(plan, weights).launches, strict=True)
    waves = [[launch for _, launch in group] for _, group in groupby(pairs, key=lambda pair: pair[0])]
    waves = [wave for wave in waves if maps is None or wave[0].cost.work.writes[0].shape[1] in maps]
    launches = [launch for wave in waves for launch in wave]
    programs = sorted(sum(launch.cost.programs for launch in wave) for wave in waves)
    early = sum(len(wave) == 1 and wave[0].early for wave in waves)
    read = sum(launch.cost.work.weight_bytes for launch in launches)
    cells = (
        f"{network}, {'all' if maps is None else ' and '.join(f'{side}²' for side in maps)}",
        f"{len(launches)}",
        f"{len(waves)}",
        f"{early}",
        f"{programs[len(programs) // 2]}",
        f"{read / 1e6:.0f}",
        f"{1e6 * read / (BEST.memory * SM_90.device.memory):.0f}",
        shown([busy(wave) for wave in waves]),
        shown([waited(wave, False) for wave in waves]),
        shown([waited(wave, True) for wave in waves]),
        shown([COUNTER for _ in waves]),
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    for network in ("inception_v3", "inception_resnet_v2"):
        for maps in (*((side,) for side in MAPS), None):
            print(row(network, maps), flush=True)


if __name__ == "__main__":
    main()
