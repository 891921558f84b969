"""mbarriers: arrivals, bytes that copies are to bring, phases; and the copies that are under way to one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.emulator.faults import FaultError

_MOST_BYTES = (1 << 20) - 1  # of one phase, by the PTX ISA

Key = tuple[int, int]  # a block, and the barrier's address in it
Copy = Callable[[], int]  # makes a copy, returns its bytes


@dataclass
class _Barrier:
    """expected: arrivals of a phase. pending: those to come. bytes: to come, less those that came before they were
    announced. phase: the parity of the one that is not over."""

    expected: int
    pending: int
    bytes: int = 0
    phase: int = 0

    def advance(self) -> bool:
        """Whether the phase is over."""
        if self.pending or self.bytes:
            return False
        self.phase ^= 1
        self.pending = self.expected
        return True


class Barriers:
    """Those of the blocks that run together."""

    def __init__(self) -> None:
        self._found: dict[Key, _Barrier] = {}
        self._copies: dict[Key, list[Copy]] = {}  # not yet made, oldest first
        self.phases = 0  # how many are over

    def init(self, key: Key, expected: int) -> None:
        self._found[key] = _Barrier(expected, expected)

    def invalidate(self, key: Key) -> None:
        if self._copies.get(key) or self._at(key).bytes:
            raise FaultError("an mbarrier is invalidated with copies under way")
        del self._found[key]

    def arrive(self, key: Key, announced: int) -> None:
        """An arrival that announces so many bytes."""
        barrier = self._at(key)
        barrier.bytes += announced
        barrier.pending -= 1
        if barrier.pending < 0:
            raise FaultError("more arrivals at an mbarrier than it expects")
        if barrier.bytes > _MOST_BYTES:
            raise FaultError("an mbarrier is to wait for more bytes than it can count")
        self.phases += barrier.advance()

    def copy(self, key: Key, copy: Copy, late: bool) -> None:
        """A copy that is complete on this barrier."""
        self._at(key)
        if late:
            self._copies.setdefault(key, []).append(copy)
        else:
            self._complete(key, copy)

    def is_over(self, key: Key, parity: int) -> bool:
        """`try_wait`: whether the phase of that parity is. Until then, copies under way are made one by one."""
        barrier, copies = self._at(key), self._copies.get(key, [])
        while barrier.phase == parity and copies:
            self._complete(key, copies.pop(0))
        return barrier.phase != parity

    def finish(self) -> None:
        """The blocks end."""
        if any(self._copies.values()):
            raise FaultError("a block ends with copies to its memory under way")

    def _complete(self, key: Key, copy: Copy) -> None:
        barrier = self._at(key)
        barrier.bytes -= copy()
        self.phases += barrier.advance()

    def _at(self, key: Key) -> _Barrier:
        if key not in self._found:
            raise FaultError(f"there is no mbarrier at {key[1]:#x}")
        return self._found[key]
