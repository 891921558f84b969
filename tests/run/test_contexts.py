"""The buffers of runs on a GPU, which is not there: recorded, replayed, waited for, let go."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from optgraph.base.errors import OptgraphError
from optgraph.passes import pipeline
from optgraph.plan.plans import Plans
from optgraph.run import reference
from optgraph.run.context import Context
from optgraph.run.engine import Engine
from tests.support.fake_gpu import FakeGpu, Graph, Stream
from tests.support.networks import Builder, xception

GPU = torch.device("cuda", 0)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """One that computes nothing."""
    return FakeGpu(monkeypatch, compute=lambda launch: None)


def engine() -> Engine:
    graph = xception()
    pipeline.apply(graph, pipeline.FUSE)
    return Engine(Plans(graph, "fp32"), GPU)


def images(batch: int = 1, seed: int = 0) -> torch.Tensor:
    shape = [batch, *(int(d) for d in xception().shape("x")[1:])]
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_gpu_records_its_first_run_and_replays_it_later(gpu: FakeGpu) -> None:
    run, x = engine(), images()
    first = ["launch"] * len(run.plan(1).calls) + ["capture thread_local"]
    for expected in (first, ["replay"], ["replay"]):
        del gpu.done[:]
        run({"x": x}, 1)
        assert [what for what in gpu.done if not what.startswith(("wait", "record"))] == expected


def test_what_is_replayed_computes_what_the_launches_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """An H100's plan, its launches interpreted."""
    gpu = FakeGpu(monkeypatch)
    b = Builder(channels=4, size=5)
    graph = b.done(b.conv(b.act(b.conv(b.x, 6, 3)), 3))
    run = Engine(Plans(graph, "fp32"), GPU)
    for seed in range(3):
        x = torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(seed))
        expected = reference.run(graph, {"x": x}, torch.float64)["y0"]
        assert float((run({"x": x}, 1)["y0"] - expected).norm() / expected.norm()) < 1e-6
    assert gpu.done.count("replay") == 2


def test_nothing_waits_for_the_device(gpu: FakeGpu) -> None:
    """Not even the first run, which records: what others do on it goes on."""
    run = engine()
    for _ in range(2):
        run({"x": images()}, 1)
    assert not any("synchronize" in what for what in gpu.done)


def test_a_recording_that_fails_is_ended(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the stream records on, and every later recording fails."""
    run = engine()

    def broken(*given: object) -> None:
        raise OptgraphError("no")

    with monkeypatch.context() as patch:
        patch.setattr("optgraph.run.capture.enqueue", broken)
        with pytest.raises(OptgraphError, match="no"):
            run({"x": images()}, 1)
        assert gpu.recording is None
    run({"x": images()}, 1)
    assert "capture thread_local" in gpu.done


def test_in_a_recording_of_the_callers_the_launches_are_enqueued_one_by_one(gpu: FakeGpu) -> None:
    """With nothing recorded of our own, and no event from outside, which a recording refuses."""
    run = engine()
    run({"x": images()}, 1)
    del gpu.done[:]
    gpu.recording = Graph(gpu)
    run({"x": images()}, 1)
    assert gpu.done == [] and len(gpu.recording.launches) == len(run.plan(1).calls)


def test_a_recording_of_the_callers_keeps_its_buffers(gpu: FakeGpu) -> None:
    """For it writes them whenever it is replayed; and it cannot make any."""
    run = engine()
    with run.context(1) as first:
        pass
    gpu.recording = Graph(gpu)
    with run.context(1) as inside:
        assert inside is first
    for batch in (1, 2):
        with pytest.raises(OptgraphError, match=f"no buffers for {batch} images"), run.context(batch):
            pass
    gpu.recording = None
    for _ in range(2):
        with run.context(1) as later:
            assert later is not first


def test_the_least_recently_used_buffers_are_let_go_when_their_work_is_done(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optgraph.run.engine.KEPT", 2)
    run = engine()
    kept: dict[int, weakref.ref[Context]] = {}
    for batch in (1, 2, 1, 3):  # 2 is now the one that nobody used for longest
        with run.context(batch) as context:
            kept[batch] = weakref.ref(context)
        del context
    assert gpu.done.count("synchronize") == 1
    gc.collect()
    assert [batch for batch, found in kept.items() if found() is None] == [2]
    with run.context(1) as context:
        assert context is kept[1]()


def test_a_context_is_used_after_what_its_last_user_enqueued(gpu: FakeGpu) -> None:
    run = engine()
    with run.context(1):
        gpu.done.append("first")
    with pytest.raises(ValueError), gpu.on(Stream(gpu, 7)), run.context(1):
        gpu.done.append("second")
        raise ValueError
    with run.context(1):
        gpu.done.append("third")
    expected = ["first", "record on 0", "wait on 7", "second", "record on 7", "wait on 0", "third", "record on 0"]
    assert gpu.done == expected


def test_another_device_than_the_current_is_chosen_for_a_call(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "_exchange_device", lambda index: chosen.append(index) or 1)
    monkeypatch.setattr(torch.cuda, "_maybe_exchange_device", lambda index: chosen.append(index) or 0)
    run = engine()
    run({"x": images()}, 1)
    assert chosen == []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    run({"x": images()}, 1)
    assert chosen == [0, 1]
