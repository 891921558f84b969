"""Memory plan: arena offsets for buffers with known lifetimes.

Greedy by size (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020): the largest
buffer first, each at the lowest offset where no buffer alive at the same time stands.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

ALIGNMENT = 256  # bytes; a multiple of every vector access and of what TMA asks for


@dataclass(frozen=True)
class Lifetime:
    """A buffer of `size` bytes that holds data from call `first` to call `last`, both included."""

    name: str
    size: int
    first: int
    last: int


def allocate(buffers: Iterable[Lifetime]) -> tuple[dict[str, int], int]:
    """Byte offsets by name, and the arena's size. Buffers whose lifetimes overlap never share a byte."""
    placed: list[tuple[int, int, Lifetime]] = []  # (offset, end, buffer)
    for buffer in sorted(buffers, key=lambda b: (-b.size, b.first, b.name)):
        size = -(-buffer.size // ALIGNMENT) * ALIGNMENT
        offset = 0
        alive = [p[:2] for p in placed if p[2].first <= buffer.last and buffer.first <= p[2].last]
        for start, end in sorted(alive):
            if start - offset >= size:
                break
            offset = max(offset, end)
        placed.append((offset, offset + size, buffer))
    return {buffer.name: offset for offset, _, buffer in placed}, max((end for _, end, _ in placed), default=0)
