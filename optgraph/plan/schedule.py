"""The schedule: which calls of a plan may run at the same time, and what each of them waits for.

A call needs the calls that wrote what it reads. A *wave* is a run of consecutive calls none of which needs another;
the graph's order is by depth, so that there are as many waves as calls on the longest chain. The memory plan keeps
apart what one wave touches (`memory.py`). A *stream* is a chain of calls, run in their order; a call also *waits* for
calls on other streams: those it needs, and those that used the memory it writes for other buffers before.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from optgraph.base.dtypes import ITEMSIZE
from optgraph.kernels.frame.view import View
from optgraph.plan.plan import Call

STREAMS = 6  # at most; no wave of the networks we know is wider

Block = tuple[int, int]  # the first byte of a buffer in the arena, and the first past it


@dataclass(frozen=True)
class Footprint:
    """Where in its buffer a view's bytes are: all within start to end, and in each `pitch` of them (0: there is but
    one) only the first `width` from start on. A channel slice is `width` of the `pitch` bytes of each pixel."""

    start: int
    end: int
    width: int
    pitch: int

    @classmethod
    def of(cls, view: View) -> Footprint:
        item = ITEMSIZE[view.dtype]
        width, pitch, extent = item, 0, item
        for stride, size in sorted((s * item, n) for s, n in zip(view.strides, view.shape, strict=True) if n > 1):
            extent += (size - 1) * stride
            if stride <= width:
                width = extent
            else:
                pitch = math.gcd(pitch, stride)
        return cls(view.offset * item, view.offset * item + extent, width, pitch)

    def meets(self, other: Footprint) -> bool:
        """Whether the two may share a byte. Sure of whole values and channel slices; else it errs on the safe side."""
        if self.end <= other.start or other.end <= self.start:
            return False
        pitch = math.gcd(self.pitch, other.pitch)
        if pitch == 0:
            return True
        return (other.start - self.start) % pitch < self.width or (self.start - other.start) % pitch < other.width


def dependences(calls: Iterable[Call]) -> tuple[tuple[int, ...], ...]:
    """For each call the earlier ones that wrote what it reads, in ascending order.

    Lowering has each element of a buffer written once, so that nothing else orders two calls on one buffer.
    """
    writes: dict[str, list[tuple[int, Footprint]]] = defaultdict(list)
    needs = []
    for i, call in enumerate(calls):
        needed: set[int] = set()
        for view in call.reads.values():
            read = Footprint.of(view)
            needed.update(j for j, written in writes[view.base] if written.meets(read))
        for view in call.written:
            writes[view.base].append((i, Footprint.of(view)))
        needs.append(tuple(sorted(needed)))
    return tuple(needs)


def waves(needs: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """The wave of each call, from 0 on: a new one begins where a call needs another of its wave."""
    found: list[int] = []
    current = 0
    for needed in needs:
        if needed:
            current = max(current, found[needed[-1]] + 1)
        found.append(current)
    return tuple(found)


def streams(
    calls: Sequence[Call], needs: Sequence[Sequence[int]], blocks: Mapping[str, Block]
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """The stream of each call, and the calls on other streams it waits for.

    needs: as of `dependences`. blocks: the arena buffers. What follows from the order on a stream or from another wait
    is not waited for again. While there are streams enough, a call follows none on its stream but those it must.
    """
    tails = [-1] * STREAMS  # the last call on each stream
    stream: list[int] = []
    waits: list[tuple[int, ...]] = []
    over: list[list[int]] = []  # for each call, by stream, the last call that is over once it is
    memory = _Memory(blocks)
    for i, call in enumerate(calls):
        earlier = sorted({*needs[i], *memory.former_users(call)}, reverse=True)
        mine = _choose(tails, _latest(over[j] for j in earlier))
        known = over[tails[mine]] if tails[mine] >= 0 else [-1] * STREAMS
        awaited = []
        for j in earlier:  # the latest first: it has waited for others
            if known[stream[j]] < j:
                awaited.append(j)
                known = _latest((known, over[j]))
        memory.use(call, i, mine)
        over.append([*known[:mine], i, *known[mine + 1 :]])
        tails[mine] = i
        stream.append(mine)
        waits.append(tuple(awaited))
    return tuple(stream), tuple(waits)


def _latest(calls: Iterable[Sequence[int]]) -> list[int]:
    """By stream, the latest of several calls each; -1 for none."""
    return list(map(max, zip([-1] * STREAMS, *calls, strict=True)))


def _choose(tails: Sequence[int], over: Sequence[int]) -> int:
    """The stream that went on longest of those idle when a call begins; if none is, the one that ended first."""
    idle = [s for s in range(STREAMS) if tails[s] <= over[s]]
    return max(idle, key=tails.__getitem__) if idle else min(range(STREAMS), key=tails.__getitem__)


class _Memory:
    """Who used each byte of the arena. Of the calls that used a buffer, the last on each stream stands for all."""

    def __init__(self, blocks: Mapping[str, Block]) -> None:
        self._blocks = blocks
        self._users: dict[str, list[int]] = {}
        self._former: dict[str, list[int]] = {}  # the users that its memory had before a buffer
        # The arena in pieces: where each begins, and the buffer that has it now.
        self._starts = [0]
        self._owners = [""]

    def use(self, call: Call, number: int, stream: int) -> None:
        for view in call.views():
            if view.base in self._blocks:
                self._users.setdefault(view.base, [-1] * STREAMS)[stream] = number

    def former_users(self, call: Call) -> set[int]:
        """The calls that used for other buffers what `call` writes."""
        return {user for view in call.written for user in self._before(view.base) if user >= 0}

    def _before(self, name: str) -> list[int]:
        if name not in self._former:
            owners = self._hand_over(name)
            self._former[name] = _latest(self._users[owner] for owner in owners)
        return self._former[name]

    def _hand_over(self, name: str) -> set[str]:
        """Makes a buffer the owner of its piece; returns whose it was. The earlier owners of a byte need not be known:
        the last one's users waited for them."""
        start, end = self._blocks[name]
        i, j = bisect_right(self._starts, start) - 1, bisect_left(self._starts, end)
        owners = self._owners[i:j]
        pieces = [(start, name)]
        if self._starts[i] < start:
            pieces.insert(0, (self._starts[i], owners[0]))
        if j == len(self._starts) or self._starts[j] > end:
            pieces.append((end, owners[-1]))
        self._starts[i:j] = [begin for begin, _ in pieces]
        self._owners[i:j] = [owner for _, owner in pieces]
        return set(owners) - {""}
