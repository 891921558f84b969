"""How long a launch takes on a GPU: predicted from what its programs demand of an SM, not measured.

A launch waits a while for the one before it, and is then busy for the longest of

    memory          its bytes, each operand once;
    L2              what its programs fetch and store, from all SMs together, or from the busiest;
    L1, tensor cores, instructions
                    what the programs of the busiest SM demand of each;
    chain           what a program takes by itself, one thing after another, as often as programs follow one another on
                    an SM that holds `resident` of them.

What a program demands is told by its tile, as here, or counted in machine code (`optgraph/cost/walk.py`). All
is reckoned at both ends of what a chip may give (`BEST` and `WORST` in `base/devices.py`), so each time is a range.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from optgraph.base.devices import BEST, WORST, Device, Reached
from optgraph.kernels.frame.gemm import TAP
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.occupancy import REGISTERS, blocks_per_sm
from optgraph.kernels.frame.tile import Tile, cdiv
from optgraph.kernels.frame.work import Program, Work

# What a tile does not tell, by the machine code of the networks' kernels (`python -m benchmarks.loops`): a warp's
# instructions outside its loop, for each value that a lane stores, and in a step, where the copy engine fetches and
# elsewhere; of a kernel that only moves bytes, for each 16 that a lane loads or stores; a step's clocks for barriers.
_OUTSIDE, _STORED, _STEP_TMA, _STEP, _MOVED, _BARRIERS = 400, 9, 90, 250, 20, 100
_MMA, _BESIDE = 4096, 1.4  # FLOPs of an mma.sync (of int8 twice as many), and the instructions that come with each
_UNSURE = 1.25  # a tile's guess is off by so much more


class Range(NamedTuple):
    """Seconds: from the least to the most that is likely."""

    low: float
    high: float

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2


@dataclass(frozen=True)
class Demand:
    """What one program takes of an SM.

    bytes:     to and from L2.
    parts:     clocks that it keeps each part of the SM busy, by name.
    chain:     clocks from its first instruction to its last, with the SM to itself.
    resident:  programs that an SM holds at once.
    """

    bytes: float
    parts: Mapping[str, float]
    chain: float
    resident: int


@dataclass(frozen=True)
class Expected:
    """What a launch is expected to take.

    time:   from the end of the launch before.
    share:  of the whole machine's time, which launches that run together divide.
    bound:  'latency' if it waits for longer than it is busy, else what it is busy with for longest.
    """

    time: Range
    share: Range
    bound: str


def expected(launch: Launch, device: Device, early: bool, demands: Sequence[Demand] = ()) -> Expected:
    """Of `launch` on `device`. early: it follows nothing but the launch before it on its stream. demands: of a program,
    at the best and at the worst; by default those of its tile."""
    program, ends = launch.work.of_program(launch.programs), (BEST, WORST)
    demands = demands or [by_tile(program, launch.tile, multiplied(launch), device, end) for end in ends]
    return taken(
        [_busy(launch.work, launch.programs, *both, device) for both in zip(demands, ends, strict=True)],
        [end.wait(device, early) for end in ends],
    )


def middle(launches: Iterable[Launch], device: Device) -> float:
    """Seconds that `launches` are expected to take, one after another, as far as their tiles tell: in the middle."""
    return sum(expected(launch, device, early=True).time.middle for launch in launches)


def moving(work: Work, device: Device) -> Expected:
    """Of what is no launch of ours: as long as its bytes take."""
    busy = [(work.moved + work.weight_bytes) / (end.memory * device.memory) for end in (BEST, WORST)]
    return taken([({"memory": time}, time) for time in busy], [BEST.launch, WORST.launch])


def taken(ends: Sequence[tuple[Mapping[str, float], float]], waits: Sequence[float]) -> Expected:
    """At both ends, seconds by what they are spent on and the share of the machine, after so long a wait."""
    longest = {part: sum(busy[part] for busy, _ in ends) for part in ends[0][0]} | {"latency": sum(waits)}
    low, high = (wait + max(busy.values()) for wait, (busy, _) in zip(waits, ends, strict=True))
    (_, least), (_, most) = ends
    return Expected(Range(low, high), Range(least, most), max(longest, key=longest.__getitem__))


def multiplied(launch: Launch) -> str:
    """The dtype, as users name it, that its products are of."""
    matrices = (w for w in launch.work.weights.values() if w is not None and w.dim() > 1)
    item = next(matrices, launch.work.reads[0].tensor).element_size()
    if item <= 2:
        return "fp16" if item == 2 else "int8"
    return "tf32" if launch.constants.get("PRECISION") == "tf32" else "fp32"


def by_tile(program: Program, tile: Tile, dtype: str, device: Device, reached: Reached) -> Demand:
    """What a program demands, as far as its tile tells."""
    warps, itemsize = tile.num_warps, {"int8": 1, "fp16": 2}.get(dtype, 4)
    values = tile.block_m * tile.columns / 32
    instructions = program.window / 64 * TAP
    registers, shared = REGISTERS, 0
    wgmma = device.tma and dtype != "fp32" and tile.block_m >= 16 * warps
    tensor = fma = 0.0
    if program.product and dtype == "fp32":
        instructions += program.product / 64
        fma = program.product * device.sms * device.clock / device.flops["fp32"]
    elif program.product:
        tensor = reached.multiplying(program.product, dtype, device, wgmma)
        instructions += 0.0 if wgmma else program.product / (_MMA * 2 if itemsize == 1 else _MMA) * _BESIDE
    if program.product:
        if not program.window:  # whose taps have all else counted in
            instructions += warps * (_OUTSIDE + program.steps * (_STEP_TMA if tile.box else _STEP))
        instructions += _STORED * values
        registers += tile.block_m * tile.columns // (32 * warps)
        shared = (tile.block_m + tile.block_n) * tile.block_k * itemsize * tile.num_stages
    elif not program.window:
        instructions += warps * _OUTSIDE + _MOVED * program.bytes / 512
    resident = program.resident or blocks_per_sm(min(registers, 255), shared, warps, device)
    unsure = _UNSURE if reached.worst else 1 / _UNSURE
    issued = max(instructions / min(warps, 4), fma) / reached.issue
    # A window is reduced before its product, and wgmma waited for in each step that threads address. Else they overlap.
    working = issued + tensor if program.window or (wgmma and tile.box is None) else max(issued, tensor)
    chain = program.clocks or working + program.steps * _BARRIERS + (2 + program.waits) * reached.load
    parts = {"tensor cores": tensor, "instructions": max(instructions / 4 * unsure, fma) / reached.issue}
    return Demand(program.bytes, parts, chain * unsure, max(1, resident))


def _busy(
    work: Work, programs: int, demand: Demand, reached: Reached, device: Device
) -> tuple[dict[str, float], float]:
    """Seconds that a launch keeps each part of the machine busy, and its share of the whole machine's time."""
    rounds, each = cdiv(programs, device.sms), programs / device.sms
    seconds = {part: clocks / device.clock for part, clocks in demand.parts.items()}
    fetched, chain = demand.bytes / device.clock, demand.chain / device.clock
    memory = (work.moved + work.weight_bytes) / (reached.memory * device.memory)
    shared = {"memory": memory, "L2": each * fetched / reached.l2(device)}
    busiest = {part: rounds * time for part, time in seconds.items()}
    busiest["L2"] = max(shared["L2"], rounds * fetched / reached.port)
    busiest["chain"] = cdiv(rounds, demand.resident) * chain
    even = each * max(*seconds.values(), chain / demand.resident)
    return shared | busiest, max(*shared.values(), even)
