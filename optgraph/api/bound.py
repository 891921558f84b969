"""A network on buffers of its own, which the caller writes and reads: a run copies nothing."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import torch

from optgraph.api.feeds import Array, batch_of, named, shape_text
from optgraph.base.arrays import as_tensor
from optgraph.base.errors import InputError, OptgraphError, printable
from optgraph.ir.values import BATCH, Value, at
from optgraph.plan.batches import fitting_batch
from optgraph.run.backends import Backend


class Bound:
    """What `Net.bind` gives: a network for a number of images, on buffers that no call of the net uses.

    The buffers are where the backend computes, on its device (the two reference backends compute elsewhere, and
    copy), and stay the same tensors, which is why none can be assigned. On a GPU a run is enqueued on torch's
    current stream, after the last run; what writes the inputs and reads the outputs must be on that stream, or
    waited for. The first run records a CUDA graph, which those after it replay. A CUDA graph that the caller
    records may have runs in it.

    One thread at a time: each may bind its own. The memory is let go with this object and the tensors.

    Attributes:
        inputs: name -> the tensor that a run reads: dense, of the model's shape and dtype. Zeros at first.
        outputs: name -> the tensor that a run writes: of the model's shape, N×C×H×W, with the strides and in the dtype
            that kernels have, such as N×H×W×C in memory, float16. It holds what the last run left until the next.
        batch: how many images they are for.
    """

    def __init__(self, backend: Backend, inputs: Mapping[str, Value], batch: int) -> None:
        """inputs: of the network."""
        self.batch = fitting_batch(inputs, batch)
        self._values = {
            name: replace(value, shape=tuple(at(size, self.batch) for size in value.shape))
            for name, value in inputs.items()
        }
        is_open = any(value.shape[:1] == (BATCH,) for value in inputs.values())
        self._buffers = backend.bind(self.batch if is_open else 1)
        self.inputs: Mapping[str, torch.Tensor] = MappingProxyType(self._buffers.inputs)
        self.outputs: Mapping[str, torch.Tensor] = MappingProxyType(self._buffers.outputs)
        self._running = threading.Lock()

    def __call__(self, x: Array | Mapping[str, Array] | None = None) -> torch.Tensor | Mapping[str, torch.Tensor]:
        """Runs the network on what the inputs hold, or on `x`, which is copied there as it would be for a call.

        Returns:
            Its output, or `outputs` if it has several: the same tensors each time.

        Raises:
            InputError: an `x` that does not fit.
            OptgraphError: another thread runs it.
        """
        if not self._running.acquire(blocking=False):
            raise OptgraphError("another thread runs this bound network: each thread needs its own, from net.bind")
        try:
            self._buffers.run({} if x is None else self._checked(x))
        finally:
            self._running.release()
        return self.outputs if len(self.outputs) > 1 else next(iter(self.outputs.values()))

    def _checked(self, x: Array | Mapping[str, Array]) -> dict[str, torch.Tensor]:
        feeds = named(x, self._values)
        try:
            batch_of(feeds, self._values)
        except InputError as error:
            raise InputError(
                f"{error}; this is bound to one size: net.bind(batch=...) is for other batches, "
                "net.at(height, width).bind() for other images"
            ) from None
        return {name: array if isinstance(array, torch.Tensor) else as_tensor(array) for name, array in feeds.items()}

    def __repr__(self) -> str:
        taken = [f"{name}: {_described(tensor)}" for name, tensor in self.inputs.items()]
        given = [f"{name}: {_described(tensor)}" for name, tensor in self.outputs.items()]
        return printable(f"<Bound {', '.join(taken)} -> {', '.join(given)}>")


def _described(tensor: torch.Tensor) -> str:
    """'float16 [1, 10, 9, 9], strides (810, 1, 90, 10)'; strides only where it is not dense."""
    text = f"{str(tensor.dtype).removeprefix('torch.')} {shape_text(tensor.shape)}"
    return text if tensor.is_contiguous() else f"{text}, strides {tensor.stride()}"
