"""The figures that are reported: counted by hand."""

from __future__ import annotations

import pytest

from optgraph.report import facts
from tests.support.networks import inception_a
from tests.support.reported import net, reports, small


def test_net_dict() -> None:
    found = facts.net_dict(net(small()), (1, 3))
    x, y = 4 * 81 * 12, 4 * 81 * 5
    assert found["nodes"] == 99 and found["fused_nodes"] == found["simplified_nodes"] == 2
    assert found["fused_ops"] == {"Conv": 1, "Mod": 1}
    assert found["launches"] == 2 and found["launches_by_kernel"] == {"fallback": 1, "pointwise": 1}
    assert found["bytes_per_image"] == {"before": x + 4 * y, "after": x + 4 * y}
    assert found["weight_bytes"] == 4 * (12 * 5 + 5)
    assert [(f["node"], f["op"]) for f in found["fallbacks"]] == [("two\x1b[2J", "Mod")]
    assert found["fallbacks"][0]["reason"] == "no kernel for Mod"
    by_batch = found["arena_bytes_by_batch"]
    assert found["arena_bytes"] == by_batch[1] >= 2 * y
    assert by_batch[3] >= 3 * 2 * y


def test_net_dict_halves_with_the_dtype() -> None:
    single, half = (facts.net_dict(net(inception_a(), dtype)) for dtype in ("fp32", "fp16"))
    assert half["weight_bytes"] * 2 == single["weight_bytes"]
    assert half["bytes_per_image"]["before"] * 2 == single["bytes_per_image"]["before"]
    assert half["launches"] == single["launches"] > 0


def test_a_batch_does_not_change_bytes_per_image() -> None:
    one, eight = (facts.net_dict(net(inception_a()), (batch,)) for batch in (1, 8))
    assert one["bytes_per_image"] == eight["bytes_per_image"]
    assert 8 * one["arena_bytes"] - 8 * 256 * 20 <= eight["arena_bytes"] <= 8 * one["arena_bytes"]


def test_cost_dict_is_the_sum_of_its_launches() -> None:
    found = facts.cost_dict(net(inception_a(), "fp16"), 4, "sm_80")
    launches = found["launches"]
    plan = net(inception_a(), "fp16").plan(4)
    assert [(launch["kernel"], launch["node"]) for launch in launches] == [(c.name, c.node) for c in plan.calls]
    assert (found["device"], found["batch"], found["waves"]) == ("A100 SXM 80GB", 4, plan.waves)
    assert [launch["wave"] for launch in launches] == list(plan.schedule.wave)
    for end in ("low", "high"):
        assert found["sequential_us"][end] == pytest.approx(sum(launch["us"][end] for launch in launches), rel=0.01)
        assert found["roofline_us"] < found["predicted_us"][end] <= found["sequential_us"][end]
    moved = sum(launch["read_bytes"] + launch["written_bytes"] for launch in launches)
    assert moved == 4 * facts.net_dict(net(inception_a(), "fp16"))["bytes_per_image"]["after"]
    assert all(1.3 < launch["us"]["low"] < launch["us"]["high"] and not launch["compiled"] for launch in launches)
    assert {launch["bound"] for launch in launches} <= {"latency", "chain"}


def test_the_prediction_of_a_net_is_that_of_one_image() -> None:
    compiled = net(inception_a())
    predicted = facts.net_dict(compiled, (8,))["predicted"]
    assert predicted == {
        "device": "H100 SXM",
        "batch": 1,
        "us": facts.cost_dict(compiled, 1, "sm_90")["predicted_us"],
    }


def test_passes_dict() -> None:
    first, second = facts.passes_dict(reports())
    assert first == {
        "name": "a",
        "title": "first",
        "rewrites": 3,
        "nodes_before": 10,
        "nodes_after": 7,
        "ms": 12.3,
        "refusals": [{"rule": "fold", "node": "conv [1]", "reason": "it pads"}],
    }
    assert second["rewrites"] == 0 and second["refusals"] == []
