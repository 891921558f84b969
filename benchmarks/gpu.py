"""The race on a GPU: optgraph against its peers, whole networks and single layers, in float16.

    python -m benchmarks.gpu [--minutes 10] [--out FOLDER] [--commit HASH] [--only SUBSTRING]

Every measurement is kept in FOLDER/gpu.json when it is done, and the next call goes on from there, if device, versions
and code are the same. Nothing is timed before the two sides' answers agree. FOLDER/gpu.png shows the networks.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch

from benchmarks import cudnn, gpu_report, peers, record
from optgraph.api import net
from optgraph.base import config
from optgraph.base.store import Record, Store, Task
from optgraph.compare.oracle import distance
from optgraph.kernels.frame.tile import PLANNED_BATCHES
from optgraph.run.example import example
from optgraph.tune.layers import Layer, binder, layers, target_of
from optgraph.tune.timing import Run, Timer, Times, captured, cuda_timer, interleaved

BATCHES = (1, 128, 8, 64)  # what matters most comes first, for time may run out
LAYER_BATCHES = (1, 8, 128)
MERGED_BATCHES = (1, 8)
KERNELS = ("conv2d", "pointwise", "separable", "bottleneck")
DTYPE = "fp16"
BLOCKS = 21  # of runs, a side
LAYER_RUNS = 20  # in one CUDA graph
UNFINISHED = 75  # exit code: nothing is wrong, and there is more to do
AGREEMENT = 1e-2  # relative L2 between the answers of two sides: twice what each may be from float32


# ---- what is measured


def tasks(folder: Path) -> Iterator[Task]:
    """Every measurement: the quick ones first, then what matters most."""

    def races(peer: str, *batches: int) -> Iterator[Task]:
        for batch, name in itertools.product(batches, record.NETWORKS):
            yield f"network {name} {batch} {peer}", lambda n=name, b=batch: network(n, b, peer, folder)

    yield from races("torch eager", *BATCHES)
    for name in record.NETWORKS:
        yield f"cold start {name}", lambda n=name: cold_start(n, folder)
    for batch in BATCHES:
        yield from races("torch.compile", batch)
        if batch in LAYER_BATCHES:
            yield from layer_tasks(batch, folder)
    for peer in peers.PEERS:
        if peer not in ("torch eager", "torch.compile"):
            yield from races(peer, *BATCHES)


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
        if row["apart"] > AGREEMENT:
            return row | {"skipped": f"the answers are {row['apart']:.1e} apart"}
        timers = {theirs.run: theirs.timer}
        return row | race(
            {"ours": ours.run, "theirs": theirs.run}, lambda run, times: timers.get(run, cuda_timer)(run, times)
        )


def layer_tasks(batch: int, folder: Path) -> Iterator[Task]:
    """The distinct convolutions of the three networks at one batch."""
    seen: set[Layer] = set()
    for name in record.NETWORKS:
        for layer, count in _layers(name, batch, folder).items():
            if layer not in seen and layer.name in KERNELS:
                seen.add(layer)
                key = f"layer {batch} {layer.key}"
                yield (
                    key,
                    lambda k=layer, n=name, c=count: measure_layer(k, batch, _cuda()) | {"network": n, "count": c},
                )


def measure_layer(layer: Layer, batch: int, device: torch.device) -> Record:
    """One layer against cuDNN, and a fused one against our own kernels called one by one."""
    row: Record = {"kind": "layer", "layer": str(layer), "kernel": layer.name, "batch": batch, "peer": "cuDNN"}
    operands = layer.operands(device)
    bind = binder([], device)
    launch, expected, theirs = bind(operands.launch()), operands.expected(), cudnn.cudnn(operands)
    assert theirs is not None
    try:
        answers = theirs()
    except RuntimeError as reason:
        torch.cuda.synchronize()
        return row | {"skipped": _line(reason)}
    error = operands.error(launch, expected)
    apart = max(distance(answer, value)[0] for answer, value in zip(answers, expected, strict=True))
    if max(error, apart) > 2 * layer.bound:
        return row | {"skipped": f"off by {error:.1e}, cuDNN by {apart:.1e}"}
    sides: dict[str, Run] = {"ours": launch, "theirs": theirs}
    merged = layer.name == "pointwise"
    apiece = cudnn.separate(operands, bind) if batch in MERGED_BATCHES or not merged else None
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
def _net(name: str, folder: Path) -> net.Net:
    """Loaded from an artifact that has all kernels, which all cores compiled."""
    compiled = net.compile(
        record.model(name, folder), "torch", DTYPE, batches=PLANNED_BATCHES, targets=[str(target_of(_cuda()))]
    )
    compiled.save(_artifact(name, folder))
    return net.load(_artifact(name, folder), "triton")


def _cuda() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


def _artifact(name: str, folder: Path) -> Path:
    return folder / f"{name}.optgraph"


@cache
def _layers(name: str, batch: int, folder: Path) -> Counter[Layer]:
    return layers(_net(name, folder).plan(batch), _net(name, folder).fused)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="start nothing new after this long")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="where gpu.json is and goes")
    parser.add_argument("--commit", default="", help="what is measured, where there is no git to ask")
    parser.add_argument("--only", default="", help="measurements whose key contains this")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks.gpu needs an NVIDIA GPU: torch sees none")
    deadline = time.monotonic() + 60 * options.minutes
    identity = record.identity() | {"tiles": record.digest(config.tuned_folder().glob("*.json"))}
    store = Store(options.out / "gpu.json", identity, record.environment(options.commit) | {"dtype": DTYPE})
    finished = store.complete((task for task in tasks(record.MODELS) if options.only in task[0]), deadline)
    rows = list(store.records.values())
    print("\n".join(gpu_report.summary(rows)))
    print("\n".join(f"did not end, begun {times} times: {key}" for key, times in store.begun.items()))
    with suppress(ImportError):  # without matplotlib there is no plot
        gpu_report.plot(rows, options.out / "gpu.png", torch.cuda.get_device_name())
    print(f"{len(rows)} measurements in {store.path}; " + ("all done" if finished else "call again for the rest"))
    return 0 if finished else UNFINISHED


if __name__ == "__main__":
    sys.exit(main())
