"""Pages to look at: a compile as `inspect --html` makes one, and the facts that are in its file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

import optgraph
from optgraph.api.net import Net
from optgraph.api.recipe import SourceModel
from optgraph.cost.work import bytes_per_image
from optgraph.passes import pipeline
from optgraph.report.page.data import page_dict
from optgraph.report.page.steps import Steps
from tests.support.cli_models import classifier

HOSTILE = "</script><script>alert('name')</script><!--<script>\u202e\x1b[2J\u2028\"'&amp;"


def page_of(model: str | Path | onnx.ModelProto, dtype: str = "fp16", batch: int = 1, **options: Any) -> dict[str, Any]:
    """What the page of a model shows."""
    steps = Steps()
    return page_dict(optgraph.compile(model, "torch", dtype, watch=steps, **options), batch, "sm_90", steps)


def page_of_graph(path: Path, dtype: str = "fp16") -> dict[str, Any]:
    """The same of a graph without its weights, of which no figure needs the values."""
    steps = Steps()
    graph = optgraph.read(path, allow_stripped=True)
    source = SourceModel(path.stem, "", graph.source_nodes, bytes_per_image(graph, dtype))
    steps(pipeline.READ, graph)
    reports = pipeline.apply(graph, pipeline.SIMPLIFY, watch=steps)
    fused = graph.copy()
    reports += pipeline.apply(fused, pipeline.FUSE, watch=steps)
    return page_dict(Net(graph, fused, source, "torch", dtype, reports), 1, "sm_90", steps)


def hostile() -> onnx.ModelProto:
    """The classifier with an operator that has no kernel, and names that try to be markup, script or terminal codes."""
    model = classifier()
    nodes = list(model.graph.node)
    nodes[-1].input[0] = "odd"
    del model.graph.node[:]
    odd = helper.make_node("Hardmax", ["logits"], ["odd"], name="/odd/Hardmax")
    model.graph.node.extend([*nodes[:-1], odd, nodes[-1]])
    for i, node in enumerate(model.graph.node):
        node.name = f"{HOSTILE} {i} {node.name}"
    return model


def facts_in(html: str) -> dict[str, Any]:
    """The facts of a page, as a browser takes them out of it."""
    (found,) = re.findall(r'<script type="application/json" id="facts">(.*?)</script>', html, re.S)
    data: dict[str, Any] = json.loads(found)
    return data
