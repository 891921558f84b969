"""Step questions: the six measurements that decide what is worth changing, each beside what was predicted.

The predictions are from reading the machine code that Triton 3.6 to 3.9 made for sm_90; none is a measurement. Those of
the separable convolution and the upper one of the stem are of the loops as they were before these were shortened; the
last takes equal products to take equal times. Every launch is checked before it is timed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from benchmarks.gpu import chain
from benchmarks.gpu.device import WrongError, about, bench, checked, identity, microseconds, plausible, settle
from benchmarks.gpu.fused import apart
from benchmarks.gpu.worker import Record, Task, line
from optgraph.base.devices import Target
from optgraph.ir.values import RELU, Window
from optgraph.kernels import conv2d, pointwise, separable
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.sample import image
from optgraph.kernels.frame.tile import Tile
from optgraph.tune.apart import separate
from optgraph.tune.layers import Bind, Layer
from optgraph.tune.tune import Bench

__all__ = ["about", "identity", "launches", "settle", "tasks"]

SECONDS = 45.0
ENDS = Epilogue(True, RELU)
CHANNELS = 728  # of Xception's middle flow, on maps of 19×19


@dataclass(frozen=True)
class Answer:
    """A figure and what was predicted for it: least, most, and in which unit."""

    least: float
    most: float
    unit: str = "µs"

    def beside(self, value: float) -> Record:
        within = self.least <= value <= self.most
        return {"value": value, "unit": self.unit, "predicted": [self.least, self.most], "within": within}


PREDICTED = {
    "separable, batch 128": Answer(190.0, 600.0),
    "separable, batch 1": Answer(25.0, 35.0),
    "L2 rate": Answer(5.5, 8.5, "TB/s"),
    "stem, batch 128": Answer(108.0, 435.0),
    "dependent launch": Answer(1.3, 2.5),
    "A from registers": Answer(1.0, 1.0, "× the time of the equal pointwise"),
}
# By the share of operands that a block fetches: the small one asks most of L2, the large one of the tensor cores.
L2_TILES = (Tile(128, 256, 64, 8, 3), Tile(128, 128, 64, 8, 4), Tile(64, 128, 64, 4, 4), Tile(64, 64, 64, 4, 4))


def middle(batch: int) -> Layer:
    """The separable convolution of Xception's middle flow."""
    shape, window = (batch, 19, 19, CHANNELS), Window((3, 3), pads=(1, 1, 1, 1))
    sample = separable.sample(shape, CHANNELS, window, depthwise_bias=False, before=Prologue(act=RELU))
    return Layer(separable.SEPARABLE, sample.typed("fp16"))


def stem(batch: int) -> Layer:
    """The first convolution of all three networks."""
    shape = (batch, 299, 299, 3)
    x = image(*shape, dtype="float32", planes=True)
    return Layer(conv2d.CONV2D, conv2d.sample(shape, 32, Window((3, 3), (2, 2)), x=x, after=ENDS).typed("fp16"))


def wide() -> Layer:
    """A pointwise convolution whose operands stay in L2: 28 MB of images, 1.2 MB of weights."""
    return Layer(pointwise.POINTWISE, pointwise.sample((64, 17, 17, 768), 768, after=ENDS).typed("fp16"))


def equals() -> dict[str, Layer]:
    """A convolution and a pointwise one that are the same product: as many pixels, 7 × 192 terms, 192 channels."""
    row = conv2d.sample((64, 17, 17, 192), 192, Window((1, 7), pads=(0, 3, 0, 3)), after=ENDS)
    point = pointwise.sample((64, 17, 17, 7 * 192), 192, after=ENDS)
    return {
        "conv2d": Layer(conv2d.CONV2D, row.typed("fp16")),
        "pointwise": Layer(pointwise.POINTWISE, point.typed("fp16")),
    }


def launches(target: Target) -> Iterator[Launch]:
    for layer in (middle(1), middle(128)):
        yield layer.dry(target)
        yield from apart(layer, target)
    yield from (layer.dry(target) for layer in (stem(128), *equals().values()))
    yield from (wide().dry(target, tile) for tile in L2_TILES)


def tasks() -> Iterator[Task]:
    here = bench()
    bind = here.binder(list(launches(here.target)), here.device)
    yield Task("separable, batch 128", lambda: separable_728(128, here, bind), SECONDS)
    yield Task("separable, batch 1", lambda: separable_728(1, here, bind), SECONDS)
    yield Task("L2 rate", lambda: l2_rate(here, bind), SECONDS)
    yield Task("stem, batch 128", lambda: stem_time(here, bind), SECONDS)
    yield Task("dependent launch", lambda: dependent(here), SECONDS)
    yield Task("A from registers", lambda: from_registers(here, bind), SECONDS)


def separable_728(batch: int, bench: Bench, bind: Bind) -> Record:
    """One launch, and beside it the two that compute the same."""
    operands = middle(batch).operands(bench.device)
    fused, launch = checked(middle(batch), operands, bind)
    sides = {"fused": fused, "separate": separate(operands, bind)}
    us = microseconds({key: run for key, run in sides.items() if run}, bench)
    found = plausible(us["fused"]["median"], [launch], bench)
    return PREDICTED[f"separable, batch {batch}"].beside(found) | {"us": us}


def l2_rate(bench: Bench, bind: Bind) -> Record:
    """Bytes that the programs of a product fetch, by time; the most of several tiles is what L2 gives at least."""
    layer = wide()
    operands = layer.operands(bench.device)
    rates: dict[str, float] = {}
    us: dict[str, Mapping[str, float]] = {}
    for tile in L2_TILES:
        name = f"{tile.block_m}×{tile.block_n}"
        run, launch = checked(layer, operands, bind, tile)
        us[name] = microseconds({name: run}, bench)[name]
        time = plausible(us[name]["median"], [launch], bench)
        rates[name] = launch.programs * launch.work.of_program(launch.programs).bytes / time / 1e6
    return PREDICTED["L2 rate"].beside(max(rates.values())) | {"tb_s": rates, "us": us}


def stem_time(bench: Bench, bind: Bind) -> Record:
    operands = stem(128).operands(bench.device)
    run, launch = checked(stem(128), operands, bind)
    us = microseconds({"stem": run}, bench)["stem"]
    return PREDICTED["stem, batch 128"].beside(plausible(us["median"], [launch], bench)) | {"us": us}


def dependent(bench: Bench) -> Record:
    """Launches that each need the one before and do next to nothing, in a CUDA graph: as they are, and with
    programmatic dependent launch, or why not. Raises WrongError if a plain chain did not count its launches."""
    us = {"plain": _chained(bench, early=False)}
    found = PREDICTED["dependent launch"].beside(us["plain"]["median"])
    try:
        us["programmatic"] = _chained(bench, early=True)
    except Exception as reason:  # the other figure stands
        found["no programmatic launch"] = line(reason)
    return found | {"us": us}


def _chained(bench: Bench, early: bool) -> dict[str, float]:
    """Microseconds a launch."""
    run, count = chain.chain(bench.device, early)
    counted = count(run)
    if counted != chain.LENGTH:
        raise WrongError(f"{counted} of {chain.LENGTH} dependent launches took effect")
    found = microseconds({"chain": run}, bench)["chain"]
    return {key: value / chain.LENGTH for key, value in found.items()}


def from_registers(bench: Bench, bind: Bind) -> Record:
    """What a convolution takes more than the equal product, whose A operand stays in shared memory."""
    runs, made = {}, []
    for name, layer in equals().items():
        runs[name], launch = checked(layer, layer.operands(bench.device), bind)
        made.append(launch)
    us = microseconds(runs, bench)
    for name, launch in zip(us, made, strict=True):
        plausible(us[name]["median"], [launch], bench)
    ratio = us["conv2d"]["median"] / us["pointwise"]["median"]
    return PREDICTED["A from registers"].beside(ratio) | {"us": us, "tma": [bool(launch.tile.box) for launch in made]}
