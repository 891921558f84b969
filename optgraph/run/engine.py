"""The runtime: an Engine runs a network for any batch size, and hands contexts out (`context.py`), so that threads
share weights and plans and never a buffer.

A call that replays does nothing that it need not: `tests/run/test_host.py` counts its steps.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch

from optgraph.ahead.cubins import Cubin
from optgraph.base.devices import INTERPRET, Target
from optgraph.base.dtypes import torch_dtype
from optgraph.base.errors import OptgraphError
from optgraph.base.progress import Progress, silent
from optgraph.ir.graph import Node
from optgraph.plan.plan import Plan, Weight
from optgraph.plan.plans import Plans
from optgraph.plan.weights import Weights
from optgraph.run.capture import capturing
from optgraph.run.context import Context, Prepare, Tensors

See = Callable[[Node, Tensors], None]  # a node, and the values it gave

KEPT = 8  # contexts that nobody uses, of all batch sizes together

# Triton's interpreter patches its language module while a kernel runs: one kernel at a time in the process.
_INTERPRETER = threading.RLock()


class Held:
    """Buffers that a caller has for itself, and runs on them. What a run enqueues is on torch's current stream.

    inputs, outputs: as a Context's; an output that is a constant is a copy.
    """

    def __init__(self, engine: Engine, context: Context) -> None:
        self.inputs = context.inputs
        self.outputs = {
            public: tensor.clone() if isinstance(context.plan.outputs[public], Weight) else tensor
            for public, tensor in context.outputs.items()
        }
        self._engine, self._context = engine, context
        # With the last reference to the buffers their memory may be others' at once.
        weakref.finalize(self, context.finish).atexit = False

    def run(self, feeds: Tensors) -> None:
        """Leaves in `outputs` what the network makes of `inputs`, `feeds` copied in before."""
        around = self._engine.around()
        if around is None:
            self._run(feeds)
        else:
            with around:
                self._run(feeds)

    def _run(self, feeds: Tensors) -> None:
        context = self._context
        context.begin()
        try:
            context.load(feeds)
            context.run()
        finally:
            context.end()
        if context.inside:
            self._engine.keep(context)


class Engine:
    """Runs a fused graph through kernels for any batch size: plans per batch, contexts per concurrent run.

    target: whose plans it runs, by default the device's own; a GPU's may run in the interpreter. like: an engine of the
    same network at another size and on the same device, with which it shares kernels and equal weights. progress: told
    of kernels that are compiled when they are first needed.
    """

    def __init__(
        self,
        plans: Plans,
        device: torch.device,
        cubins: Sequence[Cubin] = (),
        target: Target | None = None,
        like: Engine | None = None,
        progress: Progress = silent,
    ) -> None:
        self.graph = plans.graph
        self.replays = device.type == "cuda"  # a run after the first is not launch by launch
        self._plans = plans
        self._device = device
        self._target = target or (
            INTERPRET if device.type == "cpu" else Target(torch.cuda.get_device_capability(device))
        )
        self._types = {public: torch_dtype(self.graph.values[v].dtype) for public, v in self.graph.outputs.items()}
        self._weights: Weights = Weights(plans.graph.constants, device, like._weights if like else None)
        self._idle: list[Context] = []  # the last used is last
        self._recorded: list[Context] = []  # whose buffers graphs of callers use at any time
        self._lock = threading.Lock()
        self._prepare: Prepare = list  # interpreted
        if like is not None:
            self._prepare = like._prepare
        elif device.type == "cuda":
            from optgraph.run.driver import Kernels

            self._prepare = Kernels(device, cubins, progress=progress).bind_all

    def plan(self, batch: int) -> Plan:
        """The plan for `batch` images on this device."""
        return self._plans.get(batch, self._target)

    @contextmanager
    def context(self, batch: int) -> Iterator[Context]:
        """A context for `batch` images that nobody else uses meanwhile.

        Raises OptgraphError where the caller records a CUDA graph and none is there yet: it cannot be made then.
        """
        with self.around() or nullcontext():
            context = self._begun(batch)
            try:
                yield context
            finally:
                self._ended(context)

    def _begun(self, batch: int) -> Context:
        context = self._taken(batch) or self._made(batch)
        context.begin()
        return context

    def _ended(self, context: Context) -> None:
        context.end()
        self._give_back(context)

    def _made(self, batch: int) -> Context:
        if capturing(self._device):
            raise OptgraphError(
                f"no buffers for {batch} images are free for this CUDA graph, and none can be made while it is "
                "recorded: call the network with as many images before; one graph has room for one such call"
            )
        with torch.no_grad():
            return Context(self.plan(batch), self._weights, self._device, self._prepare, self._types)

    def _taken(self, batch: int) -> Context | None:
        with self._lock:
            for context in reversed(self._idle):
                if context.plan.batch == batch:
                    self._idle.remove(context)
                    return context
        return None

    def _give_back(self, context: Context) -> None:
        """Keeps it for a later run, and lets the least recently used go: each has memory and graphs of its own."""
        if context.inside:
            self.keep(context)
            return
        with self._lock:
            self._idle.append(context)
            surplus = self._idle[:-KEPT]
            del self._idle[:-KEPT]
        for old in surplus:
            old.finish()

    def around(self) -> AbstractContextManager[None] | None:
        """What a use of the device has to be in; None if it is: in most calls on a GPU."""
        at_home = self._device.type == "cuda" and torch.cuda.current_device() == self._device.index
        return None if at_home and not torch.is_inference_mode_enabled() else self._apart()

    @contextmanager
    def _apart(self) -> Iterator[None]:
        # Buffers and weights outlive the call: made under a caller's inference mode, they could not be written outside
        # of it.
        with torch.inference_mode(False):
            if self._device.type == "cpu":
                # It computes in numpy, which would print a warning where a GPU gives an infinity or a NaN in silence.
                with _INTERPRETER, np.errstate(all="ignore"):
                    yield
            else:
                with torch.cuda.device(self._device):
                    yield

    def __call__(self, feeds: Tensors, batch: int) -> dict[str, torch.Tensor]:
        """The outputs for `batch` images, 1 where no input has an open batch."""
        around = self.around()
        if around is None:
            return self._computed(feeds, batch)
        with around:
            return self._computed(feeds, batch)

    def _computed(self, feeds: Tensors, batch: int) -> dict[str, torch.Tensor]:
        context = self._begun(batch)
        try:
            context.load(feeds)
            context.run()
            return context.results()
        finally:
            self._ended(context)

    def bind(self, batch: int) -> Held:
        """Buffers for `batch` images that no call uses. Raises OptgraphError where the caller records a CUDA graph."""
        with self.around() or nullcontext():
            context = self._made(batch)
            context.begin()
            for tensor in context.inputs.values():
                tensor.zero_()
            context.end()
            return Held(self, context)

    def keep(self, context: Context) -> None:
        """For the life of the engine, as a caller's graph has it: there is no telling when that is let go."""
        with self._lock:
            if context not in self._recorded:
                self._recorded.append(context)

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
                see(node, {value: context.result(value) for value in node.outputs})
            results = context.results()
        if not self.replays:
            return results  # interpreted, another run would take minutes and launch the same again
        self(feeds, batch)  # records what later runs, such as the next, replay
        return self(feeds, batch)
