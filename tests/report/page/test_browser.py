"""The page in a real browser: it complains of nothing, asks for nothing, and its views select each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from optgraph.report.page.write import write_page
from tests.support.browser import Opened, chromium
from tests.support.cli_models import classifier
from tests.support.pages import HOSTILE, hostile, page_of, page_of_graph
from tests.support.paths import GRAPHS


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def path(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("page") / "page.html"
    write_page(path, [page_of(hostile())])
    return path


@pytest.fixture(scope="module")
def network(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("page") / "network.html"
    write_page(path, [page_of_graph(GRAPHS / "torch_inception_v3.onnx")])
    return path


@pytest.fixture
def opened(browser: Any, path: Path) -> Iterator[Opened]:
    found = Opened(browser, path)
    yield found
    assert found.complaints == [] and found.requests == [path.as_uri()]
    found.page.close()


def chosen(opened: Opened) -> dict[str, int]:
    """How many things are selected in each view."""
    places = {"graph": "#graph .box.chosen", "timeline": "#timeline .mark.chosen", "arena": "#arena .mark.chosen"}
    places |= {"launches": "#launches tr.chosen", "passes": "#passes .box.chosen"}
    return {view: opened.page.locator(where).count() for view, where in places.items()}


@pytest.mark.parametrize("where", ["#graph .box >> nth=1", "#timeline .mark >> nth=0", "#launches tbody tr >> nth=1"])
def test_a_click_fills_the_panel_and_selects_everywhere(opened: Opened, where: str) -> None:
    assert "Nothing selected" in opened.text(".panel")
    opened.page.click(where)
    shown = opened.text(".panel")
    assert "Launch" in shown and "predicted" in shown and "ONNX nodes" in shown and HOSTILE.split("\u202e")[0] in shown
    for word in ("undefined", "null", "NaN", "[object"):
        assert word not in shown
    assert all(chosen(opened).values()), chosen(opened)
    opened.page.keyboard.press("Escape")
    assert not any(chosen(opened).values()) and "Nothing selected" in opened.text(".panel")


def test_a_selection_draws_no_chart_anew(opened: Opened) -> None:
    """Of thousands of launches that takes a second."""
    marks = "[...document.querySelectorAll('.chart .mark')]"
    opened.page.evaluate(f"window.drawn = {marks}")
    for row in (0, 1, 2):
        opened.page.click(f"#launches tbody tr >> nth={row}")
        assert opened.page.evaluate(f"drawn.length > 9 && {marks}.every((mark, i) => mark === drawn[i])")
        assert opened.page.locator("#timeline .mark.chosen").count() == 1
        assert opened.page.locator("#arena .mark.chosen").count() >= 1
    opened.page.keyboard.press("Escape")
    assert opened.page.locator(".mark.chosen, .mark.related, .chart .wait").count() == 0


def test_search_finds_by_onnx_name(opened: Opened) -> None:
    opened.page.keyboard.press("/")
    opened.page.keyboard.type("bn/batch")
    assert opened.text(".search output") == "1 found"
    assert opened.page.locator("#graph .box.found").count() == 1
    opened.page.keyboard.press("Enter")
    assert "/bn/BatchNormalization" in opened.text(".panel") and chosen(opened)["graph"] == 1
    opened.page.fill(".search input", "no such node")
    assert opened.text(".search output") == "0 found" and opened.page.locator("#graph .box.found").count() == 0


def test_by_keyboard(opened: Opened) -> None:
    press = opened.page.keyboard.press
    press("j")
    first = opened.text(".panel")
    press("j")
    assert opened.text(".panel") != first
    press("k")
    assert opened.text(".panel") == first and "Launch 0" in first
    opened.page.focus("#graph svg")
    press("ArrowDown")
    assert "Launch 1" in opened.text(".panel")
    press("ArrowUp")
    assert opened.text(".panel") == first
    before = opened.page.get_attribute("#graph svg > g", "transform")
    press("+")
    assert opened.page.get_attribute("#graph svg > g", "transform") != before


def test_the_table_sorts(opened: Opened) -> None:
    def column(number: int) -> list[str]:
        return [str(cell) for cell in opened.page.locator(f"#launches td:nth-child({number})").all_inner_texts()]

    times = [sum(map(float, cell.split("–"))) / 2 for cell in column(5)]
    assert times == sorted(times, reverse=True) and len(set(times)) > 1
    opened.page.click("#launches th >> nth=0")
    assert column(1) == [str(i) for i in range(len(times))]
    opened.page.click("#launches th >> nth=0")
    assert column(1) == [str(i) for i in reversed(range(len(times)))]


def test_colours_change_what_boxes_say(opened: Opened) -> None:
    def note() -> str:
        return str(opened.page.locator("#graph .box .note").first.text_content())

    assert "µs" in note()
    opened.page.click("#graph .head >> text=bytes")
    assert "kB" in note()
    opened.page.click("#graph .head >> text=kernel")
    assert "conv2d" in opened.page.locator("#graph .box .note").all_text_contents()


def test_measured_times_are_told(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    page = page_of(hostile())
    regions = [{"region": node["name"], "ms": 1.5 + i} for i, node in enumerate(page["graph"]["nodes"])]
    write_page(path, [page | {"measured": {"backend": "torch", "ms": 100.0, "regions": regions}}])
    opened = Opened(browser, path)
    assert "100 ms" in opened.text(".cards") and "1.50 ms" in opened.page.locator("#graph .note").all_text_contents()
    opened.page.click("#graph .box >> nth=1")
    assert "1.50 ms on torch, 1.5 %" in opened.text(".panel")
    assert opened.complaints == []
    opened.page.close()


def test_passes_play(opened: Opened) -> None:
    press = opened.page.locator(".passlist button")
    assert press.filter(has_text="siblings merged").count() == 1
    press.filter(has_text="siblings merged").click()
    assert "merged{acts}" in opened.text(".story")
    before, after = (opened.page.locator(f"#passes figure >> nth={i}") for i in (0, 1))
    assert before.locator(".box.gone").count() == 2 and after.locator(".box.new, .box.changed").count() >= 1
    assert "change 1 of" in opened.text("#passes")
    press.filter(has_text="layout").first.click()
    assert "as it stays" in opened.text("#passes figcaption")
    opened.page.get_by_role("button", name="play").click()
    opened.page.locator(".story", has_text="epilogue").wait_for(timeout=30_000)  # five passes on, by itself


def test_refusals_are_told_with_their_node(browser: Any, network: Path) -> None:
    opened = Opened(browser, network)
    opened.page.locator(".passlist button").filter(has_text="refused").first.click()
    assert "Refused (1)" in opened.text(".story")
    opened.page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 800])
def test_nothing_is_wider_than_the_window(browser: Any, network: Path, width: int, scheme: str) -> None:
    opened = Opened(browser, network, width, scheme)
    opened.page.click("#graph .box >> nth=3")
    assert opened.page.evaluate("document.documentElement.scrollWidth") == width
    outside = """() => [...document.querySelectorAll('#graph .box')].filter(box => {
        const room = box.querySelector('rect').getBBox().width;
        const ends = [...box.querySelectorAll('text')].map(text => text.getBBox());
        return ends.some(at => at.x < 0 || at.x + at.width > room);
    }).map(box => box.textContent)"""
    assert opened.page.evaluate(outside) == []
    overlaps = """() => [...document.querySelectorAll('#graph .box')].filter(box => {
        const [first, second] = [...box.querySelectorAll('.shape, .note')].map(text => text.getBBox());
        return second && first.x + first.width > second.x;
    }).map(box => box.textContent)"""
    assert opened.page.evaluate(overlaps) == []
    assert opened.complaints == []
    opened.page.close()


def test_the_theme_button_turns_it(opened: Opened) -> None:
    colour = "getComputedStyle(document.querySelector('.panel')).backgroundColor"
    light = opened.page.evaluate(colour)
    opened.page.click(".theme")
    assert opened.page.evaluate(colour) != light
    opened.page.click(".theme")
    assert opened.page.evaluate(colour) == light


def test_a_network_that_launches_nothing(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "nothing.html"
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ("n", 3)) for name in "xy")
    identity = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"], name="constructor")], "__proto__", [x], [y]
    )
    write_page(path, [page_of(helper.make_model(identity, opset_imports=[helper.make_opsetid("", 17)]), "fp32")])
    opened = Opened(browser, path)
    opened.page.keyboard.press("j")
    assert "Nothing selected" in opened.text(".panel") and opened.complaints == []
    opened.page.close()


def test_two_compiles_side_by_side(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "two.html"
    write_page(path, [page_of(hostile(), "fp32"), page_of(hostile(), "fp16")])
    opened = Opened(browser, path)
    opened.page.click("#comparison table >> nth=1 >> tbody tr >> nth=0")
    assert opened.page.locator("#comparison .box.chosen").count() == 2
    assert "fp32" in opened.text("header p")
    opened.page.get_by_role("button", name="B: ").click()
    assert "fp16" in opened.text("header p") and "Launch" in opened.text(".panel")
    assert opened.complaints == []
    opened.page.close()


def test_two_compiles_that_share_nothing(browser: Any, tmp_path: Path) -> None:
    path, other = tmp_path / "apart.html", classifier()
    for node in other.graph.node:
        node.name = f"other {node.name}"
    write_page(path, [page_of(classifier(), "fp32"), page_of(other, "fp32")])
    opened = Opened(browser, path)
    assert "No region of one has an ONNX node of the other" in opened.text("#comparison")
    opened.page.click("#comparison .box >> nth=1")
    assert opened.page.locator("#comparison .box.chosen").count() == 1 and opened.complaints == []
    opened.page.close()
