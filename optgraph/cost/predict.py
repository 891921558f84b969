"""How long launches may take on a GPU: a prediction from data sheets, not a measurement.

A launch waits a fixed time for the one before it, and is then busy for the longer of

    memory   its bytes, each operand once, at 90 % of the bandwidth;
    SMs      rounds of its programs over the SMs: each fetches operands out of L2, at 90 % of an SM's share of it, while
             it multiplies at 70 % of its rate; a depthwise convolution before the product comes on top, in every block
             of columns.

So few programs leave SMs idle, and the padding of a tile is work. The roofline has neither: it is the memory or the
multiplication time at these rates, launch by launch. Clocks, conflicts and what stays in L2 from one launch to the
next are not modelled. It is meant to tell which launches are worth looking at; expect times to be off by a factor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from optgraph.base.devices import H100, PREDICTED, Device
from optgraph.base.errors import InputError
from optgraph.cost.work import Work, work
from optgraph.ir.graph import Graph
from optgraph.kernels.frame import choice
from optgraph.kernels.frame.bottleneck_tiles import bottleneck_tile
from optgraph.plan.lowering import STORAGE
from optgraph.plan.plan import ITEMSIZE, Plan

_BANDWIDTH, _FLOPS = 0.9, 0.7  # of the peak rates: what good kernels reach
# A tap of a depthwise convolution takes the time of so many multiply-adds: one, a conversion, and part of a load and of
# a mask. A guess.
_TAP = 2.5

# Seconds from the end of a launch in a CUDA graph to the first result of a dependent one that has nothing to do. An
# assumption: about 1 us for the graph to start it, 1.5 us for programs to fetch the first operands and to drain.
LATENCY = 2.5e-6


def device_of(target: str) -> Device:
    """The device of a target. Raises InputError for one without a data sheet here."""
    for device in PREDICTED:
        if device.target == target:
            return device
    raise InputError(f"no prediction for target '{target}': use {' or '.join(d.target for d in PREDICTED)}")


@dataclass(frozen=True)
class Launch:
    """The prediction for one launch. Times in seconds.

    programs: how many blocks it has.  time: from the end of the launch before.  share: of the whole machine's time,
    which launches that run together divide.  ideal: on the roofline.
    bound:    'latency' if it waits for longer than it is busy, else 'bytes' or 'flops', whichever takes longer.
    """

    work: Work
    programs: int
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
    launches: tuple[Launch, ...]
    sequential: float
    overlapped: float
    roofline: float


def predict(graph: Graph, plan: Plan, device: Device = H100) -> Prediction:
    """Predicts `plan`, a lowering of `graph`, on `device`."""
    launches = tuple(_launch(done, plan, device) for done in work(graph, plan))
    waves = groupby(zip(plan.schedule.wave, launches, strict=True), key=lambda pair: pair[0])
    return Prediction(
        device,
        launches,
        sequential=sum(launch.time for launch in launches),
        overlapped=sum(_together([launch for _, launch in wave]) for _, wave in waves),
        roofline=sum(launch.ideal for launch in launches),
    )


def _together(launches: Sequence[Launch]) -> float:
    """Launches that share the machine take as long as the longest, or as the machine needs for all of them."""
    return max(max(launch.time for launch in launches), LATENCY + sum(launch.share for launch in launches))


def _launch(done: Work, plan: Plan, device: Device) -> Launch:
    programs = _programs(done, plan, device)
    rounds = choice.cdiv(programs.count, device.sms)
    fetch = rounds * programs.bytes * device.sms / (_BANDWIDTH * device.l2)
    product = rounds * programs.product * device.sms / (_FLOPS * device.flops[plan.dtype])
    depthwise = rounds * programs.depthwise * device.sms * _TAP / device.flops["fp32"]
    on_sms = max(fetch, product) + depthwise
    in_memory = (done.moved + done.weights) / (_BANDWIDTH * device.memory)
    busy = max(in_memory, on_sms)
    bound = "flops" if product + depthwise > max(fetch, in_memory) else "bytes"
    return Launch(
        work=done,
        programs=programs.count,
        time=LATENCY + busy,
        share=max(in_memory, on_sms * programs.count / (rounds * device.sms)),
        ideal=max(in_memory, sum(done.flops.values()) / (_FLOPS * device.flops[plan.dtype])),
        bound=bound if busy > LATENCY else "latency",
    )


# ---- the programs of a launch, about as the tile chooser would have them


@dataclass(frozen=True)
class _Programs:
    """`count` programs of one size: bytes that each fetches and stores, FLOPs of its padded tile."""

    count: int
    bytes: float
    product: float = 0.0
    depthwise: float = 0.0


def _programs(done: Work, plan: Plan, device: Device) -> _Programs:
    name, total, flops = done.call.name, done.moved + done.weights, sum(done.flops.values())
    rows = math.prod(done.call.written()[0].shape[:-1])
    if flops and name in ("pointwise", "conv2d", "separable", "pooled_pointwise", "head"):
        return _gemm(done, rows, plan, device)
    if flops and name == "bottleneck":
        return _bottleneck(done, rows, plan, device)
    count = max(1, choice.cdiv(total, 4096))  # the movers' programs take 4 KB
    if name == "depthwise":
        return _Programs(count, total / count, depthwise=flops / count)
    return _Programs(count, total / count, product=flops / count)


def _gemm(done: Work, rows: int, plan: Plan, device: Device) -> _Programs:
    call = done.call
    groups = call.options.get("groups", 1)
    columns = [view.shape[-1] // groups for view in call.written()]
    k = call.reads["x"].shape[-1] // groups
    taps = done.flops["weight"] // (2 * rows * sum(columns) * k * groups)
    if k < 16:  # a stem's taps share a block of depth
        k, taps = k * taps, 1
    itemsize = ITEMSIZE[STORAGE[plan.dtype]]
    # One choice of tile serves several batch sizes.
    m = rows // plan.batch * choice.planned_batch(plan.batch, device.target)
    affine = "pre_scale" in call.weights or "pre_shift" in call.weights
    window = 0
    if call.name in ("separable", "pooled_pointwise"):
        pooled = call.name == "pooled_pointwise"
        window = math.prod(call.options["kernel"]) if pooled else done.flops["depthwise"] // (2 * rows * k)
        tile = choice.separable(m, columns[0], k, itemsize, device.target, window, not (affine or pooled))
    elif call.name == "head" and m <= 16:
        tile = choice.Tile(16, 16, 256)  # it only waits for its weights
    else:
        plain = not (affine or "pre_act" in call.options or "residual" in call.reads)
        dense = plain and call.options.get("stride") == (1, 1) and k * itemsize % 16 == 0
        tile = choice.gemm(m, columns * groups, k, itemsize, device.target, taps, plain, dense)
    depth = choice.cdiv(taps * choice.cdiv(k, tile.block_k), tile.splits) * tile.block_k
    area = tile.block_m * tile.columns
    # Most reads of overlapping windows meet L1: they count for two.
    fetched = (tile.block_m * (2 if window else 1) + tile.columns) * depth
    stored = area * (2 if "residual" in call.reads else 1)
    blocks = choice.cdiv(rows, tile.block_m) * groups * sum(choice.cdiv(size, tile.columns) for size in columns)
    return _Programs(
        blocks * tile.splits, (fetched + stored) * itemsize, 2 * area * depth, 2 * tile.block_m * depth * window
    )


def _bottleneck(done: Work, rows: int, plan: Plan, device: Device) -> _Programs:
    """Every program fetches all weights, for all columns of its pixels."""
    reads, columns = done.call.reads, done.call.written()[0].shape[-1]
    rest = reads["rest"].shape[-1] if "rest" in reads else 0
    hidden = done.flops["weight"] // (2 * rows * columns) - rest
    depth = done.flops["conv_weight"] // (2 * rows * hidden)
    itemsize = ITEMSIZE[STORAGE[plan.dtype]]
    m = rows // plan.batch * choice.planned_batch(plan.batch, device.target)
    tile = bottleneck_tile(m, reads["x"].shape[-1], hidden, rest, columns, itemsize, device.target)
    touched = depth + rest + columns * (2 if "residual" in reads else 1)
    return _Programs(
        choice.cdiv(rows, tile.block_m),
        done.weights + tile.block_m * touched * itemsize,
        2 * tile.block_m * (depth * hidden + (hidden + rest) * columns),
    )
