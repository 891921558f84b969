"""How many blocks of a kernel fit on a streaming multiprocessor (SM) at once: pure arithmetic on its resources.

Limits and granularities are those of NVIDIA's occupancy calculator, for the chips a target stands for: A100 (sm_80),
GA102 (sm_86), AD102 (sm_89), H100 SXM (sm_90).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """sms: of the whole chip; the others are limits of one SM, shared memory in bytes."""

    sms: int
    shared: int
    warps: int
    blocks: int
    registers: int = 65_536


DEVICES = {
    "sm_80": Device(108, 164 << 10, 64, 32),
    "sm_86": Device(84, 100 << 10, 48, 16),
    "sm_89": Device(128, 100 << 10, 48, 24),
    "sm_90": Device(132, 228 << 10, 64, 32),
}
_RESERVED = 1024  # bytes of shared memory that the system takes of every block
_SHARED_UNIT = 128
_REGISTER_UNIT = 256  # registers are given to a warp, by so many
_PARTITIONS = 4  # an SM's registers lie in four parts, and a warp in one of them


def blocks_per_sm(registers: int, shared_bytes: int, warps: int, target: str) -> int:
    """Blocks of `warps` warps, with `registers` a thread and `shared_bytes` a block, that run on one SM at once."""
    device = DEVICES[target]
    warp_registers = _round_up(max(registers, 1) * 32, _REGISTER_UNIT)
    resident_warps = device.registers // _PARTITIONS // warp_registers * _PARTITIONS
    shared = _round_up(shared_bytes + _RESERVED, _SHARED_UNIT)
    return min(resident_warps // warps, device.shared // shared, device.warps // warps, device.blocks)


def _round_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
