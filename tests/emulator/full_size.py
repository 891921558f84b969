"""Launches of the size that a network really has, for their addresses: some blocks of each, on memory that is reserved
and never filled."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch

from optgraph.base.devices import Target
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.variant import Block
from optgraph.plan.buffers import Buffers
from optgraph.plan.plan import Plan
from optgraph.plan.plans import Plans
from optgraph.plan.weights import Shapes
from optgraph.run.context import with_workspaces
from tests.emulator.compiler import compile_all
from tests.emulator.extents import Extents
from tests.emulator.faults import FaultError
from tests.emulator.machine import Machine, tensors
from tests.emulator.schedule import Schedule

CPU = torch.device("cpu")
SOME = Schedule(places=3)  # the first blocks, those in the middle, and the last
_NO_RESERVE = 0x4000  # MAP_NORESERVE of Linux, which Python's mmap does not name: pages are there once they are written


def reserved(*shape: Any, dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> torch.Tensor:
    """As torch.empty, all zeros. Of a tensor larger than all memory, what is read takes none."""
    sizes = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
    count = math.prod(sizes)
    size = max(count * dtype.itemsize, 1)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
    return torch.frombuffer(memory, dtype=torch.uint8)[: count * dtype.itemsize].view(dtype).view(sizes)


class _ReservedWeights(Shapes):
    """Weights of the right shapes, with addresses."""

    def __init__(self, plans: Plans) -> None:
        super().__init__(plans.graph.constants)
        self._device = CPU


def launches(plan: Plan, plans: Plans) -> list[Launch]:
    """Those of a plan, bound to reserved memory."""
    with patch.object(torch, "empty", reserved):
        buffers = Buffers(plan, _ReservedWeights(plans), CPU, poison=False)
        bound = [buffers.bind(call) for call in plan.calls]
    whole = with_workspaces(bound, plan.schedule.stream, CPU)
    return [launch for launch in whole if isinstance(launch, Launch)]


def different(found: list[Launch]) -> list[Launch]:
    """One of those that do the same at other addresses."""
    return list({(launch.variant, launch.grid, tuple(_described(launch))): launch for launch in found}.values())


def _described(launch: Launch) -> Iterator[Any]:
    for path, value in launch.leaves():
        if isinstance(value, Block):
            yield path, value.shape, value.strides
        else:
            yield path, (value.shape, value.stride()) if isinstance(value, torch.Tensor) else value


def check(found: list[Launch], target: Target) -> None:
    """Raises FaultError for a block that reads or writes outside of its launch's tensors, or misaligned, and where the
    first and the last blocks do not reach the first and the last bytes of an output."""
    cubins = compile_all((launch.variant, target) for launch in found)
    machine = Machine(target, cubins, SOME, Extents)
    for launch in found:
        machine.bind(launch)()
        assert isinstance(machine.cuda.regions, Extents)
        _require_ends(launch, machine.cuda.regions)
    assert machine.kernels.compiled == 0


def _require_ends(launch: Launch, touched: Extents) -> None:
    """An address that wraps around may stay inside of a tensor: then its ends are not written. Of several outputs, the
    columns of which follow one another in the grid, some one's."""
    scratch = launch.arguments.get("workspace")
    outputs = [tensor for tensor in tensors(launch) if tensor.writable]
    outputs = [tensor for tensor in outputs if scratch is None or tensor.address != scratch.data_ptr()]
    reached = [touched.written.get(tensor, (-1, -1)) for tensor in outputs]
    sizes = [high - low for low, high in (tensor.span() for tensor in outputs)]
    if all(first for first, _ in reached) or all(last != size for (_, last), size in zip(reached, sizes, strict=True)):
        raise FaultError(f"{launch.kernel}: {reached} of {sizes} bytes of its outputs are written")
