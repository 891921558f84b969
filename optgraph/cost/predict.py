"""How long launches may take on a GPU: a prediction from data sheets and machine code, not a measurement.

How long one takes is for `kernels/frame/demand.py` to say: from its compiled kernel where there is one, else from its
tile, which is less sure. Launches of a wave share the machine. All is reckoned at both ends of what a chip may give, so
every time is a range, from the least to the most that is likely.

The roofline has no latency, padding or idle SMs: it is the memory or the multiplication time at what good kernels
reach, launch by launch. What stays in L2 from one launch to the next is not modelled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby

from optgraph.base.devices import BANDWIDTH_REACHED, BEST, FLOPS_REACHED, PREDICTED, WORST, Device, Target
from optgraph.base.dtypes import INT8
from optgraph.base.errors import InputError
from optgraph.cost import walk
from optgraph.cost.walk import Machine
from optgraph.cost.work import Cost, costs
from optgraph.kernels.frame.demand import Demand, Range, expected, moving, multiplied
from optgraph.kernels.frame.launch import Launch
from optgraph.plan.plan import Plan
from optgraph.plan.weights import Shapes

Known = Callable[[Launch], Machine | None]


def predictable(name: str) -> Target:
    """The target of that name. Raises InputError for one without rates in its data sheet."""
    target = Target.parse(name)
    if target not in PREDICTED:
        raise InputError(f"no prediction for target '{name}': use {', '.join(map(str, PREDICTED))}")
    return target


@dataclass(frozen=True)
class Predicted:
    """The prediction for one launch, in seconds.

    time:      from the end of the launch before.
    share:     of the whole machine's time, which launches that run together divide.
    ideal:     on the roofline.
    bound:     'latency' if it waits for longer than it is busy, else what it is busy with (`demand.py` lists it).
    early:     whether it follows nothing but the launch before it on its stream, and so may begin before that ends.
    compiled:  whether its machine code was there to be asked.
    """

    cost: Cost
    time: Range
    share: Range
    ideal: float
    bound: str
    early: bool
    compiled: bool


@dataclass(frozen=True)
class Prediction:
    """For all launches of a plan, in seconds.

    sequential: one launch after another.  overlapped: one wave of independent launches after another.  roofline: the
    sum of the launches' ideals.
    """

    device: Device
    launches: tuple[Predicted, ...]
    sequential: Range
    overlapped: Range
    roofline: float


def unknown(_: Launch) -> None:
    """Of no launch there is machine code."""


def predict(plan: Plan, weights: Shapes, device: Device | None = None, known: Known = unknown) -> Prediction:
    """Predicts `plan` on `device`, by default its target's (an H100 for the interpreter). weights: of its graph.
    known: the machine code of a launch, if there is some for that target."""
    device = device or plan.target.device
    asked = lru_cache(partial(walk.demand, device=device))  # many launches are of one kernel and size
    launches = tuple(
        _predicted(cost, plan.dtype, device, early, known, asked)
        for cost, early in zip(costs(plan, weights), plan.schedule.chained, strict=True)
    )
    waves = [
        [launch for _, launch in wave]
        for _, wave in groupby(zip(plan.schedule.wave, launches, strict=True), key=lambda pair: pair[0])
    ]
    return Prediction(
        device,
        launches,
        sequential=_sum([launch.time for launch in launches]),
        overlapped=_sum([_together(wave, device) for wave in waves]),
        roofline=sum(launch.ideal for launch in launches),
    )


def _sum(times: Sequence[Range]) -> Range:
    return Range(sum(time.low for time in times), sum(time.high for time in times))


def _together(launches: Sequence[Predicted], device: Device) -> Range:
    """Launches that share the machine take as long as the longest, or as the machine needs for all of them."""
    busy, early = _sum([launch.share for launch in launches]), len(launches) == 1 and launches[0].early
    return Range(
        max([BEST.wait(device, early) + busy.low, *(launch.time.low for launch in launches)]),
        max([WORST.wait(device, early) + busy.high, *(launch.time.high for launch in launches)]),
    )


def _predicted(
    cost: Cost, dtype: str, device: Device, early: bool, known: Known, asked: Callable[..., Demand]
) -> Predicted:
    work, launch = cost.work, cost.launch
    machine = known(launch) if launch else None
    if launch is None:
        found = moving(work, device)
    else:
        program, ends = work.of_program(cost.programs), (BEST, WORST) if machine else ()
        demands = [asked(machine, program, multiplied(launch), reached=end) for end in ends]
        found = expected(launch, device, early, demands)
    in_memory = (work.moved + work.weight_bytes) / (BANDWIDTH_REACHED * device.memory)
    rate = dtype if dtype != INT8 else multiplied(launch) if launch else "fp16"
    ideal = max(in_memory, sum(work.flops.values()) / (FLOPS_REACHED * device.flops[rate]))
    return Predicted(cost, found.time, found.share, ideal, found.bound, early, machine is not None)
