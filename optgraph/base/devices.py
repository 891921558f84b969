"""The GPUs that targets stand for, by their data sheets: what tile choice, occupancy and predictions reckon with.

Limits of an SM are those of NVIDIA's CUDA C++ Programming Guide, "Compute Capabilities".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SHARED_RESERVED = 1024  # bytes of shared memory that the system takes of every block


@dataclass(frozen=True)
class Device:
    """A chip, and the limits of one of its SMs.

    shared:     bytes of shared memory an SM has.  warps, blocks: that it holds at once.
    fma:        fp16 tensor-core multiply-adds per clock and SM.  tma: has the copy engine.
    flops:      a second, of matrix products by dtype, dense; those of fp32 run on the CUDA cores. Empty where nothing
                is predicted.
    memory, l2: bytes a second out of HBM, and out of L2 to all SMs.
    """

    target: str
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
    registers: int = 65_536

    @property
    def block_shared(self) -> int:
        """Bytes of shared memory that one block may use."""
        return self.shared - SHARED_RESERVED


# The A100's L2 reads 5,120 bytes a clock (its white paper). For the H100's, which NVIDIA does not publish, the same is
# assumed at its own clock.
A100 = Device(
    target="sm_80",
    name="A100 SXM 80GB",
    sms=108,
    shared=164 << 10,
    warps=64,
    blocks=32,
    fma=1024,
    flops={"fp16": 312e12, "bf16": 312e12, "tf32": 156e12, "fp32": 19.5e12},
    memory=2.04e12,
    l2=5120 * 1.41e9,
)
GA102 = Device(target="sm_86", name="GA102", sms=84, shared=100 << 10, warps=48, blocks=16, fma=512)
AD102 = Device(target="sm_89", name="AD102", sms=128, shared=100 << 10, warps=48, blocks=24, fma=512)
H100 = Device(
    target="sm_90",
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
)
DEVICES = {device.target: device for device in (A100, GA102, AD102, H100)}
PREDICTED = (H100, A100)
