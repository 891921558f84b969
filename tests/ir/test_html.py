"""What a notebook shows of a Graph and a Net: well-formed, with all of it, and with names that are only text."""

from __future__ import annotations

import copy
import xml.etree.ElementTree as ET

import onnx
import pytest
from onnx import helper

import optgraph
from optgraph.ir import html
from tests.support.cli_models import classifier
from tests.support.open_sizes import detector

HOSTILE = "</title></svg><script>alert(\"1\")</script><img src=x onerror='alert(2)'>&amp;]]>\x1b[2J\n"


def tree(shown: str) -> ET.Element:
    """As a browser would see it, if it is well-formed."""
    return ET.fromstring(f"<body>{shown}</body>")


def named(elements: ET.Element, tag: str) -> list[ET.Element]:
    return [element for element in elements.iter() if element.tag.rpartition("}")[2] == tag]


def hostile() -> onnx.ModelProto:
    model = classifier()
    graph = model.graph
    graph.name = HOSTILE
    new = {name: f"{name}{HOSTILE}" for node in graph.node for name in (*node.input, *node.output)}
    for node in graph.node:
        node.name += HOSTILE
        node.input[:] = [new[name] for name in node.input]
        node.output[:] = [new[name] for name in node.output]
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = new[value.name]
    return model


def test_a_graph_is_a_picture() -> None:
    graph = optgraph.compile(classifier(), "torch").fused
    shown = tree(graph._repr_html_())
    (svg,) = named(shown, "svg")
    assert len(named(svg, "rect")) == len(named(svg, "g")) == len(graph) + 2
    read = {
        (graph.producer(v) or v, node) for node in graph.nodes() for v in node.inputs if v and v not in graph.constants
    }
    assert len(named(svg, "polyline")) == len(read) + 1
    texts = [element.text for element in named(svg, "text")]
    assert {"x", "y", "N×3×12×12", "N×10"} <= set(texts)
    assert any(text and text.startswith("Conv[") for text in texts)
    width, height = map(float, svg.attrib["viewBox"].split()[2:])
    for rect in named(svg, "rect"):
        x, y, w, h = (float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
        assert x >= 0 and x + w <= width + 1 and y >= 0 and y + h <= height
    assert repr(graph) == f"<Graph classifier: {len(graph)} operators, x -> y>"


@pytest.mark.parametrize("boxes", [html.PICTURED, 0])
def test_hostile_names_are_text(boxes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "PICTURED", boxes)
    net = optgraph.compile(hostile(), "torch")
    net.labels = (HOSTILE,)
    for shown in (net._repr_html_(), net.simplified._repr_html_()):
        parsed = tree(shown)
        assert not named(parsed, "script") and not named(parsed, "img")
        assert not any(key.startswith("on") for element in parsed.iter() for key in element.attrib)
        assert "alert" in "".join(parsed.itertext()) and "\x1b" not in shown


def test_hostile_names_are_harmless_at_a_prompt() -> None:
    net = optgraph.compile(hostile(), "torch")
    for shown in (repr(net), repr(net.fused), repr(net.bind(1))):
        assert shown.isprintable() and "alert" in shown
    with pytest.raises(optgraph.InputError) as error:
        net(None)  # type: ignore[arg-type]
    assert str(error.value).isprintable() and "alert" in str(error.value)


def test_a_large_graph_is_a_table() -> None:
    nodes = [helper.make_node("Sin", ["x" if i == 0 else f"t{i}"], [f"t{i + 1}"], f"n{i}") for i in range(300)]
    ends = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", 2]) for n in ("x", "t300")]
    graph = optgraph.read(helper.make_model(helper.make_graph(nodes, "long", ends[:1], ends[1:])))
    shown = tree(graph._repr_html_())
    assert not named(shown, "svg")
    assert len(named(shown, "tr")) == 1 + html.LISTED and "and 102 more" in "".join(shown.itertext())


def test_a_net_is_a_table_with_its_graph() -> None:
    net = optgraph.compile(classifier(), "torch", "fp16")
    before = copy.copy(net.reports)
    shown = tree(net._repr_html_())
    rows = {row[0].text: row[1].text for row in named(shown, "tr")}
    assert rows["network"] == "classifier" and rows["runs on"] == "fp16 on torch"
    assert rows["inputs"] == "x: float32 [N, 3, 12, 12]" and rows["outputs"] == "y: float32 [N, 10]"
    assert rows["operators"] == f"13, simplified to {len(net.simplified)}, fused to {len(net.fused)}"
    assert len(named(shown, "details")) == len(named(shown, "svg")) == 1
    assert net.reports == before
    sized = tree(optgraph.compile(detector(), "torch", sizes=[(16, 16), (12, 20)])._repr_html_())
    assert "16x16, 12x20 or any other" in "".join(sized.itertext())
