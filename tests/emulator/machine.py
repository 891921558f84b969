"""A GPU on paper: the runtime's own Kernels on a libcuda that is the emulator's, and torch.cuda made to fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from unittest.mock import patch

import torch

from optgraph.ahead.cubins import Cubin
from optgraph.base.devices import Target
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.variant import ALIGNMENT, Block
from optgraph.run.driver import Kernels
from tests.emulator.fake_cuda import FakeCuda
from tests.emulator.faults import FaultError
from tests.emulator.memory import Allowed, Regions, Tensor
from tests.emulator.schedule import EARLY, Schedule
from tests.support.streams import Around

GPU = torch.device("cuda", 0)


class Machine:
    """A GPU for which `found` is compiled; a kernel that is not among it the emulator has no PTX of.

    allowed: what the tensors of a launch allow to be touched.
    """

    def __init__(
        self,
        target: Target,
        found: Iterable[Cubin] = (),
        schedule: Schedule = EARLY,
        allowed: Callable[[Iterable[Tensor]], Allowed] = Regions,
    ) -> None:
        assert target.capability
        self.target = target
        self.allowed = allowed
        self.cuda = FakeCuda(target.capability, schedule)
        self.found = list(found)
        with self.here():
            self.kernels = Kernels(GPU, self.found, self.cuda)

    @contextmanager
    def here(self) -> Iterator[None]:
        """torch.cuda says that this is the GPU."""
        stream = SimpleNamespace(cuda_stream=0)
        with (
            patch.object(torch.cuda, "current_device", lambda: 0),
            patch.object(torch.cuda, "get_device_capability", lambda device=None: self.cuda.capability),
            patch.object(torch.cuda, "current_stream", lambda device=None: stream),
        ):
            yield

    def early(self) -> int:
        """How many launches so far began before those that they follow ended."""
        return sum(self.cuda.early.values())

    def follow(self, launch: Launch) -> None:
        """What `launch` reads is from now on what earlier launches wrote, as it would be in a network."""
        self.cuda.written |= {_tensor("", read.tensor).span() for read in launch.work.reads}

    def bind(self, launch: Callable[[], None]) -> Callable[[], None]:
        """What `Kernels.bind` makes of it; the emulator is told which memory it may touch."""
        if not isinstance(launch, Launch):
            return launch

        def told(run: Callable[[], None]) -> None:
            self.cuda.regions = self.allowed(tensors(launch))
            self.cuda.written |= {tensor.span() for tensor in tensors(launch) if tensor.writable}
            require_aligned(launch)
            with self.here():
                run()

        with self.here():
            return Around(self.kernels.bind(launch), told)


def tensors(launch: Launch) -> Iterator[Tensor]:
    """What a launch may read, and, of outputs and scratch memory, write."""
    for path, value in launch.leaves():
        if isinstance(value, Block | torch.Tensor):
            yield _tensor(path, value.tensor if isinstance(value, Block) else value)


def _tensor(path: str, tensor: torch.Tensor) -> Tensor:
    item = tensor.element_size()
    strides = tuple(stride * item for stride in tensor.stride())
    return Tensor(tensor.data_ptr(), tuple(tensor.shape), strides, item, path.startswith("out") or path == "workspace")


def require_aligned(launch: Launch) -> None:
    """Raises FaultError if a pointer is not on the 16 bytes for which the kernel was compiled."""
    for path, value in launch.leaves():
        if path in launch.variant.aligned and value.data_ptr() % ALIGNMENT:
            raise FaultError(f"{path} is not on {ALIGNMENT} bytes")
