"""Benchmark: a compiled net against ONNX Runtime on the original model, on the same machine and input.

A machine's speed drifts by more than two engines differ, so the runs alternate and the ratio is taken pair by pair.
Nothing is timed before both have given the same answer.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from optgraph.api.feeds import batch_of
from optgraph.api.net import Net
from optgraph.base.budget import DEFAULT, Budget
from optgraph.base.errors import InputError, OptgraphError
from optgraph.base.progress import Progress, silent
from optgraph.base.version import version
from optgraph.compare.oracle import allowed, coarseness, distance, furthest
from optgraph.compare.original import Original
from optgraph.compare.verify import computed_dtype, open_with_original, verify_net
from optgraph.onnx.inlining import inlined
from optgraph.onnx.inputs import overridden, reshape
from optgraph.onnx.load import load_model
from optgraph.onnx.narrowed import SHORT, has
from optgraph.onnx.on_disk import OnDisk
from optgraph.onnx.ort_faults import named_outputs
from optgraph.onnx.parts import cut
from optgraph.onnx.read import InputShape
from optgraph.onnx.sessions import Feeds, InnerValues, session
from optgraph.onnx.sizes import Size
from optgraph.ops.quantised import on_grids
from optgraph.plan.batches import fitting_batch
from optgraph.run.backends import OnnxRuntime, opener
from optgraph.run.example import example
from optgraph.tune.timing import Times

AGAINST = ("onnxruntime",)
WARM_UPS = 3  # the first run compiles kernels, the second records a CUDA graph, the third replays it
# An engine's worker threads spin for a while after its run, waiting for the next one. On two cores that alone made the
# same ONNX Runtime session up to 1.7 times slower when the other side ran right before it.
PAUSE_SECONDS = 0.05
MOST_THREADS = 1024  # more than any machine has cores; each is started, and has a stack
PACKAGES = ("torch", "onnxruntime", "onnx", "triton")

Runner = Callable[[Feeds], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Spread:
    """Of the times of one side, in milliseconds; `iqr` is the third quartile less the first.

    p90, p99: what so many of 100 runs stay below; of fewer than 100 runs, p99 is close to the longest.
    """

    min: float
    max: float
    iqr: float
    p90: float
    p99: float

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Spread:
        times = Times.of(milliseconds)
        p90, p99 = np.percentile(milliseconds, (90, 99))
        return cls(times.min, times.max, times.iqr, float(p90), float(p99))


@dataclass(frozen=True)
class Comparison:
    """What `bench` measured. Times are in milliseconds, of a whole batch, host memory to host memory.

    ours_ms, theirs_ms: medians; images_per_second: of both, by these.
    ratio:              median over the pairs of theirs / ours: above 1, ours is faster.
    ratio_of_medians:   theirs_ms / ours_ms; far from `ratio`, the machine was not steady.
    repeats:            pairs timed. warm_up: runs of each side before these.
    runs:               the time of each run, in the order of the pairs; not in the JSON.
    threads:            what both sides were given on the CPU.
    device:             what ours ran on; theirs runs on the CPU.
    """

    model: str
    backend: str
    against: str
    dtype: str
    batch: int
    threads: int
    device: str
    ours_ms: float
    theirs_ms: float
    ratio: float
    ratio_of_medians: float
    images_per_second: Mapping[str, float]
    repeats: int
    warm_up: int
    spread: Mapping[str, Spread]
    versions: Mapping[str, str]
    runs: Mapping[str, Sequence[float]]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        data = asdict(self)
        del data["runs"]
        return data


def bench(
    model: str | Path,
    against: str = "onnxruntime",
    backend: str = "auto",
    batch: int | None = None,
    dtype: str = "fp32",
    threads: int | None = None,
    repeats: int = 20,
    min_seconds: float = 2.0,
    input_shape: InputShape | Mapping[str, InputShape] | None = None,
    original: str | Path | None = None,
    progress: Progress = silent,
    outputs: Sequence[str] = (),
    budget: Budget = DEFAULT,
    size: Size | None = None,
    keep_fp32: Sequence[str] | str = (),
    warm_up: int = WARM_UPS,
    read: Callable[[Net], Feeds] | None = None,
) -> Comparison:
    """Times a backend against ONNX Runtime (CPU, float32, all of its optimisations that are right: see `ort_faults`) on
    the original ONNX model.

    model, backend, dtype, input_shape, original, outputs, budget, size, keep_fp32: as for `verify`. A model that is cut
        off is cut for both.
    threads: of both sides on the CPU; by default as many as torch takes, one for a physical core.
    repeats, min_seconds: pairs of runs; more, if these take less than `min_seconds` in all.
    warm_up: runs of each before, the first of which are compared.
    batch: of smooth random images, by default one.
    read: has other images for the net, which then are the batch.
    Raises OptgraphError if the two answers differ by more than `verify` allows, and else as `verify`.
    """
    if against not in AGAINST:
        raise InputError(f"cannot compare with '{against}': use {', '.join(AGAINST)}")
    if min(repeats, warm_up) < 1:
        raise InputError("repeats and warm-up are at least 1")
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise InputError(f"threads are at least 1, and at most {MOST_THREADS}")
    progress("compile", 0.0)
    settings = dtype, input_shape, original, outputs, budget, size, keep_fp32
    net, source = open_with_original(model, backend, *settings, progress=progress)
    given = read(net) if read else None
    images = fitting_batch(net.inputs, batch_of(given, net.inputs) if given else 1 if batch is None else batch)
    if given and batch not in (None, images):
        raise InputError(f"batch {batch}: the images given are {images}, and run as one batch: leave it out")
    feeds, batch = given or example(net.inputs, images, seed=0), images
    threads = threads or torch.get_num_threads()
    whole = load_model(source)
    files = OnDisk()
    theirs = _onnxruntime(source, whole, list(net.outputs), threads, feeds, files)
    with _torch_threads(threads):
        ours = _ours(net, batch, threads)
        progress("warm-up", 0.0)
        answers = theirs(feeds)
        dtype, reference = computed_dtype(net), Original(net, InnerValues(whole, widened=True), [feeds], batch, seed=0)
        noise, _ = reference.noise()
        coarse = coarseness(net, dtype, [feeds], reference.answers, reference.scales)
        wanted = reference.answers[0] if has(whole, SHORT) else answers  # it rounds to 16 bits, where we do not
        found, grids = ours(feeds), on_grids(net.fused)
        bound = allowed(dtype, max(noise, coarse), grids)
        if grids and furthest(found, wanted, reference.scales) > bound:  # by a fault, or by steps that add up
            bound = _by_regions(net, source, feeds)
        require_agreement(found, wanted, reference.scales, bound)
        for run in (ours, theirs) * (warm_up - 1):
            run(feeds)
        ours_s, theirs_s = interleave(
            lambda: ours(feeds), lambda: theirs(feeds), repeats, min_seconds, lambda done: progress("timing", done)
        )
    return _compare(net, against, batch, threads, warm_up, ours_s, theirs_s)


def _by_regions(net: Net, source: Path, feeds: Feeds) -> float:
    """What `verify` allows the answers of a network of 8 bits. Raises OptgraphError if it is not ok."""
    verified = verify_net(net, source, inputs=[feeds], backend=net.backend)
    if not verified.ok:
        raise OptgraphError(f"not timed, for the answers differ: {verified.reason}")
    return verified.bound


def require_agreement(ours: Feeds, theirs: Feeds, scales: Mapping[str, float], bound: float) -> None:
    """Raises OptgraphError, naming the output, unless each of theirs is matched within `bound` in relative L2."""
    for name, expected in theirs.items():
        error, _ = distance(ours[name], expected, scales[name])
        if error > bound:
            raise OptgraphError(
                f"not timed, for the answers differ: output '{name}' is off by {error:.1e}, over {bound:.1e} "
                "in relative L2: run verify to see where"
            )


def interleave(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    repeats: int,
    min_seconds: float,
    tell: Callable[[float], None] = lambda done: None,
    clock: Callable[[], float] = time.perf_counter,
    pause: Callable[[float], None] = time.sleep,
) -> tuple[list[float], list[float]]:
    """Seconds of each run of both, taken in pairs, each starting with the one the last pair ended with.

    At least `repeats` pairs, and for at least `min_seconds`, pauses included. Before each run both sides' threads are
    left to go to sleep.
    """
    times: tuple[list[float], list[float]] = ([], [])
    began, spent = clock(), 0.0
    while len(times[0]) < repeats or spent < min_seconds:
        for side in (0, 1) if len(times[0]) % 2 == 0 else (1, 0):
            pause(PAUSE_SECONDS)
            start = clock()
            (ours, theirs)[side]()
            times[side].append(clock() - start)
        spent = clock() - began
        tell(min(len(times[0]) / repeats, spent / min_seconds if min_seconds else 1.0, 1.0))
    return times


# ---- the two sides: each takes and gives arrays in host memory


def _ours(net: Net, batch: int, threads: int) -> Runner:
    runtime = OnnxRuntime(net.simplified, threads, opener(net.dtype)) if net.backend == "onnxruntime" else net.runtime

    def call(feeds: Feeds) -> dict[str, np.ndarray]:
        results = runtime({name: torch.from_numpy(array) for name, array in feeds.items()}, batch)
        return {name: result.float().cpu().numpy() for name, result in results.items()}

    return call


def _onnxruntime(
    path: Path, model: onnx.ModelProto, names: Sequence[str], threads: int, feeds: Feeds, files: OnDisk
) -> Runner:
    whole = list(names) == [output.name for output in model.graph.output]
    shapes = {name: array.shape for name, array in feeds.items()}
    if whole and all(all(node.output) for node in model.graph.node) and not overridden(model, shapes):
        running = session(str(path), threads)
    else:
        part = cut(inlined(model, DEFAULT), names)
        nodes = named_outputs(list(part.graph.node))
        del part.graph.node[:]
        part.graph.node.extend(nodes)
        reshape(part, shapes)
        running = session(files.save(part), threads)

    def call(feeds: Feeds) -> dict[str, np.ndarray]:
        try:
            return dict(zip(names, running.run(names, feeds), strict=True))
        except OptgraphError as error:
            raise OptgraphError(f"{path}: on the same input, {error}") from None

    return call


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ---- the result


def _compare(
    net: Net, against: str, batch: int, threads: int, warm_up: int, ours: Sequence[float], theirs: Sequence[float]
) -> Comparison:
    runs = {side: [1e3 * second for second in seconds] for side, seconds in (("ours", ours), ("theirs", theirs))}
    medians = {side: statistics.median(times) for side, times in runs.items()}
    return Comparison(
        model=net.source.name,
        backend=net.backend,
        against=against,
        dtype=computed_dtype(net),
        batch=batch,
        threads=threads,
        device=torch.cuda.get_device_name() if net.backend == "triton" else _processor(),
        ours_ms=medians["ours"],
        theirs_ms=medians["theirs"],
        ratio=statistics.median(t / o for o, t in zip(ours, theirs, strict=True)),
        ratio_of_medians=medians["theirs"] / medians["ours"],
        images_per_second={side: 1e3 * batch / median for side, median in medians.items()},
        repeats=len(ours),
        warm_up=warm_up,
        spread={side: Spread.of(times) for side, times in runs.items()},
        versions={
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
            "optgraph": version(),
        },
        runs=runs,
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    """The CPU's name: Python knows it on few systems, Linux writes it down."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
