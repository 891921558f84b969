"""The buffers of runs on a GPU, with launches that only say that they ran: recorded, replayed, waited for, let go."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence

import pytest
import torch

from optgraph.base.errors import OptgraphError
from optgraph.passes import pipeline
from optgraph.plan.plan import Schedule
from optgraph.plan.plans import Plans
from optgraph.run.engine import Context, Engine
from tests.support.networks import xception


def engine() -> Engine:
    graph = xception()
    pipeline.apply(graph, pipeline.FUSE)
    return Engine(Plans(graph, "fp32"), torch.device("cpu"))


class FakeEvent:
    """An event, and the stream it is recorded on."""

    def __init__(self, done: list[str]) -> None:
        self._done = done

    def record_event(self) -> FakeEvent:
        self._done.append("record")
        return self

    def wait(self) -> None:
        self._done.append("wait")

    def synchronize(self) -> None:
        self._done.append("synchronize")


class Cuda:
    """What the engine asks of a GPU. done: what came of it, in order. capturing: whether the caller records a graph."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        self.capturing = False
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.capturing)
        patch.setattr(torch.cuda, "current_stream", lambda: FakeEvent(self.done))
        patch.setattr("optgraph.run.engine.recorded", self._recorded)

    def _recorded(
        self, launches: Sequence[Callable[[], None]], kernels: Sequence[bool], schedule: Schedule
    ) -> list[Callable[[], None]]:
        assert len(kernels) == len(schedule.stream)
        self.done.append("capture")
        return [lambda: self.done.append("replay")]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return Cuda(monkeypatch)


def on_gpu(context: Context, done: list[str]) -> Context:
    """The context as if on a GPU, with launches that only say that they ran."""
    context._device = torch.device("cuda")
    context._launches = [lambda i=i: done.append(str(i)) for i in range(3)]  # type: ignore[misc]
    return context


def test_a_gpu_records_its_first_run_and_replays_it_later(cuda: Cuda) -> None:
    with engine().context(1) as context:
        on_gpu(context, cuda.done)
        for _ in range(3):
            context.run()
    assert cuda.done[:6] == ["0", "1", "2", "capture", "replay", "replay"]


def test_in_a_recording_of_the_callers_the_launches_are_enqueued_one_by_one(cuda: Cuda) -> None:
    """With nothing recorded of our own, and no event from outside, which a recording refuses."""
    with engine().context(1) as context:
        on_gpu(context, cuda.done)
        context.run()
    del cuda.done[:]
    cuda.capturing = True
    with context.turn():
        context.run()
    assert cuda.done == ["0", "1", "2"]
    cuda.capturing = False
    with context.turn():
        context.run()
    assert cuda.done[3:] == ["wait", "replay", "record"]


def test_a_recording_of_the_callers_keeps_its_buffers(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """For it writes them whenever it is replayed; and it cannot make any."""
    run = engine()
    with run.context(1) as first:
        pass
    monkeypatch.setattr("optgraph.run.engine.capturing", lambda device: cuda.capturing)
    cuda.capturing = True
    with run.context(1) as inside:
        assert inside is first
    for batch in (1, 2):
        with pytest.raises(OptgraphError, match=f"no buffers for {batch} images"), run.context(batch):
            pass
    cuda.capturing = False
    for _ in range(2):
        with run.context(1) as later:
            assert later is not first


def test_the_least_recently_used_buffers_are_let_go_when_their_work_is_done(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optgraph.run.engine.KEPT", 2)
    run = engine()
    kept: dict[int, weakref.ref[Context]] = {}
    for batch in (1, 2, 1, 3):  # 2 is now the one that nobody used for longest
        with run.context(batch) as context:
            kept[batch] = weakref.ref(context)
            context._device = torch.device("cuda")
        del context
    assert cuda.done.count("synchronize") == 1
    gc.collect()
    assert [batch for batch, context in kept.items() if context() is None] == [2]
    with run.context(1) as context:
        assert context is kept[1]()


def test_a_context_is_used_after_what_its_last_user_enqueued(cuda: Cuda) -> None:
    with engine().context(1) as context:
        pass
    on_gpu(context, cuda.done)
    with context.turn():
        cuda.done.append("first")
    with pytest.raises(ValueError), context.turn():
        cuda.done.append("second")
        raise ValueError
    with context.turn():
        cuda.done.append("third")
    assert cuda.done == ["first", "record", "wait", "second", "record", "wait", "third", "record"]
