"""How long every region of a network takes, measured: where the time of a run goes, by the nodes of the model.

ONNX Runtime tells the time of each of its kernels by a name: that of a node as it was exported or, where it computes in
a blocked layout of its own, that of the value which the kernel gives, with `_nchwc` behind it. torch runs a region
after the other, and the interpreter a launch: they are timed from each to the next. On a GPU each launch is timed by
itself (`optgraph/tune/in_turn.py`), and then the CUDA graph of all.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from optgraph.api.net import Net
from optgraph.base.arrays import as_tensor
from optgraph.base.dtypes import INT8
from optgraph.base.errors import InputError
from optgraph.ir.graph import Node
from optgraph.onnx.sessions import Session, session
from optgraph.onnx.write import ModelWriter
from optgraph.plan.batches import fitting_batch
from optgraph.run.backends import Backend, OnnxRuntime
from optgraph.run.engine import Engine
from optgraph.run.example import example
from optgraph.tune.in_turn import in_turn
from optgraph.tune.timing import cuda_timer, interleaved

BLOCKED, KERNEL = "_nchwc", "_kernel_time"  # what ONNX Runtime puts behind a value's name, and behind a kernel's


@dataclass(frozen=True)
class Span:
    """A piece of a run. Times in seconds, from the run's start.

    name: of what ran. kind: of operator, or the kernel. region: the fused operator that it is of; '' where that is not
    known, as where ONNX Runtime changes a layout. held: bytes of memory in use then, None where nobody says.
    stream, waits: of a launch, as its plan's schedule has them; waits are places in the run.
    """

    name: str
    kind: str
    region: str
    start: float
    seconds: float
    held: int | None = None
    stream: int = 0
    waits: tuple[int, ...] = ()


@dataclass(frozen=True)
class Profile:
    """What was measured of some runs on a backend, each a list of spans in their order.

    whole: seconds of a run as its users have it, where its spans were timed each by itself: on a GPU, in which branches
    run at the same time. ahead: False if a GPU waited for the host, whose time is in the spans then.
    """

    backend: str
    batch: int
    runs: tuple[tuple[Span, ...], ...]
    whole: float | None = None
    ahead: bool = True

    def typical(self) -> tuple[Span, ...]:
        """The run that took the median time, of an even number the shorter."""
        return sorted(self.runs, key=_total)[(len(self.runs) - 1) // 2]

    def by_region(self) -> dict[str, float]:
        """Seconds of each region, the median over the runs; the longest first. '' has what is of none."""
        sums: list[dict[str, float]] = []
        for run in self.runs:
            found: dict[str, float] = {}
            for span in run:
                found[span.region] = found.get(span.region, 0.0) + span.seconds
            sums.append(found)
        names = dict.fromkeys(name for found in sums for name in found)
        medians = {name: statistics.median(found.get(name, 0.0) for found in sums) for name in names}
        return dict(sorted(medians.items(), key=lambda item: -item[1]))


def _total(run: Sequence[Span]) -> float:
    return sum(span.seconds for span in run)


def profile(net: Net, batch: int = 1, repeats: int = 5, threads: int = 0, nvtx: bool = False) -> Profile:
    """Runs `net` on made-up images, to warm up and then `repeats` times measured.

    threads: of ONNX Runtime, 0 for all cores. nvtx: whether to tell NVIDIA's profilers which launch is of what. Raises
    InputError for that without a GPU.
    """
    if nvtx and net.backend != "triton":
        raise InputError(f"NVTX ranges are for launches on a GPU, and this runs on {net.backend}: leave --nvtx out")
    batch = fitting_batch(net.inputs, batch)
    feeds = {name: as_tensor(array) for name, array in example(net.inputs, batch, seed=0).items()}
    if net.backend == "triton":
        return _on_gpu(net, feeds, batch, repeats, nvtx)
    if net.backend == "onnxruntime":
        runs = _by_onnxruntime(net, feeds, batch, repeats, threads)
    else:
        runs = [_one_by_one(net.runtime, feeds, batch) for _ in range(1 + repeats)][1:]
    return Profile(net.backend, batch, tuple(map(tuple, runs)))


def _one_by_one(backend: Backend, feeds: Mapping[str, torch.Tensor], batch: int) -> list[Span]:
    if isinstance(backend, Engine):
        return _by_launches(backend, feeds, batch)
    return _by_regions(backend, feeds, batch)


def _by_regions(backend: Backend, feeds: Mapping[str, torch.Tensor], batch: int) -> list[Span]:
    spans: list[Span] = []
    begin = last = time.perf_counter()

    def see(node: Node, _: Mapping[str, torch.Tensor]) -> None:
        nonlocal last
        now = time.perf_counter()
        spans.append(Span(node.name, node.op.kind, node.name, last - begin, now - last))
        last = time.perf_counter()

    backend.stepwise(feeds, batch, see)
    return spans


def _by_launches(engine: Engine, feeds: Mapping[str, torch.Tensor], batch: int) -> list[Span]:
    spans: list[Span] = []
    with engine.context(batch) as context:
        context.load(feeds)
        schedule = context.plan.schedule
        begin = last = time.perf_counter()
        for i, call in enumerate(context.steps()):
            now = time.perf_counter()
            took = last - begin, now - last
            spans.append(Span(call.node, call.name, call.node, *took, None, schedule.stream[i], schedule.waits[i]))
            last = time.perf_counter()
    return spans


def _on_gpu(net: Net, feeds: Mapping[str, torch.Tensor], batch: int, repeats: int, nvtx: bool) -> Profile:
    engine = net.runtime
    assert isinstance(engine, Engine)
    origin = {node.name: node.origin for node in net.fused.nodes()}
    with engine.context(batch) as context:
        context.load(feeds)
        context.run()  # what is recorded in it is replayed from then on
        plan = context.plan
        names = [f"{call.name} {', '.join(origin[call.node])}" for call in plan.calls]
        turns = in_turn(context, repeats, names if nvtx else ())
        whole = interleaved({"whole": context.run}, cuda_timer, repeats)["whole"].median / 1e3
    places = zip(plan.calls, plan.schedule.stream, plan.schedule.waits, strict=True)
    launches = [(call.node, call.name, stream, waits) for call, stream, waits in places]
    runs = []
    for seconds in turns.seconds:
        starts = itertools.accumulate(seconds, initial=0.0)
        runs.append(
            tuple(
                Span(node, kernel, node, start, took, None, stream, waits)
                for (node, kernel, stream, waits), start, took in zip(launches, starts, seconds, strict=False)
            )
        )
    return Profile(net.backend, batch, tuple(runs), whole, turns.ahead)


def _by_onnxruntime(
    net: Net, feeds: Mapping[str, torch.Tensor], batch: int, repeats: int, threads: int
) -> list[list[Span]]:
    opened: list[Session] = []

    with TemporaryDirectory() as folder:

        def profiled(model: bytes | str, threads: int = 0, optimize: bool = True) -> Session:
            opened.append(session(model, threads, optimize, Path(folder) / "profile", net.dtype == INT8))
            return opened[-1]

        backend = OnnxRuntime(net.simplified, threads, profiled)
        for _ in range(1 + repeats):
            backend(feeds, batch)
        events = opened[-1].profile()
    return spans_of(events, regions_by_name(net))[1:]


def regions_by_name(net: Net) -> dict[str, str]:
    """By the ONNX name of a node or a value of the exported network, the region that it is of."""
    of_onnx = {name: node.name for node in net.fused.nodes() for name in node.origin}
    regions = {node.name for node in net.fused.nodes()}
    of_node = {
        node.name: node.name
        if node.name in regions
        else next((of_onnx[name] for name in node.origin if name in of_onnx), "")
        for node in net.simplified.nodes()
    }
    writer = ModelWriter(net.simplified)
    found: dict[str, str] = {}
    for proto in writer.export().graph.node:
        region = of_node.get(writer.written.get(proto.name, ""), "")
        found |= dict.fromkeys((proto.name, *proto.output), region)
    return found


def spans_of(events: Sequence[Mapping[str, Any]], regions: Mapping[str, str]) -> list[list[Span]]:
    """The runs in a profile of ONNX Runtime's. regions: as of `regions_by_name`."""
    runs = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e["name"] == "model_run")
    found: list[list[Span]] = [[] for _ in runs]
    starts = np.array([start for start, _ in runs])
    for event in sorted(events, key=lambda event: event["ts"]):
        if event["cat"] != "Node" or not event["name"].endswith(KERNEL):
            continue
        name = event["name"].removesuffix(KERNEL)
        run = int(np.searchsorted(starts, event["ts"], side="right")) - 1
        region = regions.get(name) or regions.get(name.removesuffix(BLOCKED), "")
        held = event["args"].get("mem_bytes_in_use")
        start, seconds = (event["ts"] - runs[run][0]) / 1e6, event["dur"] / 1e6
        found[run].append(
            Span(name, event["args"]["op_name"], region, start, seconds, None if held is None else int(held))
        )
    return found
