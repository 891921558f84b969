"""The tables show all of a dict and nothing that is not in it."""

from __future__ import annotations

import io
import json
import math

import pytest
from rich.console import Console
from rich.table import Table

from optgraph.passes import pipeline
from optgraph.report import facts, tables
from optgraph.report.terminal import dumps
from tests.support.networks import inception_a
from tests.support.reported import net, reports, small


def text(table: Table) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_net_table() -> None:
    shown = text(tables.net_table(facts.net_dict(net(small()), (1, 3))))
    for part in ("m.onnx, fp32", "99, simplified to 2", "fallback 1, pointwise 1", "at batch 3", "260 bytes"):
        assert part in shown
    assert "10.4 KB -> 10.4 KB (+0%)" in shown
    assert "two [2J (Mod): no kernel for Mod" in shown and "\x1b" not in shown


def test_cost_tables() -> None:
    data = facts.cost_dict(net(small()), 2, "sm_90")
    header, *rows = text(tables.cost_table(data)).splitlines()
    assert header.split() == ["node", "wave", "kernel", "output", "blocks", "MB", "weights", "GFLOP", "µs", "bound"]
    conv, sub = (row.split() for row in rows)
    assert conv[:4] == ["conv", "0", "pointwise", "2×9×9×5"] and conv[-1] == "latency"
    assert "two [2J" in rows[1] and "fallback" in sub and "\x1b" not in rows[1]
    shown = text(tables.prediction_table(data))
    for part in (
        "on an H100 SXM at batch 2; not measured",
        "waves       2;",
        "latency 2",
        "20.7 KB of activations",
        "tiles 2",
    ):
        assert part in shown


def test_sibling_outputs_are_shown_by_their_channels() -> None:
    graph = inception_a()
    pipeline.apply(graph, pipeline.FUSE)
    shown = text(tables.cost_table(facts.cost_dict(net(graph), 1, "sm_90")))
    assert "1×9×9×8+6+5+4" in shown


def test_a_listing_that_is_too_wide() -> None:
    """A paragraph a row, in which no number is broken; as a table it is one line a row."""
    table = tables.cost_table(facts.cost_dict(net(small()), 2, "sm_90"))
    for width, lines in ((100, 3), (40, 10)):
        console = Console(file=io.StringIO(), width=width)
        console.print(table)
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert len(shown.splitlines()) == lines and max(map(len, shown.splitlines())) <= width
        assert "pointwise" in shown and "2×9×9×5" in shown and "…" not in shown
        assert "two [2J" in shown and "\x1b" not in shown


def test_passes_table() -> None:
    done = facts.passes_dict(reports())
    rows = [line.split() for line in text(tables.passes_table(done)).splitlines()]
    first, second = ["first", "3", "7", "12.3"], ["second", "0", "7", "0.0"]
    assert rows == [["pass", "rewrites", "nodes", "after", "ms"], first, second]
    idle = [done[1], done[0], done[1] | {"ms": 0.25}, done[1] | {"nodes_after": 6}]
    assert [line.split() for line in text(tables.passes_table(idle)).splitlines()][1:] == [
        first,
        ["3", "others", "0", "6", "0.2"],
    ]
    every = [line.split() for line in text(tables.passes_table(idle, every=True)).splitlines()][1:]
    assert every == [second, first, ["second", "0", "7", "0.2"], ["second", "0", "6", "0.0"]]


def test_verification_table() -> None:
    data = {
        "ok": False,
        "reason": "far off",
        "backend": "torch",
        "dtype": "fp32",
        "reference": "onnxruntime 1",
        "batch": 2,
        "inputs": 3,
        "notes": ["a note"],
        "out_of_range": [
            {"region": "r", "onnx_nodes": ["n"], "end": "large", "value": 7e4, "reader": ""},
            {"region": "s", "onnx_nodes": ["m", "k"], "end": "small", "value": 1e-6, "reader": "log"},
        ],
        "kept_fp32": ["conv", "relu"],
        "bound": 1e-5,
        "noise": 2e-6,
        "outputs": [
            {"name": "y", "rel_l2": None, "max_abs": 0.25, "top1": 0.5, "top5": 1.0, "probability": 0.25},
            {"name": "z", "rel_l2": 0.5, "max_abs": 0.25, "top1": None, "top5": None, "probability": None},
        ],
        "regions_compared": 3,
        "regions_total": 4,
        "input_sensitivity": 0.5,
        "first_bad_region": {"region": "conv", "op": "Conv", "onnx_nodes": ["c1", "r1"], "rel_l2": 0.125},
    }
    shown = text(tables.verification_table(data))
    for part in (
        "not ok: far off",
        "y: not finite relative L2, 0.25",
        "3 of 4",
        "conv (Conv): off by 1.2e-01",
        "c1, r1",
        "1e-05",
        "0.25 largest difference of a probability, top-1 agrees on 50.0%, top-5 on 100.0%",
        "3 inputs, batch 2",
        "a note",
        "r gives up to 7e+04, over 65504; ONNX nodes n",
        "s gives down to 1e-06, which log reads; ONNX nodes m, k",
        "conv, relu",
    ):
        assert part in shown
    lines = [line.split() for line in shown.splitlines()]
    assert ["z:", "0.5", "relative", "L2,", "0.25", "largest", "difference"] in lines  # an output a line
    shown = text(tables.verification_table({**data, "ok": True, "first_bad_region": None}))
    assert "far off" not in shown and "first wrong" not in shown


def test_comparison_table() -> None:
    spread = {"min": 1.0, "max": 3.0, "iqr": 0.5, "p90": 2.5, "p99": 2.75}
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
        "warm_up": 3,
        "images_per_second": {"ours": 4000.0, "theirs": 1600.0},
        "spread": {"ours": spread, "theirs": spread},
        "versions": {"torch": "2.13"},
    }
    shown = text(tables.comparison_table(data))
    for part in ("2.40× by pairs, 2.50×", "triton fp16, H100", "batch 8, 20 pairs of runs after 3"):
        assert part in shown
    header, ours, theirs = (line.split() for line in text(tables.times_table(data)).splitlines())
    assert header == ["ms", "median", "p90", "p99", "min", "max", "IQR", "images/s"]
    assert ours == ["optgraph", "2.00", "2.50", "2.75", "1.00", "3.00", "0.50", "4000"]
    assert theirs[:2] == ["onnxruntime", "5.00"] and theirs[-1] == "1600"


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 KB"), (95_300_000, "95.3 MB"), (2.5e12, "2500.0 GB")],
)
def test_sizes(count: float, shown: str) -> None:
    assert tables.size(count) == shown


def test_json_is_strict() -> None:
    data = {"a": [math.nan, math.inf, 1.5], "b": {2: (True, None, "×")}}
    assert json.loads(dumps(data)) == {"a": [None, None, 1.5], "b": {"2": [True, None, "×"]}}


def test_a_long_name_is_folded_and_not_cut_off() -> None:
    data = facts.net_dict(net(small())) | {"model": "a_model_of_a_long_name_without_any_spaces.onnx"}
    console = Console(file=io.StringIO(), width=40)
    console.print(tables.net_table(data))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in shown and max(map(len, shown.splitlines())) <= 40
    assert "a_model_of_a_long_name_without_any_spaces.onnx, fp32" in "".join(
        line.removeprefix("network").strip() for line in shown.splitlines()[:4]
    )


def test_the_table_says_which_way_won() -> None:
    ways = [{"layer": "separable x", "one_launch": False, "us": 9.0, "default_us": 14.0}]
    ways += [{"layer": "bottleneck x", "one_launch": True, "us": 5.0, "default_us": 5.0}]
    ways += [{"layer": "separable y", "one_launch": True, "us": 4.0, "default_us": None}]
    data = {"problems": 3, "changed": 0, "fusions": ways, "gain": 0.1, "rejected": 1, "output": "sm_90.json"}
    shown = text(tables.tuning_table(data))
    assert "3 measured: 2 in one launch, 1 in several" in shown
    assert "several launches, 9.0 µs, not 14.0 as predicted" in shown
    assert "one launch, 5.0 µs, as predicted" in shown and "what was predicted is wrong or refused" in shown
