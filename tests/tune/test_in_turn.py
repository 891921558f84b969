"""Launches timed by themselves on a GPU that is not there, with a clock of its own: their time, and not the host's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from optgraph.tune import in_turn as module
from optgraph.tune.in_turn import Turns, in_turn
from tests.support.gpu_clock import GpuClock

US = 1e-6


class Launches:
    """As a Context: what each launch does, and which were run, in order."""

    def __init__(self, *launches: Callable[[], None], fallbacks: tuple[int, ...] = ()) -> None:
        self._launches = launches
        self.kernels = tuple(i not in fallbacks for i in range(len(launches)))
        self.done: list[int] = []

    def steps(self) -> Iterator[int]:
        for i, launch in enumerate(self._launches):
            launch()
            self.done.append(i)
            yield i


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> GpuClock:
    return GpuClock(monkeypatch)


def timed(launches: Launches, runs: int = 1, *names: str) -> Turns:
    context: Any = launches
    return in_turn(context, runs, names)


def kernel(clock: GpuClock, us: float, host: float = 10.0) -> Callable[[], None]:
    return lambda: clock.give(us * US, host * US) and None


def test_each_launch_takes_its_own_time_though_the_host_is_slower(clock: GpuClock) -> None:
    launches = Launches(*(kernel(clock, us) for us in (3, 7, 0.5)))
    found = timed(launches, 4)
    assert found.ahead and len(found.seconds) == 4
    for run in found.seconds:
        assert run == pytest.approx([3 * US, 7 * US, 0.5 * US])
    # In order, and some runs before those that count.
    assert launches.done == [0, 1, 2] * (len(launches.done) // 3) and len(launches.done) > 12


def test_it_waits_as_long_as_the_host_needs(clock: GpuClock) -> None:
    """Half a millisecond a launch: 50 take 25 ms to enqueue, and the first wait is 1 ms."""
    launches = Launches(*(kernel(clock, 3, 500) for _ in range(50)))
    found = timed(launches)
    assert found.ahead and found.seconds[0] == pytest.approx([3 * US] * 50)
    assert 5 < clock.waits < 10


def test_a_host_that_is_too_slow_is_told_of(clock: GpuClock, monkeypatch: pytest.MonkeyPatch) -> None:
    found = timed(Launches(*(kernel(clock, 3, 10_000) for _ in range(100))))
    assert not found.ahead and found.seconds[0][-1] > 1e-3  # what it measured is the host


def test_a_host_that_is_slow_in_one_run_is_told_of(clock: GpuClock) -> None:
    runs = iter(range(10))

    def sometimes() -> None:
        clock.give(3 * US, 1.0 if next(runs) == 2 else 10 * US)

    found = timed(Launches(kernel(clock, 3), sometimes, kernel(clock, 3)), 3)
    assert not found.ahead


def test_a_host_that_is_slow_at_the_beginning_is_told_of(clock: GpuClock) -> None:
    """Though the launches after the second wait are all there in time."""
    found = timed(Launches(kernel(clock, 1, 1e6), *(kernel(clock, 1) for _ in range(300))))
    assert not found.ahead


def test_more_launches_than_a_queue_takes(clock: GpuClock) -> None:
    found = timed(Launches(*(kernel(clock, 1 + i % 5) for i in range(2000))))
    assert found.ahead
    assert found.seconds[0] == pytest.approx([(1 + i % 5) * US for i in range(2000)])


def test_one_wait_for_so_many_would_not_do(clock: GpuClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 2000)
    assert not timed(Launches(*(kernel(clock, 1) for _ in range(2000)))).ahead


def test_a_fallback_is_timed_with_its_host_and_harms_no_other(clock: GpuClock) -> None:
    def fallback() -> None:
        clock.give(5 * US, 100 * US)
        clock.host = max(clock.host, clock.gpu)  # as .item() does
        clock.give(5 * US, 100 * US)

    launches = Launches(kernel(clock, 3), kernel(clock, 4), fallback, fallback, kernel(clock, 6), fallbacks=(2, 3))
    found = timed(launches)
    assert found.ahead
    first, second, *fallbacks, last = found.seconds[0]
    assert (first, second, last) == pytest.approx((3 * US, 4 * US, 6 * US))
    assert all(210 * US < took < 215 * US for took in fallbacks)


def test_nothing_to_launch(clock: GpuClock) -> None:
    assert timed(Launches(), 2) == Turns(((), ()), True)


def test_ranges_are_around_the_launches_of_runs_that_count(clock: GpuClock) -> None:
    seen: list[list[str]] = []
    launches = Launches(*[lambda: seen.append(list(clock.ranges)) or clock.give(US)] * 2)
    timed(launches, 2, "conv2d {0} of a", "pool b")
    inside = ["conv2d {0} of a", "end", "pool b", "end", "end"]
    assert clock.ranges == ["optgraph run 1 of 2", *inside, "optgraph run 2 of 2", *inside]
    assert [ranges[-1] for ranges in seen[-2:]] == ["conv2d {0} of a", "pool b"] and seen[0] == []


def test_ranges_end_where_a_launch_fails(clock: GpuClock) -> None:
    runs = iter(range(10))

    def broken() -> None:
        if next(runs) == 1:
            raise RuntimeError("no")
        clock.give(US)

    with pytest.raises(RuntimeError, match="no"):
        timed(Launches(broken), 1, "conv2d a")
    assert clock.ranges == ["optgraph run 1 of 1", "conv2d a", "end", "end"]


def test_without_names_there_are_no_ranges(clock: GpuClock) -> None:
    timed(Launches(kernel(clock, 1)))
    assert clock.ranges == []
