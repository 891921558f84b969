"""How many blocks of a kernel fit on a streaming multiprocessor (SM) at once: pure arithmetic on its resources.

Granularities are those of NVIDIA's occupancy calculator.
"""

from __future__ import annotations

from optgraph.base.devices import SHARED_RESERVED, Device

REGISTERS = 64  # that a thread takes beside its accumulators: the usual, before a kernel is compiled
_SHARED_UNIT = 128
_REGISTER_UNIT = 256  # registers are given to a warp, by so many
_PARTITIONS = 4  # an SM's registers lie in four parts, and a warp in one of them


def blocks_per_sm(registers: int, shared_bytes: int, warps: int, device: Device) -> int:
    """Blocks of `warps` warps, with `registers` a thread and `shared_bytes` a block, that run on one SM at once."""
    warp_registers = _round_up(max(registers, 1) * 32, _REGISTER_UNIT)
    resident_warps = device.registers // _PARTITIONS // warp_registers * _PARTITIONS
    shared = _round_up(shared_bytes + SHARED_RESERVED, _SHARED_UNIT)
    return min(resident_warps // warps, device.shared // shared, device.warps // warps, device.blocks)


def _round_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
