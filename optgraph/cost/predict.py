"""How long launches may take on a GPU: a prediction from data sheets, not a measurement.

A launch waits a fixed time for the one before it, and is then busy for the longer of

    memory   its bytes, each operand once, at 90 % of the bandwidth;
    SMs      rounds of its programs over the SMs: each fetches operands out of L2, at 90 % of an SM's share of it, while
             it multiplies at 70 % of its rate; a depthwise convolution before the product comes on top, in every block
             of columns. Or, if that takes longer, what it does and the loads that it waits for, one after another, but
             for the work of a second program on the SM.

So few programs leave SMs idle, and the padding of a tile is work. The roofline has neither: it is the memory or the
multiplication time at these rates, launch by launch. Clocks, conflicts and what stays in L2 from one launch to the
next are not modelled. It is meant to tell which launches are worth looking at; expect times to be off by a factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from optgraph.base.devices import BANDWIDTH_REACHED, FLOPS_REACHED, LATENCY, PREDICTED, Device, Target
from optgraph.base.errors import InputError
from optgraph.cost.work import Cost, costs
from optgraph.kernels.frame.gemm import TAP, WAIT
from optgraph.kernels.frame.tile import cdiv
from optgraph.plan.plan import Plan
from optgraph.plan.weights import Shapes


def predictable(name: str) -> Target:
    """The target of that name. Raises InputError for one without rates in its data sheet."""
    target = Target.parse(name)
    if target not in PREDICTED:
        raise InputError(f"no prediction for target '{name}': use {' or '.join(map(str, PREDICTED))}")
    return target


@dataclass(frozen=True)
class Predicted:
    """The prediction for one launch. Times in seconds.

    time: from the end of the launch before.  share: of the whole machine's time,
    which launches that run together divide.  ideal: on the roofline.
    bound:    'latency' if it waits for longer than it is busy, else 'bytes' or 'flops', whichever takes longer.
    """

    cost: Cost
    time: float
    share: float
    ideal: float
    bound: str


@dataclass(frozen=True)
class Prediction:
    """For all launches of a plan. Times in seconds.

    sequential: one launch after another.  overlapped: one wave of independent launches after another.  roofline: the
    sum of the launches' ideals.
    """

    device: Device
    launches: tuple[Predicted, ...]
    sequential: float
    overlapped: float
    roofline: float


def predict(plan: Plan, weights: Shapes, device: Device | None = None) -> Prediction:
    """Predicts `plan` on `device`, by default its target's (an H100 for the interpreter). weights: of its graph."""
    device = device or plan.target.device
    launches = tuple(_predicted(cost, plan.dtype, device) for cost in costs(plan, weights))
    waves = groupby(zip(plan.schedule.wave, launches, strict=True), key=lambda pair: pair[0])
    return Prediction(
        device,
        launches,
        sequential=sum(launch.time for launch in launches),
        overlapped=sum(_together([launch for _, launch in wave]) for _, wave in waves),
        roofline=sum(launch.ideal for launch in launches),
    )


def _together(launches: Sequence[Predicted]) -> float:
    """Launches that share the machine take as long as the longest, or as the machine needs for all of them."""
    return max(max(launch.time for launch in launches), LATENCY + sum(launch.share for launch in launches))


def _predicted(cost: Cost, dtype: str, device: Device) -> Predicted:
    work, count = cost.work, cost.programs
    program, rounds = work.of_program(count), cdiv(count, device.sms)
    fetch = rounds * program.bytes * device.sms / (BANDWIDTH_REACHED * device.l2)
    product = rounds * program.product * device.sms / (FLOPS_REACHED * device.flops[dtype])
    window = rounds * program.window * device.sms * TAP / device.flops["fp32"]
    waiting = rounds * program.waits * WAIT / device.clock
    chain = (product + window + waiting) / min(rounds, program.resident) if program.waits else 0.0
    on_sms = max(max(fetch, product) + window, chain)
    in_memory = (work.moved + work.weight_bytes) / (BANDWIDTH_REACHED * device.memory)
    busy = max(in_memory, on_sms)
    bound = "flops" if product + window > max(fetch, in_memory) else "bytes"
    return Predicted(
        cost,
        time=LATENCY + busy,
        share=max(in_memory, on_sms * count / (rounds * device.sms)),
        ideal=max(in_memory, sum(work.flops.values()) / (FLOPS_REACHED * device.flops[dtype])),
        bound=bound if busy > LATENCY else "latency",
    )
