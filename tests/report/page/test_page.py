"""What is in the file: the facts, whatever the names in them; its steps; no way out of it; its size."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

import optgraph
from optgraph.ahead.build import Use
from optgraph.base.devices import SM_80, Target
from optgraph.base.errors import InputError
from optgraph.report.page.data import page_dict, seen_on
from optgraph.report.page.steps import Steps
from optgraph.report.page.write import SCRIPTS, page_html, write_page
from tests.support.cli_models import classifier
from tests.support.pages import HOSTILE, facts_in, hostile, page_of, page_of_graph
from tests.support.paths import GRAPHS, ROOT


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    return page_of(hostile(), batch=2)


def test_the_facts_come_back_as_they_were(page: dict[str, Any]) -> None:
    (found,) = facts_in(page_html([page]))["compiles"]
    assert found["steps"]["texts"] == page["steps"]["texts"] and any(HOSTILE in text for text in page["steps"]["texts"])
    assert found["schedule"]["launches"] == page["schedule"]["launches"]


def test_no_name_is_markup(page: dict[str, Any]) -> None:
    html = page_html([page])
    assert html.count("<script") == html.count("</script>") == 2 and "<!--" not in html
    assert "alert" in html and "<script>alert" not in html


def test_the_policy_allows_no_script_but_ours_and_no_request() -> None:
    html = page_html([page_of(classifier())])
    (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)"', html)
    script, style = (
        re.findall(r"<script>(.*?)</script>", html, re.S)[0],
        re.findall(r"<style>(.*?)</style>", html, re.S)[0],
    )
    for text in (script, style):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy


def test_scripts_make_no_markup_of_text() -> None:
    folder = ROOT / "optgraph" / "report" / "page"
    assert sorted(path.stem for path in folder.glob("*.js")) == sorted(SCRIPTS)
    for path in folder.glob("*.js"):
        for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "fetch("):
            assert way not in path.read_text(), f"{path.name} uses {way}"


def test_each_step_is_the_graph_after_a_pass_that_changed_it(page: dict[str, Any]) -> None:
    steps, changed = page["steps"]["steps"], [p["name"] for p in page["passes"] if p["rewrites"]]
    assert [step["pass"] for step in steps] == ["read", *changed]
    after = {p["name"]: p["nodes_after"] for p in page["passes"]}
    for step in steps[1:]:
        assert len(step["boxes"]) == after[step["pass"]] + 2  # the input and the output
    assert all(page["steps"]["algebra"][p["name"]] for p in page["passes"])
    assert "op{act=f}(x, b)" in page["steps"]["algebra"]["fuse_epilogue"]


def test_boxes_of_the_last_step_are_the_regions(page: dict[str, Any]) -> None:
    texts, boxes = page["steps"]["texts"], page["steps"]["boxes"]
    last = [boxes[i] for i in page["steps"]["steps"][-1]["boxes"]]
    regions = {node["name"]: node["onnx_nodes"] for node in page["graph"]["nodes"]}
    drawn = {texts[box[0]]: [texts[i] for i in box[4:]] for box in last}
    assert {name: drawn[name] for name in regions} == regions and len(drawn) == len(regions) + 2


def test_a_name_of_any_length_is_a_label_that_fits() -> None:
    model = classifier()
    long = "x" * 10_000
    model.graph.input[0].name = model.graph.node[0].input[0] = long
    found = page_of(model)
    assert max(found["steps"]["steps"][0]["widths"]) < 500 and f"input {long}" in found["steps"]["texts"]


def test_an_operator_by_the_name_of_an_input_is_another_box() -> None:
    model = classifier()
    model.graph.node[0].name = model.graph.input[0].name
    test_boxes_of_the_last_step_are_the_regions(page_of(model))


def test_launches_have_what_each_view_needs(page: dict[str, Any]) -> None:
    for launch in page["schedule"]["launches"]:
        assert {
            "us",
            "start",
            "stream",
            "wave",
            "waits",
            "read_bytes",
            "flops",
            "bound",
            "reads",
            "padded",
        } <= launch.keys()
    assert page["batch"] == page["cost"]["batch"] == 2
    titles = [hint["title"] for hint in page["hints"]]
    assert titles[0].startswith("No kernel") and any("blocks" in title for title in titles)


def test_a_file_has_its_two_graphs_for_steps(tmp_path: Path) -> None:
    path = tmp_path / "net.optgraph"
    optgraph.compile(classifier(), "torch").save(path)
    found = page_dict(optgraph.load(path, "torch"), 1, "sm_90")
    assert [step["pass"] for step in found["steps"]["steps"]] == ["read", "fused"] and found["passes"] == []


def test_of_several_sizes_the_first_is_watched() -> None:
    steps = Steps()
    model = classifier(("n", 3, "h", "w"))
    optgraph.compile(model, "torch", sizes=[(12, 12), (20, 24)], watch=steps)
    assert [step.name for step in steps.taken].count("read") == 1
    assert {box.shape for box in steps.taken[0].boxes if box.name == "input x"} == {"3×12×12"}


def test_which_target_is_seen() -> None:
    net = optgraph.compile(classifier(), "torch")
    used = [Use("", None, target, {}, 1) for target in (Target((10, 0)), SM_80)]  # type: ignore[arg-type]
    for uses, seen in (((), "sm_90"), (used[:1], "sm_90"), (used, "sm_80")):
        net.uses = tuple(uses)
        assert seen_on(net) == seen
    with pytest.raises(InputError, match="no prediction"):
        page_dict(optgraph.compile(classifier(), "torch"), 1, "sm_70")


def test_a_large_network_is_a_small_file(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page(path, [page_of_graph(GRAPHS / "keras_torch_inception_resnet_v2.onnx")])  # 2,896 nodes
    assert path.stat().st_size < 1_000_000
