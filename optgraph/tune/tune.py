"""Tuning: what is fastest on this GPU, measured layer by layer, kept for `frame/tuned`: the tile of each launch, and
whether one launch does what two could.

The tiles tried are those that the chooser thinks best. Each runs on random operands first, and only one whose result is
as close to float64 as the kernel has to be is timed: CUDA graphs of a number of launches, tile by tile in turns.
Layers are grouped by what their tile depends on (`tile.Problem`); the first of each group stands for it. When these are
done, what is fused is timed both ways, each launch with its fastest tile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch

from optgraph.base.devices import Target
from optgraph.base.errors import InputError
from optgraph.base.progress import Progress, silent
from optgraph.base.store import Record, Store, Task
from optgraph.ir.graph import Graph
from optgraph.kernels.frame import tuned
from optgraph.kernels.frame.fusion import Fusion
from optgraph.kernels.frame.launch import Launch, targeting
from optgraph.kernels.frame.sample import Operands
from optgraph.kernels.frame.sources import digest
from optgraph.kernels.frame.tile import Problem, Tile
from optgraph.tune.apart import separate
from optgraph.tune.layers import Bind, Layer, binder, target_of
from optgraph.tune.subjects import Candidate, Subjects, subjects
from optgraph.tune.timing import Run, Timer, captured, cuda_timer, interleaved

TRIED = 12  # tiles a launch, the default among them
LAUNCHES = 20  # in one CUDA graph
BLOCKS = 7
GAIN = 0.02  # what is faster by less than this share is no reason to leave what is predicted

Records = Callable[[], Mapping[str, Record]]  # what is known by now
Way = TypeVar("Way")
ONE, SEVERAL = "one launch", "several launches"

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
    """Tunes all of the fused `graph` that `store` has no record of; whether none is left after `minutes`.

    progress: told what is being done, and how much of it, 0 to 1.
    """
    deadline = clock() + 60 * minutes
    found = tasks(graph, dtype, batches, bench, lambda: store.records, progress)
    return store.complete(found, deadline, clock)


def tasks(
    graph: Graph, dtype: str, batches: Sequence[int], bench: Bench, records: Records, progress: Progress = silent
) -> Iterator[Task]:
    """What there is to tune of the fused `graph`, but for what `records` has now: compiled when it is listed. Fusions
    come last, when `records` has the tiles of their launches."""
    done, found = records(), subjects(graph, dtype, batches, bench.target)
    problems = {problem: layer for problem, layer in found.problems.items() if tuned.key(problem) not in done}
    fusions = {fusion: candidate for fusion, candidate in found.fusions.items() if tuned.key(fusion) not in done}
    progress("compiling", 0.0)
    bind = bench.binder(list(dry(Subjects(problems, fusions), bench.target)), bench.device)
    count = len(problems) + len(fusions)
    for i, (problem, layer) in enumerate(problems.items()):
        progress(f"tuning {layer.name}", i / count)
        yield tuned.key(problem), partial(measure, problem, layer, bench, bind)
    for i, (fusion, candidate) in enumerate(fusions.items(), len(problems)):
        progress(f"tuning {fusion.kernel}, one launch or several", i / count)
        yield tuned.key(fusion), partial(compare, fusion, candidate, bench, bind, records)


def tried(problem: Problem, target: Target) -> list[Tile]:
    """The tiles to measure, most promising first: the first is what is chosen where nothing was measured."""
    return problem.candidates(target)[:TRIED]


def measure(problem: Problem, layer: Layer, bench: Bench, bind: Bind) -> Record:
    """The record of one problem: its fastest tile that computes the right thing."""
    operands, found = layer.operands(bench.device), tried(problem, bench.target)

    def made(tile: Tile) -> Run:
        return bind(operands.launch(tile))

    best, row = _fastest({tile: partial(made, tile) for tile in found}, found[0], layer, operands, bench)
    return row if best is None else row | {"tile": tuned.record(best)}


def compare(fusion: Fusion, candidate: Candidate, bench: Bench, bind: Bind, records: Records) -> Record:
    """The record of one fusion: whether one launch is faster than several, each with the tile that `records` has."""

    def tile_of(launch: Launch) -> Tile | None:
        problem = launch.problem
        return None if problem is None else tuned.fastest(problem, problem.candidates(bench.target), records())

    def together() -> Run:
        return bind(operands.launch(tile_of(operands.launch())))

    def apart() -> Run:
        found = separate(operands, bind, tile_of, fusion.copied)
        assert found is not None, fusion.kernel
        return found

    layer = candidate.layer
    operands = layer.operands(bench.device)
    predicted = ONE if candidate.predicted else SEVERAL
    best, row = _fastest({ONE: together, SEVERAL: apart}, predicted, layer, operands, bench)
    return row if best is None else row | {"one_launch": best == ONE}


def _fastest(
    ways: Mapping[Way, Callable[[], Run]], default: Way, layer: Layer, operands: Operands, bench: Bench
) -> tuple[Way | None, Record]:
    """The fastest way to run a layer that is right, or the default where that is about as fast; and a record."""
    expected = operands.expected()
    runs: dict[Way, Run] = {}
    errors: dict[Way, float] = {}
    rejected: list[str] = []
    for way, made in ways.items():
        try:
            with targeting(bench.target):
                run = made()
            error = operands.error(run, expected)
        except Exception as reason:  # what the GPU or the compiler refuses is only no candidate
            operands.poison()  # raises if the device itself is broken now: then nothing more is to be learnt from it
            rejected.append(f"{way}: {type(reason).__name__}: {str(reason).splitlines()[:1]}")
            continue
        if error <= layer.bound:
            runs[way], errors[way] = bench.capture(run, LAUNCHES), error
        else:
            rejected.append(f"{way}: off by {error:.1e}, bound {layer.bound:.1e}")
    row: Record = {"kernel": layer.name, "layer": str(layer), "tried": len(runs), "rejected": rejected}
    if not runs:
        return None, row
    times = {way: 1e3 * t.median / LAUNCHES for way, t in interleaved(runs, bench.timer, BLOCKS).items()}
    best = min(times, key=lambda way: times[way])
    if default in times and times[best] > (1 - GAIN) * times[default]:
        best = default
    return best, row | {"us": times[best], "default_us": times.get(default), "error": errors[best]}


def summary(store: Store) -> dict[str, Any]:
    """How many problems have a record, how many a tile of their own, and what that gains over all of them; and of what
    may be fused which way is faster."""
    shown = ("layer", "one_launch", "us", "default_us")
    fusions = [{name: r[name] for name in shown} for r in store.records.values() if "one_launch" in r]
    measured = [record for record in store.records.values() if record.get("default_us")]
    default = sum(record["default_us"] for record in measured)
    return {
        "problems": len(store.records) - len(fusions),
        "changed": sum(record["us"] < record["default_us"] for record in measured if "one_launch" not in record),
        "fusions": fusions,
        "gain": 1 - sum(record["us"] for record in measured) / default if default else 0.0,
        "rejected": sum(len(record["rejected"]) for record in store.records.values()),
    }


def dry(found: Subjects, target: Target) -> Iterator[Launch]:
    """The launches of every tile to try, and what may be fused in one launch, on memory that does not exist: for their
    variants."""
    trials = [(layer, tile) for problem, layer in found.problems.items() for tile in tried(problem, target)]
    for layer, tile in [*trials, *((candidate.layer, None) for candidate in found.fusions.values())]:
        with suppress(ValueError):  # the kernel does not take it; `measure` says so
            yield layer.dry(target, tile)
