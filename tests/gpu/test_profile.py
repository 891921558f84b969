"""The profile of a network on the GPU: launches by themselves, and the graph of all."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import optgraph
from benchmarks import record
from optgraph.api.profile import profile
from optgraph.report.profiles import profile_dict, trace_dict
from optgraph.run.engine import Engine
from optgraph.tune.timing import captured, cuda_timer

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("batch", [1, 8])
def test_parts_and_whole(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No launch is free, and the whole is no longer than its parts one by one, each of which an event lies behind."""
    ranges: list[str] = []
    push: Any = torch.cuda.nvtx.range_push
    monkeypatch.setattr(torch.cuda.nvtx, "range_push", lambda name: (ranges.append(name), push(name))[1])
    net = optgraph.compile(record.model("inception_v3"), "triton", "fp16")
    found = profile(net, batch, repeats=5, nvtx=True)
    assert found.ahead and found.whole is not None
    assert len(found.runs) == 5 and len(ranges) == 5 * (1 + len(net.plan(batch).calls))
    for run in found.runs:
        assert all(0 < span.seconds < 0.1 for span in run)
    parts = sum(found.by_region().values())
    assert 0.1 * parts < found.whole < 1.1 * parts
    assert json.dumps(profile_dict(net, found))
    assert json.dumps(trace_dict(net, found))


def test_a_launch_takes_what_it_takes_in_a_graph_of_its_own() -> None:
    """Of large launches, to which an event adds little: the same, by another way to measure."""
    net = optgraph.compile(record.model("inception_v3"), "triton", "fp16")
    found = profile(net, 64, repeats=5).by_region()
    engine = net.runtime
    assert isinstance(engine, Engine)
    with engine.context(64) as context:
        largest = max(range(len(context.plan.calls)), key=lambda i: found[context.plan.calls[i].node])
        node = context.plan.calls[largest].node
        assert [call.node for call in context.plan.calls].count(node) == 1
        again = cuda_timer(captured(context._launches[largest], 20), 5) / 20 / 1e3
    assert found[node] == pytest.approx(again, rel=0.3)
