"""The launches of a plan recorded as one CUDA graph, in which independent branches run at the same time.

Streams are needed only to record it: what is enqueued on them, and what they wait for, become the nodes and edges of
the graph. A side stream enters the recording by waiting for one of its events, and must be waited for before it ends
(CUDA C++ Programming Guide, "Cross-stream Dependencies and Events").
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import torch

from optgraph.plan.plan import Schedule

# torch records one graph at a time in a process.
_RECORDING = threading.Lock()


def capture(launches: Sequence[Callable[[], None]], schedule: Schedule) -> torch.cuda.CUDAGraph:
    """Records the launches on the current device. They must have run before, so that none has to compile any more,
    and the caller keeps their tensors as long as the graph."""
    graph = torch.cuda.CUDAGraph()
    with _RECORDING:
        streams = [torch.cuda.Stream() for _ in range(schedule.streams)]  # type: ignore[no-untyped-call]
        # thread_local: other threads may allocate and compile meanwhile.
        with torch.cuda.graph(graph, stream=streams[0], capture_error_mode="thread_local"):
            enqueue(launches, schedule, streams)
    return graph


def enqueue(launches: Sequence[Callable[[], None]], schedule: Schedule, streams: Sequence[torch.cuda.Stream]) -> None:
    """Enqueues the launches on streams as scheduled, all of it after what is on the first stream and before what
    follows there."""
    first, *side = streams
    begin = first.record_event()
    for stream in side:
        stream.wait_event(begin)
    awaited = {j for calls in schedule.waits for j in calls}
    done: dict[int, torch.cuda.Event] = {}
    for i, launch in enumerate(launches):
        stream = streams[schedule.stream[i]]
        for j in schedule.waits[i]:
            stream.wait_event(done[j])
        with torch.cuda.stream(stream):
            launch()
        if i in awaited:
            done[i] = stream.record_event()
    for stream in side:
        first.wait_event(stream.record_event())
