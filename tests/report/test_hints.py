"""Each hint, where there is cause for it and where there is none."""

from __future__ import annotations

from typing import Any

import pytest

from optgraph.report.hints import hints

SMS = 100


def launch(node: str, programs: int = 200, padded: float | None = 1.0, **more: Any) -> dict[str, Any]:
    return {"node": node, "programs": programs, "padded": padded, "grid": [programs], "variant": None, **more}


def facts(*launches: dict[str, Any], **changed: Any) -> dict[str, Any]:
    graph = {"inputs": [{"name": "x"}], "nodes": [{"name": "a", "op": "Conv"}], "edges": [{"to": "a", "value": "x"}]}
    plain = {"net": {"fallbacks": []}, "graph": graph, "variants": [], "out_of_range": []}
    return plain | {"schedule": {"launches": list(launches)}} | changed


EVEN = [launch(name) for name in "abcdef"]


def found(*launches: dict[str, Any], times: list[float] | None = None, **changed: Any) -> list[dict[str, Any]]:
    return hints(facts(*launches, **changed), times or [1.0] * len(launches), SMS)


def test_nothing_to_say_of_a_good_network() -> None:
    assert found(*EVEN) == []


@pytest.mark.parametrize(
    ("changed", "title", "nodes", "details"),
    [
        ({"net": {"fallbacks": [{"node": "a", "op": "Mod", "reason": "none"}]}}, "No kernel", ["a"], ["Mod: none"]),
        (
            {"out_of_range": [{"region": "b", "end": "large", "value": 7e4}]},
            "Leaves the range of fp16",
            ["b"],
            ["large numbers, 7e+04"],
        ),
        (
            {
                "graph": {
                    "inputs": [{"name": "x"}],
                    "nodes": [{"name": "t", "op": "Transpose"}, {"name": "u", "op": "Transpose"}],
                    "edges": [{"to": "t", "value": "x"}, {"to": "u", "value": "y"}],
                }
            },
            "Transposes an input",
            ["t"],
            ["of 'x'"],
        ),
    ],
)
def test_of_regions(changed: dict[str, Any], title: str, nodes: list[str], details: list[str]) -> None:
    (hint,) = found(*EVEN, **changed)
    assert hint["title"].startswith(title) and hint["nodes"] == nodes and hint["details"] == details and hint["do"]


def test_a_region_that_dominates_counts_all_its_launches() -> None:
    (hint,) = found(*EVEN, launch("a"), times=[4.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0])
    assert hint["nodes"] == ["a"] and hint["details"] == ["55%"]
    assert found(*EVEN[:2], times=[2.0, 1.0]) == []  # of two, one is always the longer


def test_few_blocks_and_padded_tiles_worst_first() -> None:
    worse = [launch("p", 99), launch("q", 3), launch("r", padded=1.6), launch("s", padded=9.0)]
    few, padded = found(*EVEN, *worse)
    assert few["nodes"] == ["q", "p"] and few["details"] == ["3 blocks", "99 blocks"] and "100 SMs" in few["title"]
    assert padded["nodes"] == ["s", "r"] and padded["details"] == ["9.00 times", "1.60 times"]


def test_a_fallback_is_no_launch_of_few_blocks() -> None:
    fallback = launch("g", 1, None)
    del fallback["grid"]
    assert found(*EVEN, fallback) == []


def test_spills() -> None:
    (hint,) = found(*EVEN, launch("z", variant=1), variants=[{"spills": 0}, {"spills": 64}])
    assert hint["nodes"] == ["z"] and hint["details"] == ["64 bytes"]
