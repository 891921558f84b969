"""The launches of a plan recorded as CUDA graphs, in which independent branches run at the same time.

Streams are needed only to record it: what is enqueued on them, and what they wait for, become the nodes and edges of
the graph. A side stream enters the recording by waiting for one of its events, and must be waited for before it ends
(CUDA C++ Programming Guide, "Cross-stream Dependencies and Events").

A launch that follows one of ours on its stream, and nothing else, may begin before that ends: its edge in the graph is
then a programmatic one ("Programmatic Dependent Launch and Synchronization"). One that also waits for another stream
may not: what CUDA makes of such a mixture is written nowhere.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

import torch

from optgraph.plan.plan import Schedule
from optgraph.run.driver import Bound, new_stream

# torch records one graph at a time in a process.
_RECORDING = threading.Lock()
_STREAMS: dict[int, list[torch.cuda.Stream]] = {}  # by device; those that record, one graph at a time


def capturing(device: torch.device) -> bool:
    """Whether what is enqueued now becomes part of a CUDA graph that the caller records."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def recorded(
    launches: Sequence[Callable[[], None]], kernels: Sequence[bool], schedule: Schedule
) -> list[Callable[[], None]]:
    """What runs the launches in their order: every run of kernels as the replay of one graph, and what is no kernel, as
    a fallback, between them as it is, for it may allocate and synchronise."""
    steps: list[Callable[[], None]] = []
    for kernel, group in groupby(range(len(launches)), key=kernels.__getitem__):
        numbers = list(group)
        start, stop = numbers[0], numbers[-1] + 1
        if kernel:
            steps.append(capture(launches[start:stop], schedule.part(start, stop)).replay)
        else:
            steps += launches[start:stop]
    return steps


def capture(launches: Sequence[Callable[[], None]], schedule: Schedule) -> torch.cuda.CUDAGraph:
    """Records the launches on the current device. They must have run before, so that none has to compile any more,
    and the caller keeps their tensors as long as the graph."""
    graph = torch.cuda.CUDAGraph()
    with _RECORDING:
        streams = _own_streams(schedule.streams)
        # Not torch.cuda.graph, which waits for all that the device does, other streams too, and lets go of the memory
        # that torch keeps: what is recorded allocates nothing, and needs nothing to be done.
        # thread_local: other threads may allocate and compile meanwhile.
        with torch.cuda.stream(streams[0]):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                enqueue(launches, schedule, streams)
            finally:
                graph.capture_end()
    return graph


def _own_streams(count: int) -> list[torch.cuda.Stream]:
    """Streams of the current device that nobody else has. torch hands out the same 32 again and again: one of them may
    be a user's, and what another thread enqueues there would be recorded."""
    device = torch.cuda.current_device()
    streams = _STREAMS.setdefault(device, [])
    while len(streams) < count:
        streams.append(torch.cuda.ExternalStream(new_stream(), device=device))  # type: ignore[no-untyped-call]
    return streams[:count]


def enqueue(launches: Sequence[Callable[[], None]], schedule: Schedule, streams: Sequence[torch.cuda.Stream]) -> None:
    """Enqueues the launches on streams as scheduled, all of it after what is on the first stream and before what
    follows there."""
    first, *side = streams
    start = first.record_event()
    for stream in side:
        stream.wait_event(start)
    awaited = {j for calls in schedule.waits for j in calls}
    early = schedule.chained
    done: dict[int, torch.cuda.Event] = {}
    for i, launch in enumerate(launches):
        stream = streams[schedule.stream[i]]
        for j in schedule.waits[i]:
            stream.wait_event(done[j])
        with torch.cuda.stream(stream):
            begin(launch, early[i])
        if i in awaited:
            done[i] = stream.record_event()
    for stream in side:
        first.wait_event(stream.record_event())


def enqueue_in_turn(launches: Iterable[Callable[[], object]]) -> None:
    """Enqueues the launches, and runs what is none, one after the other on the current stream."""
    before: Callable[[], object] | None = None
    for launch in launches:
        begin(launch, isinstance(before, Bound))
        before = launch


def begin(launch: Callable[[], object], early: bool) -> None:
    """Enqueues a launch. early: it follows one of ours on its stream, nothing else, and may begin before that ends."""
    if early and isinstance(launch, Bound):
        launch.early()
    else:
        launch()
