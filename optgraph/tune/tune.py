"""Tuning: which tile of each launch is fastest on this GPU, measured layer by layer, kept for `tile_cache`.

The tiles tried are those that the chooser thinks best. Each runs on random operands first, and only one whose result is
as close to float64 as the kernel has to be is timed: CUDA graphs of a number of launches, tile by tile in turns.
Layers are grouped by what their tile depends on (`choice.Problem`); the first of each group stands for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from optgraph.base.devices import Target
from optgraph.base.errors import InputError
from optgraph.base.progress import Progress, silent
from optgraph.base.store import Record, Store, Task
from optgraph.ir.graph import Graph
from optgraph.kernels.frame import tuned
from optgraph.kernels.frame.launch import Launch, targeting
from optgraph.kernels.frame.sources import digest
from optgraph.kernels.frame.tile import Problem, Tile
from optgraph.plan.lowering import lower
from optgraph.tune.layers import Bind, Layer, binder, layers, target_of
from optgraph.tune.timing import Run, Timer, captured, cuda_timer, interleaved

TRIED = 12  # tiles a launch, the default among them
LAUNCHES = 20  # in one CUDA graph
BLOCKS = 7
GAIN = 0.02  # a tile that is faster by less than this share is not worth another variant

clock = time.monotonic


@dataclass(frozen=True)
class Bench:
    """What measures: a device and its target, and how launches are bound, repeated and timed there.

    capture: makes one Run of so many; see `timing.captured`.
    """

    device: torch.device
    target: Target
    binder: Callable[[Sequence[Launch], torch.device], Bind]
    capture: Callable[[Run, int], Run]
    timer: Timer


def gpu_bench() -> Bench:
    """The current CUDA device. Raises InputError if there is none."""
    if not torch.cuda.is_available():
        raise InputError("tuning needs an NVIDIA GPU, and torch sees none")
    device = torch.device("cuda", torch.cuda.current_device())
    return Bench(device, target_of(device), binder, captured, cuda_timer)


def open_store(target: Target, folder: Path | None = None) -> Store:
    """The records of this GPU and these kernels, in `folder` or where the package looks for them."""
    return Store(tuned.path(target, folder), identity(target), about())


def identity(target: Target) -> Record:
    """What tuned tiles depend on: the GPU and the kernels."""
    return {"device": torch.cuda.get_device_name(), "target": str(target), "kernels": digest()[:16]}


def about() -> Record:
    return {"format": 1, "torch": version("torch"), "triton": version("triton"), "date": time.strftime("%Y-%m-%d")}


def tune(
    graph: Graph,
    dtype: str,
    batches: Sequence[int],
    bench: Bench,
    store: Store,
    minutes: float,
    progress: Progress = silent,
) -> bool:
    """Tunes every launch of the fused `graph` that `store` has no record of; whether none is left after `minutes`.

    progress: told what is being done, and how much of it, 0 to 1.
    """
    deadline = clock() + 60 * minutes
    return store.complete(tasks(graph, dtype, batches, bench, store.records, progress), deadline, clock)


def tasks(
    graph: Graph, dtype: str, batches: Sequence[int], bench: Bench, done: Container[str], progress: Progress = silent
) -> Iterator[Task]:
    """What there is to tune of the fused `graph`, but for the keys in `done`: compiled when it is listed."""
    found = problems(graph, dtype, batches, bench.target)
    wanted = {problem: layer for problem, layer in found.items() if tuned.key(problem) not in done}
    progress("compiling", 0.0)
    bind = bench.binder([launch for p, layer in wanted.items() for launch in dry(p, layer, bench.target)], bench.device)
    for i, (problem, layer) in enumerate(wanted.items()):
        progress(f"tuning {layer.name}", i / len(wanted))
        yield tuned.key(problem), lambda p=problem, k=layer: measure(p, k, bench, bind)  # type: ignore[misc]


def problems(graph: Graph, dtype: str, batches: Sequence[int], target: Target) -> dict[Problem, Layer]:
    """What tiles are chosen for in plans of `graph`, with a layer for each. Kernels without a choice are not there."""
    found: dict[Problem, Layer] = {}
    for batch in batches:
        for layer in layers(lower(graph, batch, dtype, target), graph):
            problem = layer.dry(target).problem
            if problem is not None:
                found.setdefault(problem, layer)
    return found


def tried(problem: Problem, target: Target) -> list[Tile]:
    """The tiles to measure, most promising first: the first is what is chosen where nothing was measured."""
    return problem.candidates(target)[:TRIED]


def measure(problem: Problem, layer: Layer, bench: Bench, bind: Bind) -> Record:
    """The record of one problem: its fastest tile that computes the right thing."""
    operands = layer.operands(bench.device)
    expected = operands.expected()
    found = tried(problem, bench.target)
    default = found[0]
    runs: dict[Tile, Run] = {}
    errors: dict[Tile, float] = {}
    rejected: list[str] = []
    for tile in found:
        try:
            with targeting(bench.target):
                run = bind(operands.launch(tile))
            error = operands.error(run, expected)
        except Exception as reason:  # a tile that the GPU or the compiler refuses is only no candidate
            operands.poison()  # raises if the device itself is broken now: then nothing more is to be learnt from it
            rejected.append(f"{tile}: {type(reason).__name__}: {str(reason).splitlines()[:1]}")
            continue
        if error <= layer.bound:
            runs[tile], errors[tile] = bench.capture(run, LAUNCHES), error
        else:
            rejected.append(f"{tile}: off by {error:.1e}, bound {layer.bound:.1e}")
    row: Record = {"kernel": layer.name, "layer": str(layer), "tried": len(runs), "rejected": rejected}
    if not runs:
        return row
    times = {tile: spread.median / LAUNCHES for tile, spread in interleaved(runs, bench.timer, BLOCKS).items()}
    best = min(times, key=lambda tile: times[tile])
    if default in times and times[best] > (1 - GAIN) * times[default]:
        best = default
    return row | {
        "tile": tuned.record(best),
        "us": 1e3 * times[best],
        "default_us": 1e3 * times[default] if default in times else None,
        "error": errors[best],
    }


def summary(store: Store) -> dict[str, Any]:
    """How many problems have a record, how many a tile of their own, and what that gains over all of them."""
    measured = [record for record in store.records.values() if record.get("default_us")]
    default = sum(record["default_us"] for record in measured)
    return {
        "problems": len(store.records),
        "changed": sum(record["us"] < record["default_us"] for record in measured),
        "gain": 1 - sum(record["us"] for record in measured) / default if default else 0.0,
        "rejected": sum(len(record["rejected"]) for record in store.records.values()),
    }


def dry(problem: Problem, layer: Layer, target: Target) -> Iterator[Launch]:
    """The launches of every tile to try, on memory that does not exist: for their variants."""
    for tile in tried(problem, target):
        with suppress(ValueError):  # the kernel does not take it; `measure` says so
            yield layer.dry(target, tile)
