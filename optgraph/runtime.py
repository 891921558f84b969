"""The runtime: executes a Plan. A loop over launches, with no graph logic.

A Context owns what one run at a time needs (arena, input buffers, launches bound to them); an Engine hands contexts
out, so that threads share weights and plans and never a buffer. On a GPU the launches are captured into a CUDA graph
after the first run and replayed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from optgraph import torch_ops
from optgraph.graph import Graph
from optgraph.lower import lower
from optgraph.ops import Op
from optgraph.plan import ITEMSIZE, Call, Plan, View
from optgraph.weights import Weights, resolve

# Triton's interpreter patches its language module while a kernel runs: one kernel at a time in the process.
_INTERPRETER = threading.RLock()


def fallback(op: Op, opsets: Mapping[str, int], **tensors: torch.Tensor) -> Callable[[], None]:
    """A launcher for what has no kernel: the torch reference, on views in ONNX axis order.

    opsets: of the model, by domain. tensors: inputs as '_<slot>', outputs as 'out<number>'.
    """
    compute = torch_ops.function(op, opsets)
    inputs = {int(k[1:]): t for k, t in tensors.items() if k.startswith("_")}
    outputs = [tensors[f"out{i}"] for i in range(sum(k.startswith("out") for k in tensors))]
    operands = [inputs.get(i) for i in range(max(inputs) + 1)]

    def run() -> None:
        for out, result in zip(outputs, compute(operands), strict=True):
            out.copy_(result)

    return run


class Context:
    """The buffers and bound launches of one plan on one device; for one run at a time."""

    def __init__(self, plan: Plan, weights: Weights, device: torch.device) -> None:
        self.plan = plan
        self._device = device
        # All bits set is NaN in every float type: what a kernel fails to write cannot pass for a result.
        self._arena = torch.full((max(plan.arena_bytes, 1),), 0xFF, dtype=torch.uint8, device=device)
        self._inputs = {
            name: torch.empty(view.shape, dtype=getattr(torch, view.dtype), device=device)
            for name, view in plan.inputs.items()
        }
        self._weights = {key: weights.get(key, packed) for key, packed in plan.packed.items()}
        self._launches = [self._bind(call) for call in plan.calls]
        self._cuda_graph: torch.cuda.CUDAGraph | None = None

    def view(self, view: View) -> torch.Tensor:
        """The tensor a View stands for."""
        if view.base in self._inputs:
            storage = self._inputs[view.base].view(-1)
            return torch.as_strided(storage, view.shape, view.strides, view.offset)
        item = ITEMSIZE[view.dtype]
        whole = self._arena[: self._arena.numel() // item * item].view(getattr(torch, view.dtype))
        return torch.as_strided(whole, view.shape, view.strides, self.plan.offsets[view.base] // item + view.offset)

    def _bind(self, call: Call) -> Callable[[], None]:
        tensors: dict[str, Any] = {name: self.view(view) for name, view in call.reads.items()}
        for name, view in call.writes.items():
            tensors[name] = tuple(map(self.view, view)) if isinstance(view, tuple) else self.view(view)
        tensors.update({name: self._weights[key] if key else None for name, key in call.weights.items()})
        launch: Callable[[], None] = resolve(call.kernel)(**tensors, **call.options)
        return launch

    def load(self, feeds: Mapping[str, torch.Tensor]) -> None:
        """Copies the inputs in."""
        for name, tensor in feeds.items():
            self._inputs[name].copy_(tensor)

    def run(self) -> None:
        """Runs every launch on what `load` put in."""
        if self._cuda_graph is not None:
            self._cuda_graph.replay()
            return
        for launch in self._launches:
            launch()
        if self._device.type == "cuda" and not self.plan.fallbacks:
            self._capture()

    def _capture(self) -> None:
        """Records the launches, all compiled by now, as one CUDA graph."""
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self._device)
        with torch.cuda.graph(graph):
            for launch in self._launches:
                launch()
        self._cuda_graph = graph

    def steps(self) -> Iterator[Call]:
        """Runs launch by launch, yielding each call after it: its results are valid until the next step."""
        for call, launch in zip(self.plan.calls, self._launches, strict=True):
            launch()
            yield call

    def results(self) -> dict[str, torch.Tensor]:
        """Copies of the outputs, by public name."""
        return {
            public: self.view(view).clone(memory_format=torch.contiguous_format)
            for public, view in self.plan.outputs.items()
        }


class Engine:
    """Runs a fused graph through kernels for any batch size: plans per batch, contexts per concurrent run."""

    def __init__(self, graph: Graph, dtype: str, device: torch.device) -> None:
        self._graph = graph
        self._dtype = dtype
        self._device = device
        self._weights = Weights(graph.constants, device)
        self._plans: dict[int, Plan] = {}
        self._idle: dict[int, list[Context]] = {}
        self._lock = threading.Lock()

    def plan(self, batch: int) -> Plan:
        """The plan for `batch` images, made on first use and kept."""
        with self._lock:
            if batch not in self._plans:
                self._plans[batch] = lower(self._graph, batch, self._dtype)
            return self._plans[batch]

    @contextmanager
    def context(self, batch: int) -> Iterator[Context]:
        """A context for `batch` images that nobody else uses meanwhile."""
        plan = self.plan(batch)
        with self._exclusive():
            with self._lock:
                idle = self._idle.setdefault(batch, [])
                context = idle.pop() if idle else None
            if context is None:
                context = Context(plan, self._weights, self._device)
            try:
                yield context
            finally:
                with self._lock:
                    self._idle[batch].append(context)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        if self._device.type == "cpu":
            with _INTERPRETER:
                yield
        else:
            with torch.cuda.device(self._device):
                yield

    def __call__(self, feeds: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        shape = next(iter(feeds.values())).shape
        batch = shape[0] if shape else 1
        with self.context(batch) as context:
            context.load(feeds)
            context.run()
            return context.results()
