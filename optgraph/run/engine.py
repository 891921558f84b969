"""The runtime: executes a Plan. A loop over launches, with no graph logic.

A Context owns what one run at a time needs (arena, input buffers, launches bound to them); an Engine hands contexts
out, so that threads share weights and plans and never a buffer. On a GPU the launches are captured into a CUDA graph
after the first run and replayed (`capture.py`); in a CUDA graph that the caller records, they become part of that.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from optgraph.ahead.cubins import Cubin
from optgraph.base.devices import INTERPRET, Target
from optgraph.base.errors import OptgraphError
from optgraph.ir.graph import Node
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.view import View
from optgraph.plan.buffers import Buffers
from optgraph.plan.plan import Call, Plan
from optgraph.plan.plans import Plans
from optgraph.plan.weights import Weights
from optgraph.run.capture import capturing, recorded

Tensors = Mapping[str, torch.Tensor]
See = Callable[[Node, Tensors], None]  # a node, and the values it gave

# Makes of a Launch, or of a fallback's function, what enqueues it: on a GPU, a cubin launched through the driver.
Prepare = Callable[[Callable[[], None]], Callable[[], None]]

KEPT = 8  # contexts that nobody uses, of all batch sizes together

# Triton's interpreter patches its language module while a kernel runs: one kernel at a time in the process.
_INTERPRETER = threading.RLock()


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
    """The buffers and bound launches of one plan on one device; for one run at a time."""

    def __init__(self, plan: Plan, weights: Weights, device: torch.device, prepare: Prepare) -> None:
        self.plan = plan
        self._device = device
        self._buffers = Buffers(plan, weights, device)
        launches = [self._buffers.bind(call) for call in plan.calls]
        self._kernels = [isinstance(launch, Launch) for launch in launches]
        self._launches = list(map(prepare, with_workspaces(launches, plan.schedule.stream, device)))
        self._replays: list[Callable[[], None]] = []
        self._last_use: torch.cuda.Event | None = None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """A use of the buffers, after what an earlier one, maybe on another stream, has enqueued on a GPU.

        A recording of the caller's has no ties to what is outside of it, and began when the device had nothing to do.
        """
        if capturing(self._device):
            yield
            return
        if self._last_use is not None:
            self._last_use.wait()
        try:
            yield
        finally:
            if self._device.type == "cuda":
                self._last_use = torch.cuda.current_stream().record_event()

    def view(self, view: View) -> torch.Tensor:
        """The tensor a View stands for."""
        return self._buffers.view(view)

    def load(self, feeds: Mapping[str, torch.Tensor]) -> None:
        """Copies the inputs in."""
        for name, tensor in feeds.items():
            self._buffers.inputs[name].copy_(tensor)

    def run(self) -> None:
        """Runs every launch on what `load` put in: one after the other the first time, later by CUDA graphs."""
        inside = capturing(self._device)
        for step in (not inside and self._replays) or self._launches:
            step()
        if self._device.type == "cuda" and not inside and not self._replays:
            self._replays = recorded(self._launches, self._kernels, self.plan.schedule)

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
        """Copies of the outputs, by public name."""
        return {
            public: self._buffers.output(public).clone(memory_format=torch.contiguous_format)
            for public in self.plan.outputs
        }


class Engine:
    """Runs a fused graph through kernels for any batch size: plans per batch, contexts per concurrent run.

    target: whose plans it runs, by default the device's own; a GPU's may run in the interpreter. like: an engine of the
    same network at another size and on the same device, with which it shares kernels and equal weights.
    """

    def __init__(
        self,
        plans: Plans,
        device: torch.device,
        cubins: Sequence[Cubin] = (),
        target: Target | None = None,
        like: Engine | None = None,
    ) -> None:
        self.graph = plans.graph
        self.replays = device.type == "cuda"  # a run after the first is not launch by launch
        self._plans = plans
        self._device = device
        self._target = target or (
            INTERPRET if device.type == "cpu" else Target(torch.cuda.get_device_capability(device))
        )
        self._weights: Weights = Weights(plans.graph.constants, device, like._weights if like else None)
        self._idle: list[Context] = []  # the last used is last
        self._recorded: list[Context] = []  # whose buffers graphs of callers use at any time
        self._lock = threading.Lock()
        self._prepare: Prepare = lambda launch: launch  # interpreted
        if like is not None:
            self._prepare = like._prepare
        elif device.type == "cuda":
            from optgraph.run.driver import Kernels

            self._prepare = Kernels(device, cubins).bind

    def plan(self, batch: int) -> Plan:
        """The plan for `batch` images on this device."""
        return self._plans.get(batch, self._target)

    @contextmanager
    def context(self, batch: int) -> Iterator[Context]:
        """A context for `batch` images that nobody else uses meanwhile.

        Raises OptgraphError where the caller records a CUDA graph and none is there yet: it cannot be made then.
        """
        plan = self.plan(batch)
        # Buffers and weights outlive the call: made under a caller's inference mode, they could not be written outside
        # of it. And no copy into them may be recorded for a gradient, which would hold on to every call's inputs.
        with torch.inference_mode(False), torch.no_grad(), self._exclusive():
            context = self._take(plan) or self._made(plan)
            try:
                with context.turn():
                    yield context
            finally:
                self._give_back(context)

    def _made(self, plan: Plan) -> Context:
        if capturing(self._device):
            raise OptgraphError(
                f"no buffers for {plan.batch} images are free for this CUDA graph, and none can be made while it is "
                "recorded: call the network with as many images before; one graph has room for one such call"
            )
        return Context(plan, self._weights, self._device, self._prepare)

    def _take(self, plan: Plan) -> Context | None:
        with self._lock:
            found = next((context for context in reversed(self._idle) if context.plan is plan), None)
            if found is not None:
                self._idle.remove(found)
            return found

    def _give_back(self, context: Context) -> None:
        """Keeps it for a later run, and lets the least recently used go: each has memory and graphs of its own."""
        with self._lock:
            if capturing(self._device):
                self._recorded.append(context)
                return
            self._idle.append(context)
            surplus, self._idle = self._idle[:-KEPT], self._idle[-KEPT:]
        for old in surplus:
            old.finish()

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        if self._device.type == "cpu":
            # It computes in numpy, which would print a warning where a GPU gives an infinity or a NaN in silence.
            with _INTERPRETER, np.errstate(all="ignore"):
                yield
        else:
            with torch.cuda.device(self._device):
                yield

    def __call__(self, feeds: Tensors, batch: int) -> dict[str, torch.Tensor]:
        """The outputs for `batch` images, 1 where no input has an open batch."""
        with self.context(batch) as context:
            context.load(feeds)
            context.run()
            return context.results()

    def stepwise(self, feeds: Tensors, batch: int, see: See) -> dict[str, torch.Tensor]:
        """As a call, and shows `see` every node, launch by launch; what it gave is valid until `see` returns."""
        with self.context(batch) as context:
            context.load(feeds)
            launches = Counter(call.node for call in context.plan.calls)
            steps = context.steps()
            # A node without a launch, such as a concat in place, is a view of what is there by now.
            for node in self.graph.nodes():
                for _ in range(launches[node.name]):
                    next(steps)
                see(node, {value: context.view(context.plan.results[value]) for value in node.outputs})
            results = context.results()
        if not self.replays:
            return results  # interpreted, another run would take minutes and launch the same again
        self(feeds, batch)  # records what later runs, such as the next, replay
        return self(feeds, batch)
