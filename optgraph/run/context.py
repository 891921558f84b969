"""Executes a Plan: a loop over launches, with no graph logic.

A Context owns what one run at a time needs: arena, input buffers, launches bound to them. On a GPU these are captured
into CUDA graphs after the first run and replayed (`capture.py`); in a CUDA graph that the caller records, they become
part of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.view import View
from optgraph.plan.buffers import Buffers
from optgraph.plan.plan import Call, Plan
from optgraph.plan.weights import Weights
from optgraph.run.capture import capturing, enqueue_in_turn, recorded

Tensors = Mapping[str, torch.Tensor]

# Makes of Launches, and of fallbacks' functions, what enqueues them: on a GPU, cubins launched through the driver.
Prepare = Callable[[Sequence[Callable[[], None]]], list[Callable[[], None]]]


def with_workspaces(
    launches: Sequence[Callable[[], None]], streams: Sequence[int], device: torch.device
) -> list[Callable[[], None]]:
    """The launches with the scratch memory they need: one piece a stream, for those on one never run together."""
    sizes: dict[int, int] = {}
    for launch, stream in zip(launches, streams, strict=True):
        if isinstance(launch, Launch):
            sizes[stream] = max(sizes.get(stream, 0), launch.workspace)
    workspaces = {stream: torch.zeros(size, dtype=torch.uint8, device=device) for stream, size in sizes.items()}
    return [
        launch.with_workspace(workspaces[stream]) if isinstance(launch, Launch) and launch.workspace else launch
        for launch, stream in zip(launches, streams, strict=True)
    ]


class Context:
    """The buffers and bound launches of one plan on one device; for one use at a time, between `begin` and `end`.

    inputs: the tensors that it reads, by name. outputs: by public name, what a run leaves, until the next: N×C×H×W as
    the model's, with the strides and in the type that the plan has.
    types: the model's, of the outputs. kernels: of each launch, whether it is one, and no fallback.
    """

    def __init__(
        self,
        plan: Plan,
        weights: Weights,
        device: torch.device,
        prepare: Prepare,
        types: Mapping[str, torch.dtype],
    ) -> None:
        self.plan = plan
        self._device = device
        self._buffers = Buffers(plan, weights, device)
        self.inputs = self._buffers.inputs
        self.outputs = {public: self._buffers.output(public) for public in plan.outputs}
        self._types = {public: torch.promote_types(out.dtype, types[public]) for public, out in self.outputs.items()}
        launches = [self._buffers.bind(call) for call in plan.calls]
        self.kernels = tuple(isinstance(launch, Launch) for launch in launches)
        self._launches = prepare(with_workspaces(launches, plan.schedule.stream, device))
        self._replays: list[Callable[[], None]] = []
        self._stream: torch.cuda.Stream | None = None  # of the use that has begun
        self._last_use: torch.cuda.Event | None = None
        self.inside = False  # whether that use becomes part of a graph that the caller records

    def begin(self) -> None:
        """Begins a use, after what an earlier one, maybe on another stream, has enqueued on a GPU.

        A recording of the caller's has no ties to what is outside of it, and began when the device had nothing to do.
        """
        self.inside = capturing(self._device)
        if self._device.type == "cpu" or self.inside:
            return
        self._stream = torch.cuda.current_stream(self._device)
        if self._last_use is not None:
            self._last_use.wait(self._stream)
        else:
            self._last_use = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def end(self) -> None:
        """Ends the use."""
        if self._stream is not None and self._last_use is not None:
            self._last_use.record(self._stream)
            self._stream = None

    def view(self, view: View) -> torch.Tensor:
        """The tensor a View stands for."""
        return self._buffers.view(view)

    def result(self, value: str) -> torch.Tensor:
        """What a region gave; of integers, the numbers that they stand for."""
        tensor, quant = self.view(self.plan.results[value]), self.plan.grids.get(value)
        return tensor if quant is None else quant.real(tensor.float())

    def load(self, feeds: Tensors) -> None:
        """Copies the inputs in."""
        for name, tensor in feeds.items():
            # Recorded for a gradient, a copy would hold on to every call's inputs.
            self.inputs[name].copy_(tensor.detach() if tensor.requires_grad else tensor)

    def run(self) -> None:
        """Runs every launch on what the inputs hold: one after the other the first time, later by CUDA graphs."""
        if self._replays and not self.inside:
            for step in self._replays:
                step()
            return
        enqueue_in_turn(self._launches)
        if self._device.type == "cuda" and not self.inside:
            self._replays = recorded(self._launches, self.kernels, self.plan.schedule)

    def finish(self) -> None:
        """Waits for the last use, so that the memory may be let go: it returns to the stream that it was made on, and
        others may have used it."""
        if self._last_use is not None:
            self._last_use.synchronize()

    def steps(self) -> Iterator[Call]:
        """Runs launch by launch, yielding each call after it: its results are valid until the next step."""
        for call, launch in zip(self.plan.calls, self._launches, strict=True):
            launch()
            yield call

    def results(self) -> dict[str, torch.Tensor]:
        """Copies of the outputs, by public name, dense, in the model's types where these lose no bit."""
        dense = torch.contiguous_format
        return {
            public: tensor.to(self._types[public], copy=True, memory_format=dense)
            for public, tensor in self.outputs.items()
        }
