"""A GPU that is not there, for the runtime's own code around launches: streams, recordings, buffers, whose turn it is.

Memory is the CPU's. A launch runs at once, or becomes part of the graph that is recorded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from optgraph.kernels.frame.launch import Launch
from optgraph.plan.buffers import Buffers
from optgraph.plan.weights import Weights
from optgraph.run import context
from optgraph.run.engine import _INTERPRETER

CPU = torch.device("cpu")
Run = Callable[[], None]


class Event:
    """What is enqueued is done at once: there is nothing to wait for."""

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu

    def record(self, stream: Stream | None = None) -> None:
        self._gpu.done.append(f"record on {(stream or self._gpu.current).cuda_stream}")

    def wait(self, stream: Stream | None = None) -> None:
        self._gpu.done.append(f"wait on {(stream or self._gpu.current).cuda_stream}")

    def synchronize(self) -> None:
        self._gpu.done.append("synchronize")


class Stream:
    def __init__(self, gpu: FakeGpu, handle: int = 0) -> None:
        self._gpu = gpu
        self.cuda_stream = handle

    def record_event(self) -> Event:
        event = Event(self._gpu)
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        event.wait(self)

    def wait_stream(self, stream: Stream) -> None:
        self.wait_event(stream.record_event())


class Graph:
    """What was enqueued between its beginning and its end."""

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu
        self.launches: list[Run] = []

    def capture_begin(self, capture_error_mode: str = "global") -> None:
        self._gpu.done.append(f"capture {capture_error_mode}")
        self._gpu.recording = self

    def capture_end(self) -> None:
        self._gpu.recording = None

    def replay(self) -> None:
        self._gpu.done.append("replay")
        for launch in self.launches:
            launch()


class _Thread(threading.local):
    """What torch has for each thread."""

    recording: Graph | None = None
    stream: Stream | None = None


def interpreted(launch: Run) -> None:
    """The launch, run by Triton's interpreter, which is one at a time."""
    with _INTERPRETER, np.errstate(all="ignore"):
        launch()


class FakeGpu:
    """What torch takes for an H100, the only one.

    compute: what runs a launch, by default Triton's interpreter. done: what was asked of it, in order. Of this thread,
    recording: the graph that is recorded, ours or the caller's; current: the stream that is.
    """

    def __init__(self, patch: pytest.MonkeyPatch, compute: Callable[[Run], None] = interpreted) -> None:
        self.compute = compute
        self.done: list[str] = []
        self._thread, self._default = _Thread(), Stream(self)
        cuda: dict[str, Any] = {
            "is_available": lambda: True,
            "current_device": lambda: 0,
            "get_device_capability": lambda device=None: (9, 0),
            "current_stream": lambda device=None: self.current,
            "is_current_stream_capturing": lambda: self.recording is not None,
            "_exchange_device": lambda index: 0,
            "_maybe_exchange_device": lambda index: 0,
            "stream": self.on,
            "synchronize": lambda: self.done.append("device synchronize"),
            "ExternalStream": lambda handle, device: Stream(self, handle),
            "Stream": lambda: Stream(self, 7),
            "Event": lambda: Event(self),
            "CUDAGraph": lambda: Graph(self),
            "graph": self.recorded_into,
        }
        for name, fake in cuda.items():
            patch.setattr(torch.cuda, name, fake)
        workspaces = context.with_workspaces
        patch.setattr(context, "Buffers", lambda plan, weights, device: Buffers(plan, weights, CPU))
        patch.setattr(context, "with_workspaces", lambda launches, streams, _: workspaces(launches, streams, CPU))
        patch.setattr("optgraph.run.engine.Weights", lambda constants, device, like: Weights(constants, CPU, like))
        patch.setattr("optgraph.run.backends.import_triton", lambda name: None)
        patch.setattr("optgraph.run.capture._STREAMS", {})
        patch.setattr("optgraph.run.capture.new_stream", lambda: 1)
        patch.setattr("optgraph.run.driver.Kernels", lambda *given, **options: self)

    @property
    def recording(self) -> Graph | None:
        return self._thread.recording

    @recording.setter
    def recording(self, graph: Graph | None) -> None:
        self._thread.recording = graph

    @property
    def current(self) -> Stream:
        return self._thread.stream or self._default

    def bind(self, launch: Run) -> Run:
        """As `Kernels.bind`."""
        return (lambda: self._enqueue(launch)) if isinstance(launch, Launch) else launch

    def bind_all(self, launches: Sequence[Run]) -> list[Run]:
        """As `Kernels.bind_all`."""
        return list(map(self.bind, launches))

    def _enqueue(self, launch: Run) -> None:
        recording = self.recording
        if recording is None:
            self.done.append("launch")
            self.compute(launch)
        else:
            recording.launches.append(lambda: self.compute(launch))

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        """As torch.cuda.stream."""
        outer, self._thread.stream = self._thread.stream, stream
        try:
            yield
        finally:
            self._thread.stream = outer

    @contextmanager
    def recorded_into(self, graph: Graph, stream: Stream | None = None, **options: str) -> Iterator[None]:
        """As torch.cuda.graph, which waits for all that the device does."""
        self.done.append("device synchronize")
        with self.on(stream or Stream(self, 99)):
            graph.capture_begin(**options)
            yield
            graph.capture_end()
