"""Which launches of a plan have machine code to ask, and where it is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from optgraph.ahead import machines
from optgraph.ahead.build import build, find_uses
from optgraph.ahead.machines import known
from optgraph.base.devices import SM_80, SM_90
from optgraph.cost.predict import predict
from optgraph.plan.buffers import dry_launches
from optgraph.plan.plans import Plans
from tests.support.networks import Builder


def test_kernels_at_hand_and_in_the_cache_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    b = Builder(channels=64, size=8)
    plans = Plans(b.done(b.conv(b.x, 64)), "fp16")
    plan, shapes = plans.get(1, SM_80), plans.shapes
    launch = dry_launches(plan, shapes)[-1]
    assert launch is not None
    assert known(plan, shapes)(launch) is None and known(plan, shapes, cached=True)(launch) is None

    cubins = build(find_uses(plans, [1], [SM_80]))
    for asked in (known(plan, shapes, cubins), known(plan, shapes, cached=True)):
        machine = asked(launch)
        assert machine is not None and machine.warps == launch.tile.num_warps and machine.resident >= 1
        assert sum(one.product for one in machine.code.flat) > 0, "it multiplies on tensor cores"
        prediction = predict(plan, shapes, known=asked).launches[-1]
        assert prediction.compiled and prediction.time.low < prediction.time.high
    elsewhere = plans.get(1, SM_90)
    other = dry_launches(elsewhere, shapes)[-1]
    assert other is not None and known(elsewhere, shapes, cubins)(other) is None, "they are for another GPU"

    monkeypatch.setattr(machines, "find_spec", lambda _: None)
    assert known(plan, shapes, cubins)(launch) is None, "without Triton nothing reads machine code"
