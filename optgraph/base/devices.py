"""The GPUs that targets stand for, by their data sheets: what tile choice, occupancy and predictions reckon with.

Limits of an SM are those of NVIDIA's CUDA C++ Programming Guide, "Compute Capabilities", and for 10.0 and 12.0 those of
its CCCL (`cuda/__device/arch_traits.h`) and of CUDA 13.1's `cuda_occupancy.h`, which agree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from optgraph.base.errors import InputError

SHARED_RESERVED = 1024  # bytes of shared memory that the system takes of every block
BANDWIDTH_REACHED, FLOPS_REACHED = 0.9, 0.7  # of the peak rates: what good kernels reach


# Seconds from the end of a launch in a CUDA graph to the first result of a dependent one that has nothing to do. An
# assumption: about 1 us for the graph to start it, 1.5 us for programs to fetch the first operands and to drain.
LATENCY = 2.5e-6


@dataclass(frozen=True)
class Device:
    """A chip, and the limits of one of its SMs.

    shared:     bytes of shared memory an SM has.  warps, blocks: that it holds at once.
    fma:        fp16 tensor-core multiply-adds per clock and SM.  tma: has the copy engine.
    flops:      a second, of matrix products by dtype, dense; those of fp32 run on the CUDA cores. Empty where nothing
                is predicted.
    memory, l2: bytes a second out of HBM, and out of L2 to all SMs.  clock: of the SMs, a second.
    """

    name: str
    sms: int
    shared: int
    warps: int
    blocks: int
    fma: int
    tma: bool = False
    flops: Mapping[str, float] = field(default_factory=dict)
    memory: float = 0.0
    l2: float = 0.0
    clock: float = 0.0
    registers: int = 65_536

    @property
    def block_shared(self) -> int:
        """Bytes of shared memory that one block may use."""
        return self.shared - SHARED_RESERVED


# The A100's L2 reads 5,120 bytes a clock (its white paper). For the H100's, which NVIDIA does not publish, the same is
# assumed at its own clock.
A100 = Device(
    name="A100 SXM 80GB",
    sms=108,
    shared=164 << 10,
    warps=64,
    blocks=32,
    fma=1024,
    flops={"fp16": 312e12, "bf16": 312e12, "tf32": 156e12, "fp32": 19.5e12},
    memory=2.04e12,
    l2=5120 * 1.41e9,
    clock=1.41e9,
)
GA102 = Device(name="GA102", sms=84, shared=100 << 10, warps=48, blocks=16, fma=512)
AD102 = Device(name="AD102", sms=128, shared=100 << 10, warps=48, blocks=24, fma=512)
H100 = Device(
    name="H100 SXM",
    sms=132,
    shared=228 << 10,
    warps=64,
    blocks=32,
    fma=2048,
    tma=True,
    flops={"fp16": 989e12, "bf16": 989e12, "tf32": 494e12, "fp32": 67e12},
    memory=3.35e12,
    l2=5120 * 1.755e9,
    clock=1.755e9,
)
# Blackwell, for tiles that fit it: never run on, so nothing is predicted, and nothing offered to compile ahead.
B200 = Device(name="B200", sms=148, shared=228 << 10, warps=64, blocks=32, fma=4096, tma=True)
GB202 = Device(name="GB202", sms=170, shared=100 << 10, warps=48, blocks=24, fma=512, tma=True)


@dataclass(frozen=True)
class Target:
    """What kernels are compiled, tiles chosen and plans made for: a GPU's compute capability, or Triton's interpreter
    (None), whose plans are those of an H100."""

    capability: tuple[int, int] | None

    @classmethod
    def parse(cls, name: str) -> Target:
        """'sm_90', 'sm_100', a GPU such as 'h100' or 'RTX 4090', or 'interpret'. Raises InputError for others."""
        if name == "interpret":
            return INTERPRET
        found = re.fullmatch(r"sm_(\d+)(\d)", name, re.ASCII)
        card = re.sub("[ _-]", "", name.lower())
        if card in CARDS:
            return CARDS[card]
        if not found:
            raise InputError(f"unknown target '{name}': use {', '.join(map(str, DEVICES))}, or {', '.join(CARDS)}")
        return cls((int(found[1]), int(found[2])))

    def __str__(self) -> str:
        return "interpret" if self.capability is None else "sm_{}{}".format(*self.capability)

    @property
    def interpreted(self) -> bool:
        return self.capability is None

    @property
    def number(self) -> int:
        """90 for sm_90, as compilers count; an interpreter has none."""
        assert self.capability is not None
        major, minor = self.capability
        return 10 * major + minor

    @property
    def device(self) -> Device:
        """The newest device known that is not newer, or the oldest."""
        if self.capability is None:
            return H100
        known = [device for target, device in _LIMITS.items() if target.capability <= self.capability]  # type: ignore
        return known[-1] if known else A100


INTERPRET = Target(None)
SM_80, SM_86, SM_89, SM_90 = (Target(capability) for capability in ((8, 0), (8, 6), (8, 9), (9, 0)))
DEVICES: Mapping[Target, Device] = {SM_80: A100, SM_86: GA102, SM_89: AD102, SM_90: H100}
# The cards that have these chips or smaller ones of the kind, by NVIDIA's list of compute capabilities.
CARDS: Mapping[str, Target] = {
    **dict.fromkeys(("h100", "h200", "gh200"), SM_90),
    **dict.fromkeys(("l4", "l40", "l40s", "rtx4070", "rtx4080", "rtx4090"), SM_89),
    **dict.fromkeys(("a10", "a40", "rtxa6000", "rtx3070", "rtx3080", "rtx3090"), SM_86),
    **dict.fromkeys(("a100", "a30"), SM_80),
}
_LIMITS: Mapping[Target, Device] = {**DEVICES, Target((10, 0)): B200, Target((12, 0)): GB202}
PREDICTED = (SM_90, SM_80)  # those with rates in their data sheets
