"""Capture on parallel streams, with streams that only record: every order that a GPU might take gives the same bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from optgraph.ir.graph import Graph
from optgraph.passes import pipeline
from optgraph.plan.plan import Schedule
from optgraph.plan.plans import Plans
from optgraph.run.capture import capture, enqueue, enqueue_in_turn, recorded
from optgraph.run.context import Context
from optgraph.run.driver import Bound
from optgraph.run.engine import Engine
from tests.support.networks import Builder, inception_a, inception_resnet, xception
from tests.support.streams import Device, Stream


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(monkeypatch)


def branches() -> Graph:
    """Nine branches of two convolutions, more than there are streams, and a block whose memory they leave."""
    b = Builder(channels=4, size=5)
    x = b.conv(b.x, 4, 3)
    x = b.conv(b.concat(*(b.conv(b.conv(x, 4, 3), 4, (1, 3)) for _ in range(9))), 4)
    return b.done(b.concat(b.conv(b.conv(x, 3, 3), 5, 3), b.conv(x, 6, 3)))


def results(context: Context, device: Device, schedule: Schedule, seed: int) -> dict[str, torch.Tensor]:
    """Of the launches enqueued as `schedule` says and run in some order, on memory full of NaN."""
    context._buffers._arena.fill_(0xFF)
    streams = [Stream() for _ in range(schedule.streams)]
    enqueue([device.enqueued(launch) for launch in context._launches], schedule, streams)
    device.run(streams, seed)
    return context.results()


@pytest.mark.parametrize("build", [inception_a, inception_resnet, xception, branches])
def test_any_order_the_streams_allow_gives_the_same_bits(build: Callable[[], Graph], device: Device) -> None:
    graph = build()
    pipeline.apply(graph, pipeline.FUSE)
    with Engine(Plans(graph, "fp32"), torch.device("cpu")).context(1) as context:
        context.load({"x": torch.randn(context.plan.inputs["x"].shape, generator=torch.Generator().manual_seed(3))})
        context.run()
        expected = context.results()
        schedule = context.plan.schedule
        for seed in range(3):
            for name, result in results(context, device, schedule, seed).items():
                assert torch.equal(result, expected[name])
        hasty = replace(schedule, waits=((),) * len(context.plan.calls))
        assert any(
            not torch.equal(result, expected[name])
            for seed in range(3)
            for name, result in results(context, device, hasty, seed).items()
        )


SCHEDULE = Schedule(wave=(0, 1, 1, 1, 2), stream=(0, 0, 1, 2, 1), waits=((), (), (0,), (0,), (1,)))


def test_what_is_enqueued_lies_between_what_is_before_and_after_on_the_first_stream(device: Device) -> None:
    for seed in range(20):
        order: list[Any] = []
        streams = [Stream() for _ in range(SCHEDULE.streams)]
        streams[0].queue.append(("launch", lambda: order.append("before")))  # noqa: B023
        launches = [device.enqueued(lambda i=i: order.append(i)) for i in range(5)]  # noqa: B023
        enqueue(launches, SCHEDULE, streams)
        streams[0].queue.append(("launch", lambda: order.append("after")))  # noqa: B023
        device.run(streams, seed)
        assert (order[0], order[1], order[-1]) == ("before", 0, "after")
        assert sorted(order[1:-1]) == [0, 1, 2, 3, 4] and order.index(4) > max(order.index(1), order.index(2))


def test_streams_join_the_recording_by_an_event_and_are_waited_for(device: Device) -> None:
    """CUDA refuses a recording otherwise."""
    streams = [Stream() for _ in range(SCHEDULE.streams)]
    enqueue([device.enqueued(lambda: None)] * 5, SCHEDULE, streams)
    recorded = {event: stream for stream in streams for kind, event in stream.queue if kind == "record"}
    for stream in streams[1:]:
        assert stream.queue[0][0] == "wait" and recorded[stream.queue[0][1]] is streams[0]
        kind, last = stream.queue[-1]
        assert kind == "record" and ("wait", last) in streams[0].queue


def test_a_call_of_a_chain_follows_one_on_its_stream_and_waits_for_no_other() -> None:
    assert SCHEDULE.chained == (False, True, False, False, False)
    assert SCHEDULE.part(2, 5).chained == (False, False, True)  # the call it waited for is done


class Ours(Bound):
    """A launch of ours that notes in `done` how it is enqueued."""

    def __init__(self, name: int, done: list[Any]) -> None:
        self._name, self._done = name, done

    def __call__(self) -> None:
        self._done.append(self._name)

    def early(self) -> None:
        self._done.append(("early", self._name))


def test_in_a_graph_a_launch_begins_early_that_is_chained(device: Device) -> None:
    done: list[Any] = []
    streams = [Stream() for _ in range(SCHEDULE.streams)]
    enqueue([device.enqueued(Ours(i, done)) for i in range(5)], SCHEDULE, streams)
    for stream in streams:
        before = None
        for kind, what in stream.queue:
            if kind == "launch":
                what()
                # CUDA sees the two as neighbours: only an event is recorded between them.
                assert not isinstance(done[-1], tuple) or before == "launch"
            before = before if kind == "record" else kind
    assert done == [0, ("early", 1), 2, 4, 3]


def test_in_turn_a_launch_begins_early_that_follows_one_of_ours() -> None:
    done: list[Any] = []
    launches = [Ours(0, done), Ours(1, done), lambda: done.append("fallback"), Ours(3, done), Ours(4, done)]
    enqueue_in_turn(launches)
    assert done == [0, ("early", 1), "fallback", 3, ("early", 4)]


def test_a_part_of_a_schedule_is_that_of_its_calls_alone() -> None:
    assert SCHEDULE.part(0, 5) == SCHEDULE
    part = SCHEDULE.part(2, 5)
    assert (part.wave, part.stream, part.waits) == ((1, 1, 2), (1, 2, 1), ((), (), ()))
    assert SCHEDULE.part(1, 5).waits == ((), (), (), (0,))


def test_what_is_no_kernel_runs_between_the_graphs_of_those_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []

    def record(launches: list[Callable[[], None]], schedule: Schedule) -> SimpleNamespace:
        assert len(launches) == len(schedule.waits) == len(schedule.stream)
        return SimpleNamespace(replay=lambda: done.append([launch() for launch in launches]))

    monkeypatch.setattr("optgraph.run.capture.capture", record)
    launches: list[Any] = [lambda: 0, lambda: 1, lambda: done.append("fallback"), lambda: 3, lambda: 4]
    for step in recorded(launches, [True, True, False, True, True], SCHEDULE):
        step()
    assert done == [[0, 1], "fallback", [3, 4]]
    assert recorded(launches[2:3], [False], SCHEDULE.part(2, 3)) == launches[2:3]


def test_capture_records_on_streams_that_nobody_else_has(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Stream] = []
    handles = iter(range(100, 200))

    def stream(handle: int, device: int) -> Stream:
        assert handle == 100 + len(made) and device == 1
        made.append(Stream())
        return made[-1]

    class Graph:
        def capture_begin(self, capture_error_mode: str) -> None:
            # Else a thread that allocates meanwhile would fail, and spoil the recording.
            assert capture_error_mode == "thread_local" and device.current is made[0]

        def capture_end(self) -> None:
            assert device.current is made[0]
            self.queues = [len(s.queue) for s in made]

    monkeypatch.setattr("optgraph.run.capture._STREAMS", {})
    monkeypatch.setattr("optgraph.run.capture.new_stream", lambda: next(handles))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "ExternalStream", stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    ran: list[int] = []
    launches = [device.enqueued(lambda i=i: ran.append(i)) for i in range(5)]
    graph = capture(launches, SCHEDULE)
    assert isinstance(graph, Graph) and len(made) == 3
    assert ran == [] and graph.queues == [len(s.queue) for s in made]
    device.run(made, seed=0)
    assert sorted(ran) == [0, 1, 2, 3, 4]
    capture(launches, SCHEDULE)
    assert len(made) == 3  # once a process
