"""Step race: optgraph against its peers, whole networks and single layers, in float16.

Nothing is timed before the two sides' answers agree. torch.compile, which compiles for minutes, is a step of its own
(`compile.py`), and its races stand in the same file.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks import cudnn, peers, record
from benchmarks.cost import fused
from benchmarks.gpu import device
from benchmarks.gpu.device import WrongError, about, check, settle
from benchmarks.gpu.worker import Record, Task
from optgraph.api import compiling
from optgraph.api.net import Net
from optgraph.base import config
from optgraph.base.devices import Target
from optgraph.compare.oracle import distance
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.tile import PLANNED_BATCHES
from optgraph.plan.buffers import dry_launches
from optgraph.plan.plans import Plans
from optgraph.run.example import example
from optgraph.tune.apart import separate
from optgraph.tune.layers import Bind, Layer, binder, layers, target_of
from optgraph.tune.timing import Run, Timer, Times, captured, cuda_timer, interleaved

__all__ = ["about", "identity", "launches", "settle", "tasks"]

BATCHES = (1, 128, 8, 64)  # what matters most comes first, for time may run out
LAYER_BATCHES = (1, 8, 128)
MERGED_BATCHES = (1, 8)
KERNELS = ("conv2d", "pointwise", "separable", "bottleneck")
DTYPE = "fp16"
BLOCKS = 21  # of runs, a side
LAYER_RUNS = 20  # in one CUDA graph
AGREEMENT = 1e-2  # relative L2 between the answers of two sides: twice what each may be from float32
NETWORK_SECONDS, LAYER_SECONDS = 120.0, 30.0
COMPILED = "torch.compile"


def identity() -> dict[str, Any]:
    """With the tiles that launches get."""
    return device.identity() | {"tiles": record.digest(config.tuned_folder().glob("*.json"))}


# ---- what is measured


def tasks(folder: Path = record.MODELS) -> Iterator[Task]:
    """Every measurement: the quick ones first, then what matters most."""
    yield from races("torch eager", BATCHES, folder)
    for name in record.NETWORKS:
        yield Task(f"cold start {name}", lambda n=name: cold_start(n, folder), NETWORK_SECONDS)
    for batch in LAYER_BATCHES:
        yield from layer_tasks(batch, folder)
    for peer in peers.PEERS:
        if peer not in ("torch eager", COMPILED):
            yield from races(peer, BATCHES, folder)


def races(peer: str, batches: tuple[int, ...], folder: Path, seconds: float = NETWORK_SECONDS) -> Iterator[Task]:
    for batch, name in itertools.product(batches, record.NETWORKS):
        run = lambda n=name, b=batch: network(n, b, peer, folder)  # noqa: E731
        yield Task(f"network {name} {batch} {peer}", run, seconds)


def launches(target: Target) -> Iterator[Launch]:
    """Of the networks as they are raced, and of their layers by themselves."""
    for name in record.NETWORKS:
        plans = Plans(fused(name), DTYPE)
        for batch in dict.fromkeys((*PLANNED_BATCHES, *LAYER_BATCHES)):
            plan = plans.get(batch, target)
            yield from (launch for launch in dry_launches(plan, plans.shapes) if launch is not None)
            yield from (layer.dry(target) for layer in layers(plan, plans.graph))


def network(name: str, batch: int, peer: str, folder: Path) -> Record:
    """optgraph and one peer on one network, in turns; or why the peer cannot run."""
    row: Record = {"kind": "network", "network": name, "batch": batch, "peer": peer}
    compiled = _net(name, folder)
    x = torch.from_numpy(next(iter(example(compiled.inputs, batch, seed=0).values()))).cuda()
    try:
        theirs = peers.PEERS[peer](compiled.simplified, x)
        theirs.run()
    except Exception as reason:  # whatever a peer fails with is the reason that the results give
        torch.cuda.synchronize()  # raises if the device is broken now, which is no reason to skip all the others
        return row | {"skipped": _line(reason)}
    with peers.ours(compiled, x) as ours:
        for _ in range(3):  # launches, records, replays
            ours.run()
        torch.cuda.synchronize()
        row["apart"], _ = distance(ours.result(), theirs.result())
        if not row["apart"] <= AGREEMENT:
            raise WrongError(f"the answers are {row['apart']:.1e} apart")
        timers = {theirs.run: theirs.timer}
        return row | race(
            {"ours": ours.run, "theirs": theirs.run}, lambda run, times: timers.get(run, cuda_timer)(run, times)
        )


def layer_tasks(batch: int, folder: Path) -> Iterator[Task]:
    """The distinct convolutions of the three networks at one batch."""
    seen: set[Layer] = set()
    for name in record.NETWORKS:
        found = _layers(name, batch, folder)
        bind = binder([layer.dry(target_of(_cuda())) for layer in found if layer.name in KERNELS], _cuda())
        for layer, count in found.items():
            if layer not in seen and layer.name in KERNELS:
                seen.add(layer)
                key = f"layer {batch} {layer.key}"
                about_it = {"network": name, "count": count}
                run = lambda k=layer, b=bind, a=about_it: measure_layer(k, batch, _cuda(), b) | a  # noqa: E731
                yield Task(key, run, LAYER_SECONDS)


def measure_layer(layer: Layer, batch: int, device: torch.device, bind: Bind) -> Record:
    """One layer against cuDNN, and a fused one against our own kernels called one by one."""
    row: Record = {"kind": "layer", "layer": str(layer), "kernel": layer.name, "batch": batch, "peer": "cuDNN"}
    operands = layer.operands(device)
    launch, expected, theirs = bind(operands.launch()), operands.expected(), cudnn.cudnn(operands)
    assert theirs is not None
    try:
        answers = theirs()
    except RuntimeError as reason:
        torch.cuda.synchronize()
        return row | {"skipped": _line(reason)}
    apart = max(distance(answer, value)[0] for answer, value in zip(answers, expected, strict=True))
    if not apart <= 2 * layer.bound:
        return row | {"skipped": f"cuDNN is off by {apart:.1e}"}
    check(operands, launch, layer.bound, str(layer))
    sides: dict[str, Run] = {"ours": launch, "theirs": theirs}
    merged = layer.name == "pointwise"
    apiece = separate(operands, bind) if batch in MERGED_BATCHES or not merged else None
    if apiece is not None:
        sides["separate"] = apiece
    with torch.no_grad():
        return row | race({key: captured(run, LAYER_RUNS) for key, run in sides.items()}, cuda_timer, LAYER_RUNS)


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if isinstance(error, peers.UnavailableError) else f"{type(error).__name__}: {(text or [''])[0]}"


def race(sides: dict[str, Run], timer: Timer, runs: int = 1) -> Record:
    """Milliseconds of each side, and how many times ours each other takes. runs: in one call of a side."""
    found = {key: _divided(times, runs) for key, times in interleaved(sides, timer, BLOCKS).items()}
    ours = found["ours"]["median"]
    return {"ms": found, "ratio": {key: times["median"] / ours for key, times in found.items() if key != "ours"}}


def _divided(times: Times, runs: int) -> dict[str, float]:
    blocks = times.blocks
    return {key: value / runs for key, value in asdict(times).items() if key != "blocks"} | {"blocks": blocks}


COLD_START = """
import sys, time
import torch, optgraph
torch.zeros(1, device="cuda")
x = torch.randn(*map(int, sys.argv[2:]))
start = time.perf_counter()
optgraph.load(sys.argv[1], backend="triton")(x)
print(time.perf_counter() - start)
"""


def cold_start(name: str, folder: Path) -> Record:
    """Seconds from opening an artifact to its first answer, in a fresh process with an empty Triton cache.

    torch and the CUDA context are there already; `process` counts them in.
    """
    (value,) = _net(name, folder).inputs.values()
    artifact, shape = _artifact(name, folder), [str(d) if isinstance(d, int) else "1" for d in value.shape]
    with tempfile.TemporaryDirectory() as cache_folder:
        environment = os.environ | {"TRITON_CACHE_DIR": cache_folder}
        command = [sys.executable, "-c", COLD_START, str(artifact), *shape]
        start = time.perf_counter()
        run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=record.ROOT)
        seconds = time.perf_counter() - start
    if run.returncode:
        return {"kind": "cold start", "network": name, "skipped": run.stderr.strip().splitlines()[-1]}
    return {"kind": "cold start", "network": name, "seconds": float(run.stdout), "process": seconds}


# ---- networks, made once a process


@cache
def _net(name: str, folder: Path) -> Net:
    """Loaded from an artifact that has all kernels, which all cores compiled: once, for all processes."""
    if not _artifact(name, folder).exists():
        compiled = compiling.compile(
            record.model(name, folder), "torch", DTYPE, batches=PLANNED_BATCHES, targets=[str(target_of(_cuda()))]
        )
        compiled.save(_artifact(name, folder))
    return compiling.load(_artifact(name, folder), "triton")


def _cuda() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


def _artifact(name: str, folder: Path) -> Path:
    """Of this code and these tiles."""
    version = record.digest([*config.tuned_folder().glob("*.json")]) + record.sources()
    return folder / f"{name}-{version}.optgraph"


@cache
def _layers(name: str, batch: int, folder: Path) -> Counter[Layer]:
    return layers(_net(name, folder).plan(batch), _net(name, folder).fused)
