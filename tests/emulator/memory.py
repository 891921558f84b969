"""Global memory: this process's own, by real addresses. What a launch may touch of it is its Regions.

Every access must be aligned and inside a tensor of the launch, byte by byte: the gap between the rows of a channel
slice is outside of it.
"""

from __future__ import annotations

import ctypes
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tests.emulator.faults import FaultError
from tests.emulator.number_types import WORD, Array

_ORIGIN = 1 << 16  # the first address that a process may have
_SPACE = (1 << 47) - (1 << 17)
_RAW = (ctypes.c_ubyte * _SPACE).from_address(_ORIGIN)
_WORDS: dict[int, Array] = {size: np.frombuffer(memoryview(_RAW), dtype=kind) for size, kind in WORD.items()}
_READ, _WRITE = 1, 2
_GRANULE = 16  # bytes of the largest access


def words(size: int) -> Array:
    """All of memory as words of `size` bytes."""
    return _WORDS[size]


def word_at(address: Array, size: int) -> Array:
    """The numbers of words at addresses of uint64."""
    return (address - np.uint64(_ORIGIN)) // np.uint64(size)


@dataclass(frozen=True)
class Tensor:
    """Memory that a launch was given. Strides and item size are bytes."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    item: int
    writable: bool

    def span(self) -> tuple[int, int]:
        """From its first byte to behind its last."""
        steps = [(size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True)]
        return self.address + sum(min(0, s) for s in steps), self.address + sum(max(0, s) for s in steps) + self.item


class Allowed(Protocol):
    """Where a launch may read and write."""

    def check(self, address: Array, size: int, write: bool) -> None:
        """Raises FaultError if an access of `size` bytes at one of the addresses is misaligned or not allowed."""


def require_aligned_to(address: Array, size: int) -> None:
    """Raises FaultError if `size`, a power of two, does not divide one of the addresses."""
    astray = (address & np.uint64(size - 1)) != 0
    if astray.any():
        raise FaultError(f"misaligned address: {size} bytes at {hex(int(address[astray].flat[0]))}")


class Regions:
    """Where a launch may read and write, by a map of every byte."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        found = [tensor for tensor in tensors if 0 not in tensor.shape]
        merged: list[list[int]] = []
        for low, high in sorted(tensor.span() for tensor in found):
            low, high = low // _GRANULE * _GRANULE, -(-high // _GRANULE) * _GRANULE
            if merged and low <= merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], high)
            else:
                merged.append([low, high])
        self._starts = [low for low, _ in merged]
        self._ends = [high for _, high in merged]
        self._bytes = [np.zeros(high - low, np.uint8) for low, high in merged]
        self._by_size: dict[tuple[int, int], Array] = {}
        for tensor in found:
            k = bisect_right(self._starts, tensor.span()[0]) - 1
            view = np.lib.stride_tricks.as_strided(
                self._bytes[k][tensor.address - self._starts[k] :], (*tensor.shape, tensor.item), (*tensor.strides, 1)
            )
            np.bitwise_or(view, _READ | _WRITE if tensor.writable else _READ, out=view)

    def check(self, address: Array, size: int, write: bool) -> None:
        """Raises FaultError if an access of `size` bytes at one of the addresses is misaligned or not allowed."""
        if address.size == 0:
            return
        require_aligned_to(address, size)
        # Mostly they are all in one span.
        k = bisect_right(self._starts, int(address.min())) - 1
        if k >= 0 and int(address.max()) + size <= self._ends[k]:
            self._check(address, k, size, write)
            return
        index = np.searchsorted(np.array(self._starts, np.uint64), address, "right").astype(np.int64) - 1
        for k in map(int, np.unique(index)):
            self._check(address[index == k], k, size, write)

    def _check(self, address: Array, k: int, size: int, write: bool) -> None:
        """Of addresses that are in span `k` or behind it."""
        if k < 0 or int(address.max()) + size > self._ends[k]:
            self._fail(address, size, write)
        found = self._flags(size, k)[(address - np.uint64(self._starts[k])) // np.uint64(size)]
        bad = (found & (_WRITE if write else _READ)) == 0
        if bad.any():
            self._fail(address[bad], size, write)

    def _flags(self, size: int, k: int) -> Array:
        """Of the words of `size` bytes in span `k`: what all of their bytes allow."""
        if (size, k) not in self._by_size:
            self._by_size[size, k] = np.bitwise_and.reduce(self._bytes[k].reshape(-1, size), axis=1)
        return self._by_size[size, k]

    def _fail(self, address: Array, size: int, write: bool) -> None:
        what = "write" if write else "read"
        spans = ", ".join(f"{low:#x}..{high:#x}" for low, high in zip(self._starts, self._ends, strict=True))
        where = f"{int(address.flat[0]):#x} and {address.size - 1} more"
        raise FaultError(f"{what} of {size} bytes outside of the launch's tensors at {where}; they are in {spans}")


class BeforeWait:
    """What a launch that begins early may touch before it waits for earlier ones: nothing but what no launch writes.

    regions: of the launch. written: where launches write, itself included, from first to last byte.
    """

    def __init__(self, regions: Allowed, written: Iterable[tuple[int, int]]) -> None:
        self._regions, self._written = regions, list(written)

    def check(self, address: Array, size: int, write: bool) -> None:
        """Raises FaultError if an access of `size` bytes at one of the addresses is not allowed."""
        early = [(address + np.uint64(size) > low) & (address < high) for low, high in self._written]
        if write or any(hit.any() for hit in early):
            raise FaultError(f"a {'write' if write else 'read'} before the wait for earlier launches")
        self._regions.check(address, size, write)


def gather(address: Array, size: int, regions: Allowed) -> Array:
    """The words of `size` bytes at `address`."""
    regions.check(address.reshape(-1), size, write=False)
    return words(size)[word_at(address, size)]


def scatter(address: Array, size: int, values: Array, regions: Allowed) -> None:
    """Writes words of `size` bytes; of several to one address the last stays."""
    regions.check(address, size, write=True)
    words(size)[word_at(address, size)] = values


def window(address: int, shape: Sequence[int], strides: Sequence[int], item: int) -> Array:
    """A view of memory that the caller has checked; strides in bytes."""
    base = words(item)[(address - _ORIGIN) // item :]
    return np.lib.stride_tricks.as_strided(base, tuple(shape), tuple(strides))
