"""What is reported: figures counted by hand, and tables that show all of a dict and nothing that is not in it."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from optgraph.api.net import Net, SourceModel
from optgraph.base.errors import ModelError
from optgraph.cost.work import bytes_per_image
from optgraph.ir.checks import check_finite
from optgraph.ir.graph import Graph
from optgraph.ir.text import graph_dot
from optgraph.ir.values import Value
from optgraph.ops import Affine, Binary, Concat, MatMul
from optgraph.passes import pipeline
from optgraph.passes.pipeline import PassReport
from optgraph.passes.rewrite import Refusal
from optgraph.report import report
from optgraph.report.terminal import dumps
from tests.support.networks import Builder, inception_a


def text(table: Table) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def net(graph: Graph, dtype: str = "fp32") -> Net:
    """`graph` as if compiled from 99 nodes."""
    return Net(graph, graph, SourceModel("m.onnx", "", 99, bytes_per_image(graph, dtype)), "torch", dtype)


def small() -> Graph:
    """A 1×1 convolution of 12 to 5 channels on 9×9 pixels, and a subtraction, for which there is no kernel."""
    b = Builder()
    y = b.conv(b.x, 5)
    z = b.graph.add(Binary(fn="sub"), (y, y), name="two\x1b[2J", origin=("sub",)).output
    return b.done(z)


# ---- dicts


def test_net_dict() -> None:
    found = report.net_dict(net(small()), (1, 3))
    x, y = 4 * 81 * 12, 4 * 81 * 5
    assert found["nodes"] == 99 and found["fused_nodes"] == found["simplified_nodes"] == 2
    assert found["fused_ops"] == {"Binary": 1, "Conv": 1}
    assert found["launches"] == 2 and found["launches_by_kernel"] == {"fallback": 1, "pointwise": 1}
    assert found["bytes_per_image"] == {"before": x + 4 * y, "after": x + 4 * y}
    assert found["weight_bytes"] == 4 * (12 * 5 + 5)
    assert [(f["node"], f["op"]) for f in found["fallbacks"]] == [("two\x1b[2J", "Binary")]
    assert found["fallbacks"][0]["reason"] == "no kernel for an elementwise sub"
    by_batch = found["arena_bytes_by_batch"]
    assert found["arena_bytes"] == by_batch[1] >= 2 * y
    assert by_batch[3] >= 3 * 2 * y


def test_net_dict_halves_with_the_dtype() -> None:
    single, half = (report.net_dict(net(inception_a(), dtype)) for dtype in ("fp32", "fp16"))
    assert half["weight_bytes"] * 2 == single["weight_bytes"]
    assert half["bytes_per_image"]["before"] * 2 == single["bytes_per_image"]["before"]
    assert half["launches"] == single["launches"] > 0


def test_a_batch_does_not_change_bytes_per_image() -> None:
    one, eight = (report.net_dict(net(inception_a()), (batch,)) for batch in (1, 8))
    assert one["bytes_per_image"] == eight["bytes_per_image"]
    assert 8 * one["arena_bytes"] - 8 * 256 * 20 <= eight["arena_bytes"] <= 8 * one["arena_bytes"]


def test_cost_dict_is_the_sum_of_its_launches() -> None:
    found = report.cost_dict(net(inception_a(), "fp16"), 4, "sm_80")
    launches = found["launches"]
    plan = net(inception_a(), "fp16").plan(4)
    assert [(launch["kernel"], launch["node"]) for launch in launches] == [(c.name, c.node) for c in plan.calls]
    assert (found["device"], found["batch"], found["waves"]) == ("A100 SXM 80GB", 4, plan.waves)
    assert [launch["wave"] for launch in launches] == list(plan.schedule.wave)
    assert found["sequential_us"] == pytest.approx(sum(launch["us"] for launch in launches), rel=0.01)
    assert found["roofline_us"] < found["predicted_us"] <= found["sequential_us"]
    moved = sum(launch["read_bytes"] + launch["written_bytes"] for launch in launches)
    assert moved == 4 * report.net_dict(net(inception_a(), "fp16"))["bytes_per_image"]["after"]
    assert all(launch["bound"] == "latency" and launch["us"] > 2 for launch in launches)


def test_the_prediction_of_a_net_is_that_of_one_image() -> None:
    compiled = net(inception_a())
    predicted = report.net_dict(compiled, (8,))["predicted"]
    assert predicted == {
        "device": "H100 SXM",
        "batch": 1,
        "us": report.cost_dict(compiled, 1, "sm_90")["predicted_us"],
    }


def reports() -> list[PassReport]:
    refusal = Refusal("fold", "conv [1]", "it pads")
    return [PassReport("a", "first", 3, 10, 7, 0.0123, (refusal,)), PassReport("b", "second", 0, 7, 7, 0.0, ())]


def test_passes_dict() -> None:
    first, second = report.passes_dict(reports())
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


def test_top_classes() -> None:
    scores = np.array([[0.1, 0.7, 0.05, 0.15], [4.0, 3.0, 4.0, 1.0]], np.float32)
    found = report.results_dict({"y": scores, "mask": scores > 1, "map": scores[None], "one": scores[:, :1]})
    assert [[c["class"] for c in image] for image in found["y"]["top"]] == [[1, 3, 0, 2], [0, 2, 1, 3]]
    assert found["y"]["top"][1][0] == {"class": 0, "score": 4.0}
    assert found["y"]["shape"] == [2, 4] and found["y"]["dtype"] == "float32"
    assert [found[name]["top"] for name in ("mask", "map", "one")] == [None] * 3
    many = report.results_dict({"y": np.arange(30.0).reshape(1, 30)})
    assert [c["class"] for c in many["y"]["top"][0]] == [29, 28, 27, 26, 25]


def test_json_is_strict() -> None:
    data = {"a": [math.nan, math.inf, 1.5], "b": {2: (True, None, "×")}}
    assert json.loads(dumps(data)) == {"a": [None, None, 1.5], "b": {"2": [True, None, "×"]}}


# ---- tables


def test_net_table() -> None:
    shown = text(report.net_table(report.net_dict(net(small()), (1, 3))))
    for part in ("m.onnx, fp32", "99, simplified to 2", "fallback 1, pointwise 1", "at batch 3", "260 bytes"):
        assert part in shown
    assert "10.4 KB -> 10.4 KB (+0%)" in shown
    assert "two [2J (Binary): no kernel for an elementwise sub" in shown and "\x1b" not in shown


def test_cost_tables() -> None:
    data = report.cost_dict(net(small()), 2, "sm_90")
    header, *rows = text(report.cost_table(data)).splitlines()
    assert header.split() == ["node", "wave", "kernel", "output", "blocks", "MB", "weights", "GFLOP", "µs", "bound"]
    conv, sub = (row.split() for row in rows)
    assert conv[:4] == ["conv", "0", "pointwise", "2×9×9×5"] and conv[-1] == "latency"
    assert "two [2J" in rows[1] and "fallback" in sub and "\x1b" not in rows[1]
    shown = text(report.prediction_table(data))
    for part in ("on an H100 SXM at batch 2; not measured", "waves      2;", "latency 2", "20.7 KB of activations"):
        assert part in shown


def test_sibling_outputs_are_shown_by_their_channels() -> None:
    graph = inception_a()
    pipeline.apply(graph, pipeline.FUSE)
    shown = text(report.cost_table(report.cost_dict(net(graph), 1, "sm_90")))
    assert "1×9×9×8+6+5+4" in shown


def test_passes_table() -> None:
    shown = text(report.passes_table(report.passes_dict(reports()))).splitlines()
    assert [line.split() for line in shown] == [
        ["pass", "rewrites", "nodes", "after", "ms"],
        ["first", "3", "7", "12.3"],
        ["second", "0", "7", "0.0"],
    ]


def test_results_table() -> None:
    shown = text(report.results_table(report.results_dict({"[bold]y": np.eye(2), "s": np.float32(1)[None][0:1]})))
    assert "[bold]y" in shown and "0 (1), 1 (0)" in shown and "1 (1), 0 (0)" in shown


def test_verification_table() -> None:
    data = {
        "ok": False,
        "reason": "far off",
        "backend": "torch",
        "dtype": "fp32",
        "reference": "onnxruntime 1",
        "batch": 2,
        "bound": 1e-5,
        "noise": 2e-6,
        "outputs": [{"name": "y", "rel_l2": None, "max_abs": 0.25}],
        "regions_compared": 3,
        "regions_total": 4,
        "input_sensitivity": 0.5,
        "first_bad_region": {"region": "conv", "op": "Conv", "onnx_nodes": ["c1", "r1"], "rel_l2": 0.125},
    }
    shown = text(report.verification_table(data))
    for part in (
        "not ok: far off",
        "y: not finite relative L2, 0.25",
        "3 of 4",
        "conv (Conv): 0.125",
        "c1, r1",
        "1e-05",
    ):
        assert part in shown
    shown = text(report.verification_table({**data, "ok": True, "first_bad_region": None}))
    assert "far off" not in shown and "first wrong" not in shown


def test_comparison_table() -> None:
    spread = {"min": 1.0, "max": 3.0, "iqr": 0.5}
    data = {
        "model": "m.onnx",
        "backend": "triton",
        "against": "onnxruntime",
        "dtype": "fp16",
        "batch": 8,
        "threads": 2,
        "device": "H100",
        "ours_ms": 2.0,
        "theirs_ms": 5.0,
        "ratio": 2.4,
        "ratio_of_medians": 2.5,
        "repeats": 20,
        "spread": {"ours": spread, "theirs": spread},
        "versions": {"torch": "2.13"},
    }
    shown = text(report.comparison_table(data))
    for part in ("2.00 ms (1.00 to 3.00, IQR 0.50)", "5.00 ms", "2.40× by pairs, 2.50×", "triton fp16, H100"):
        assert part in shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 KB"), (95_300_000, "95.3 MB"), (2.5e12, "2500.0 GB")],
)
def test_sizes(count: float, shown: str) -> None:
    assert report.size(count) == shown


# ---- Graphviz


def test_dot() -> None:
    graph = Graph()
    x = graph.add_input('x"\\', Value(("N", 4, 3, 3)))
    y = graph.add(Binary(fn="add"), (x, x)).output
    z = graph.add(Concat(axis=1), (x, y)).output
    graph.outputs = {"z": z}
    assert graph_dot(graph).splitlines() == [
        "digraph {",
        "  node [shape=box, fontname=monospace];",
        '  i0 [label="x\\"\\\\\\nN×4×3×3", shape=ellipse];',
        '  n0 [label="Binary[fn=add]\\nN×4×3×3"];',
        "  i0 -> n0;",
        "  i0 -> n0;",
        '  n1 [label="Concat[axis=1]\\nN×8×3×3"];',
        "  i0 -> n1;",
        "  n0 -> n1;",
        '  o0 [label="z\\nN×8×3×3", shape=ellipse];',
        "  n1 -> o0;",
        "}",
    ]


# ---- weights


def weighted(**weights: np.ndarray) -> Graph:
    """x·w with a scale and a shift after it."""
    graph = Graph()
    x = graph.add_input("x", Value(("N", 4)))
    shapes = {"w": (4, 3), "scale": (3,), "shift": (3,)}
    arrays = {name: np.ones(shape, np.float32) for name, shape in shapes.items()} | weights
    names = {name: graph.add_constant(array, name) for name, array in arrays.items()}
    y = graph.add(MatMul(), (x, names["w"]), name="fc").output
    graph.outputs = {"y": graph.add(Affine(), (y, names["scale"], names["shift"]), name="norm").output}
    return graph


def test_weights_that_are_finite() -> None:
    check_finite(weighted(w=np.full((4, 3), np.finfo(np.float32).max)))
    graph = weighted()
    graph.add_constant(np.array(-np.inf, np.float32), "bound")
    graph.add_constant(np.array([2**62, -1]), "shape")
    check_finite(graph)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_weight_that_is_not_finite_is_named(bad: float, dtype: type) -> None:
    shift = np.array([0, bad, bad], dtype)
    with pytest.raises(ModelError, match=r"weight 'shift', read by node 'norm' \(Affine\), has 2 of 3 values"):
        check_finite(weighted(shift=shift))


def test_a_single_nan_is_no_bound() -> None:
    graph = weighted()
    graph.add_constant(np.array(np.nan, np.float32), "bound")
    with pytest.raises(ModelError, match="weight 'bound' has 1 of 1"):
        check_finite(graph)
