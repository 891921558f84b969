"""A network part by part: its edges, and who runs when on which bytes."""

from __future__ import annotations

from itertools import combinations

from optgraph.base.devices import SM_90
from optgraph.report.anatomy import buffers, graph_dict, schedule_dict, starts
from tests.support.networks import inception_a
from tests.support.reported import net, small


def test_graph_dict_has_who_reads_what_of_whom() -> None:
    graph = small()
    found = graph_dict(graph)
    conv, mod = found["nodes"]
    assert found["inputs"] == [{"name": "x", "shape": ["N", 12, 9, 9], "dtype": "float32"}]
    assert (
        conv["op"] == "Conv" and conv["outputs"][0]["shape"] == ["N", 5, 9, 9] and conv["onnx_nodes"] == ["conv_const"]
    )
    assert mod["name"] == "two\x1b[2J" and mod["onnx_nodes"] == ["mod"]
    assert found["outputs"] == [{"name": "y0", "value": mod["outputs"][0]["value"], **mod_value(mod)}]
    value = conv["outputs"][0]["value"]
    assert found["edges"] == [
        {"from": None, "to": conv["name"], "value": "x"},
        {"from": conv["name"], "to": mod["name"], "value": value},  # once, though it reads it twice
    ]


def mod_value(node: dict) -> dict:
    return {key: node["outputs"][0][key] for key in ("shape", "dtype")}


def test_schedule_dict_is_the_plan() -> None:
    compiled = net(inception_a(), "fp16")
    plan = compiled.plan(2, SM_90)
    found = schedule_dict(compiled, 2, SM_90)
    assert (found["batch"], found["target"]) == (2, "sm_90")
    launches = found["launches"]
    assert [(x["wave"], x["stream"], tuple(x["waits"])) for x in launches] == list(
        zip(plan.schedule.wave, plan.schedule.stream, plan.schedule.waits, strict=True)
    )
    assert any(x["waits"] for x in launches)
    for launch, call in zip(launches, plan.calls, strict=True):
        assert launch["kernel"] == call.name and launch["onnx_nodes"]
        assert launch["reads"] == list(dict.fromkeys(view.base for view in call.reads.values()))
        assert launch["outputs"] == [list(view.shape) for view in call.written]
        assert launch["programs"] == launch["grid"][0] * (launch["grid"] + [1])[1] * (launch["grid"] + [1, 1])[2]
    products = [x for x in launches if x["padded"] is not None]
    assert products and all(x["padded"] >= 1 for x in products)


def test_a_fallback_has_no_tile() -> None:
    conv, mod = schedule_dict(net(small()), 1, SM_90)["launches"]
    assert len(conv["tile"]) == 3 and "tile" not in mod and mod["padded"] is None


def test_buffers_that_live_together_share_no_byte() -> None:
    plan = net(inception_a(), "fp16").plan(2, SM_90)
    found = buffers(plan)
    assert {buffer["name"] for buffer in found} == set(plan.offsets)
    assert max(buffer["offset"] + buffer["bytes"] for buffer in found) <= plan.arena_bytes
    together = [(a, b) for a, b in combinations(found, 2) if a["first"] <= b["last"] and b["first"] <= a["last"]]
    assert together
    for a, b in together:
        assert a["offset"] + a["bytes"] <= b["offset"] or b["offset"] + b["bytes"] <= a["offset"]


def test_an_output_lives_to_the_end() -> None:
    plan = net(small()).plan(1, SM_90)
    assert {buffer["name"]: buffer["last"] for buffer in buffers(plan)}[plan.outputs["y0"].base] == len(plan.calls) - 1


def test_starts_wait_for_the_stream_and_for_the_launches_they_are_told_to() -> None:
    launches = [
        {"stream": 0, "waits": []},
        {"stream": 0, "waits": []},
        {"stream": 1, "waits": [0]},
        {"stream": 0, "waits": [2]},
    ]
    assert starts({"launches": launches}, [2.0, 3.0, 10.0, 1.0]) == [0.0, 2.0, 2.0, 12.0]
