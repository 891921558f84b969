"""What the steps share: the device they run on, and a launch that is checked before it is timed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch

from benchmarks import record
from optgraph.base.devices import DEVICES
from optgraph.base.errors import InputError
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.sample import Operands
from optgraph.kernels.frame.tile import Tile
from optgraph.tune.layers import Bind, Layer
from optgraph.tune.timing import Run, interleaved
from optgraph.tune.tune import Bench, gpu_bench

LAUNCHES = 20  # in one CUDA graph
BLOCKS = 11  # of runs, a side


class WrongError(Exception):
    """A result or a time that cannot be right."""


def identity() -> dict[str, Any]:
    """What figures depend on: chip, versions, code, and the cubins that were compiled elsewhere. Raises InputError if
    there is no GPU."""
    if not torch.cuda.is_available():
        raise InputError("torch sees no NVIDIA GPU")
    return record.identity() | {"carried": os.environ.get("OPTGRAPH_CARRIED", "")}


def about() -> dict[str, Any]:
    return record.environment(os.environ.get("OPTGRAPH_COMMIT", ""))


def settle() -> None:
    """Waits for the device, and gives back what nobody uses. Raises if it is broken."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()


@cache
def bench() -> Bench:
    """The current CUDA device."""
    return gpu_bench()


def checked(layer: Layer, operands: Operands, bind: Bind, tile: Tile | None = None) -> tuple[Run, Launch]:
    """The layer's launch, bound, after a run that was right. Raises WrongError if it was not."""
    launch = operands.launch(tile)
    run = bind(launch)
    check(operands, run, layer.bound, str(layer))
    return run, launch


def check(operands: Operands, run: Callable[[], object], bound: float, what: str) -> float:
    """The relative L2 of what `run` leaves. Raises WrongError if it is not within the bound."""
    error = operands.error(run)
    if not error <= bound:
        raise WrongError(f"off by {error:.1e}, bound {bound:.1e}: {what}")
    return error


def microseconds(sides: Mapping[str, Run], bench: Bench) -> dict[str, dict[str, float]]:
    """What one run of each side takes: the median over blocks, extremes and interquartile range."""
    with torch.no_grad():
        runs = {key: bench.capture(run, LAUNCHES) for key, run in sides.items()}
    found = interleaved(runs, bench.timer, BLOCKS)
    scale = 1e3 / LAUNCHES
    return {
        key: {"median": t.median * scale, "min": t.min * scale, "max": t.max * scale, "iqr": t.iqr * scale}
        for key, t in found.items()
    }


def plausible(us: float, launches: Sequence[Launch], bench: Bench, dtype: str = "fp16") -> float:
    """The time, in microseconds. Raises WrongError if it is shorter than the data sheet's peak needs for the launches'
    products: then something else was timed."""
    rates = DEVICES[bench.target].flops if bench.target in DEVICES else {}
    least = 1e6 * sum(sum(launch.work.flops.values()) for launch in launches) / rates[dtype] if rates else 0.0
    if not us > least:
        raise WrongError(f"{us:.3g} µs, and {least:.3g} µs is the least that the device can take")
    return us
