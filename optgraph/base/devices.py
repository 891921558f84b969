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
BANDWIDTH_REACHED, FLOPS_REACHED = 0.9, 0.7  # of the peak rates, on the roofline: what good kernels reach


@dataclass(frozen=True)
class Device:
    """A chip, and the limits of one of its SMs.

    shared:     bytes of shared memory an SM has.  warps, blocks: that it holds at once.
    fma, fma8:  tensor-core multiply-adds per clock and SM, of fp16 and of int8.  tma: has the copy engine.
    flops:      a second, of matrix products by dtype, dense; those of fp32 run on the CUDA cores. Empty where nothing
                is predicted.
    memory:     bytes a second out of it.  l2: bytes a clock and SM out of L2, the most and the least that is likely.
    clock:      of the SMs, a second.
    """

    name: str
    sms: int
    shared: int
    warps: int
    blocks: int
    fma: int
    fma8: int
    tma: bool = False
    flops: Mapping[str, float] = field(default_factory=dict)
    memory: float = 0.0
    l2: tuple[float, float] = (0.0, 0.0)
    clock: float = 0.0
    registers: int = 65_536

    @property
    def early(self) -> bool:
        """Whether a launch may begin before the one it follows ends. That came with the copy engine."""
        return self.tma

    @property
    def block_shared(self) -> int:
        """Bytes of shared memory that one block may use."""
        return self.shared - SHARED_RESERVED


# Rates are those of NVIDIA's data sheets and white papers, clocks those of boost; an RTX 4090 multiplies fp16 at half
# the rate where it sums in float32, as all of ours does, but int8 at twice the full one.
# L2: on an H100 PCIe 25 to 39 bytes a clock and SM by microbenchmarks (Chips and Cheese, "NVIDIA's H100: Funny L2, and
# Tons of Bandwidth", 2023; Luo et al., arXiv:2402.13499). The A100's reads 5,120 bytes a clock (white paper), 47 an SM:
# 40 to 80 % of that are assumed. The other two, of which NVIDIA publishes nothing, are taken for half of an A100.
A100 = Device(
    name="A100 SXM 80GB",
    sms=108,
    shared=164 << 10,
    warps=64,
    blocks=32,
    fma=1024,
    fma8=2048,
    flops={"int8": 624e12, "fp16": 312e12, "bf16": 312e12, "tf32": 156e12, "fp32": 19.5e12},
    memory=2.04e12,
    l2=(38.0, 19.0),
    clock=1.41e9,
)
GA102 = Device(
    name="A40",
    sms=84,
    shared=100 << 10,
    warps=48,
    blocks=16,
    fma=512,
    fma8=1024,
    flops={"int8": 299.3e12, "fp16": 149.7e12, "bf16": 149.7e12, "tf32": 74.8e12, "fp32": 37.4e12},
    memory=696e9,
    l2=(19.0, 9.5),
    clock=1.74e9,
)
AD102 = Device(
    name="RTX 4090",
    sms=128,
    shared=100 << 10,
    warps=48,
    blocks=24,
    fma=256,
    fma8=1024,
    flops={"int8": 660.6e12, "fp16": 165.2e12, "bf16": 165.2e12, "tf32": 82.6e12, "fp32": 82.6e12},
    memory=1.008e12,
    l2=(19.0, 9.5),
    clock=2.52e9,
)
H100 = Device(
    name="H100 SXM",
    sms=132,
    shared=228 << 10,
    warps=64,
    blocks=32,
    fma=2048,
    fma8=4096,
    tma=True,
    flops={"int8": 1979e12, "fp16": 989e12, "bf16": 989e12, "tf32": 494e12, "fp32": 67e12},
    memory=3.35e12,
    l2=(39.0, 25.0),
    clock=1.755e9,
)
# Blackwell, for tiles that fit it: never run on, so nothing is predicted, and nothing offered to compile ahead.
B200 = Device(name="B200", sms=148, shared=228 << 10, warps=64, blocks=32, fma=4096, fma8=8192, tma=True)
GB202 = Device(name="GB202", sms=170, shared=100 << 10, warps=48, blocks=24, fma=512, fma8=1024, tma=True)


@dataclass(frozen=True)
class Reached:
    """What kernels get of a chip, at one end of what is likely.

    launch:  seconds from the end of a launch in a CUDA graph to the start of one that depends on it.
    early:   the same where that one is launched early (programmatic dependent launch), on a chip that can.
    memory:  share of the bandwidth.  product: of the rate of the tensor cores.  mma: of that, by mma.sync on a chip
             that has wgmma.  issue: of the slots in which an SM can issue an instruction.
    port:    bytes a clock that one SM gets of L2, though others ask for none.
    load:    clocks from a load to what depends on it.
    worst:   whether it is the lower end.
    """

    launch: float
    early: float
    memory: float
    product: float
    mma: float
    issue: float
    port: float
    load: float
    worst: bool

    def l2(self, device: Device) -> float:
        """Bytes a clock and SM out of L2."""
        return device.l2[self.worst]

    def wait(self, device: Device, early: bool) -> float:
        """Seconds from the end of a launch to the start of one that depends on it."""
        return self.early if early and device.early else self.launch

    def multiplying(self, flops: float, dtype: str, device: Device, wgmma: bool = True) -> float:
        """Clocks of an SM for so many FLOPs of its tensor cores."""
        share = self.product * (1.0 if wgmma or not device.tma else self.mma)
        return flops * device.sms * device.clock / (share * device.flops[dtype])


# A launch: 1.3 us measured by others for kernels that do nothing in a CUDA graph; programmatic launch hides 0.8 us of
# its start: an assumption. A load: 260 to 270 clocks out of an idle L2, some 480 out of memory (Luo et al.); behind
# others and with the barrier that may follow 430 to 720, by reading machine code. An SM's port to L2 is 64 bytes wide.
# mma.sync reaches 62 % of wgmma's rate on an H100 (Luo et al.). Shares are assumptions: what good kernels reach, and
# what usual ones do.
BEST = Reached(1.3e-6, 0.5e-6, memory=0.93, product=0.8, mma=0.65, issue=0.9, port=64.0, load=300.0, worst=False)
WORST = Reached(2.0e-6, 1.2e-6, memory=0.8, product=0.6, mma=0.6, issue=0.65, port=40.0, load=720.0, worst=True)


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

    @property
    def predicted(self) -> Target:
        """What predictions are made for in its place: itself, or an H100 if its device has no rates."""
        return self if self in PREDICTED else SM_90


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
PREDICTED = (SM_90, SM_80, SM_89, SM_86)  # those with rates: data-centre chips first
