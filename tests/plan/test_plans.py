"""One lowering a batch and target, whoever asks for the plan."""

from __future__ import annotations

import pytest

import optgraph
from optgraph.ahead import build as building
from optgraph.base.devices import INTERPRET, SM_80, SM_90, Target
from optgraph.base.errors import InputError
from optgraph.passes import pipeline
from optgraph.plan import plans
from optgraph.plan.lowering import lower
from optgraph.plan.plan import Plan
from optgraph.plan.plans import Plans
from optgraph.report import facts
from tests.support.cli_models import classifier
from tests.support.networks import inception_a
from tests.support.paths import GRAPHS


def test_a_compile_lowers_once_for_each_batch_and_target(monkeypatch: pytest.MonkeyPatch) -> None:
    lowered: list[tuple[int, Target]] = []

    def counting(graph: optgraph.Graph, batch: int, dtype: str, target: Target, keep: tuple[str, ...]) -> Plan:
        lowered.append((batch, target))
        return lower(graph, batch, dtype, target, keep)

    monkeypatch.setattr(plans, "lower", counting)
    monkeypatch.setattr(building, "build", lambda uses, progress: [])
    made = optgraph.compile(classifier(), "torch", "fp16", targets=["sm_80", "sm_90"], batches=[1, 2], strict=True)
    facts.net_dict(made, made.batches)
    assert sorted(lowered, key=str) == sorted(((b, t) for b in (1, 2, 8, 64) for t in (SM_80, SM_90)), key=str)


def test_a_plan_is_made_for_its_target() -> None:
    found = Plans(inception_a(), "fp16")
    assert found.get(1, SM_90) is found.get(1, SM_90) is not found.get(1, SM_80)
    assert [found.get(2, target).target for target in (SM_80, INTERPRET)] == [SM_80, INTERPRET]
    with pytest.raises(InputError, match="unknown dtype 'fp8'"):
        Plans(inception_a(), "fp8")


def test_what_one_launch_does_depends_on_the_target() -> None:
    """Of ResNet-50 v2's bottlenecks an A100, with fewer SMs to fill, runs more in a single launch than an H100."""
    graph = optgraph.read(GRAPHS / "keras_torch_resnet50_v2.onnx", allow_stripped=True)
    pipeline.apply(graph, pipeline.SIMPLIFY + pipeline.FUSE)
    counts = [lower(graph, 64, "fp16", target).launches_by_kernel()["bottleneck"] for target in (SM_80, SM_90)]
    assert counts[0] > counts[1] > 0
