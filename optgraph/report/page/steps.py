"""The graph as it was read and after each pass that changed it: what `compile` is watched with, and how it is drawn."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unicodedata import east_asian_width

from optgraph.ir.graph import Graph, Node
from optgraph.ir.layered import layered
from optgraph.ir.words import op_text
from optgraph.passes.pipeline import READ, Pass

Dict = dict[str, Any]

LONGEST = 48  # letters of a label: names of inputs may be of any length
CHARACTER, MARGIN = 7.3, 20.0  # pixels: of a letter of the fixed-width font at 12, and beside a label


@dataclass(frozen=True)
class Box:
    """An operator as it is drawn: one that a pass only gave other inputs is the same box."""

    name: str
    label: str
    shape: str
    text: str
    onnx_nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """The graph after one pass. edges: from and to which of its boxes."""

    name: str
    boxes: tuple[Box, ...]
    edges: tuple[tuple[int, int], ...]


class Steps:
    """Watches `compile`: keeps the graph wherever it changed, and what each pass says of itself.

    Of a network of several sizes only the first is looked at.
    """

    def __init__(self) -> None:
        self.taken: list[Step] = []
        self.algebra: dict[str, str] = {}
        self._nodes: list[Node] = []
        self._outputs: dict[str, str] = {}
        self._reads = 0

    @classmethod
    def of(cls, simplified: Graph, fused: Graph) -> Steps:
        """The two graphs that a file has of its passes."""
        steps = cls()
        steps(READ, simplified)
        steps(Pass("fused", "fused", READ.run), fused)
        return steps

    def __call__(self, step: Pass, graph: Graph) -> None:
        self._reads += step is READ
        if self._reads != 1:
            return
        self.algebra[step.name] = inspect.getdoc(inspect.getmodule(step.run)) or "" if step is not READ else ""
        nodes = graph.nodes()
        if nodes != self._nodes or graph.outputs != self._outputs:
            self._nodes, self._outputs = nodes, dict(graph.outputs)
            self.taken.append(_step(step.name, graph))


def _step(name: str, graph: Graph) -> Step:
    """The operators of `graph`, with its inputs before them and its outputs after them."""
    boxes = [Box(f"input {v}", _short(v), _shape(graph, v), "an input of the network") for v in graph.inputs]
    made = {value: i for i, value in enumerate(graph.inputs)}
    edges: dict[tuple[int, int], None] = {}
    for node in graph.nodes():
        boxes.append(Box(node.name, label(node), _shape(graph, *node.outputs), op_text(node.op), node.origin))
        edges |= dict.fromkeys((made[value], len(boxes) - 1) for value in node.inputs if value in made)
        made |= dict.fromkeys(node.outputs, len(boxes) - 1)
    for public, value in graph.outputs.items():
        boxes.append(Box(f"output {public}", _short(public), _shape(graph, value), "an output of the network"))
        edges |= {(made[value], len(boxes) - 1): None} if value in made else {}
    return Step(name, tuple(boxes), tuple(edges))


def label(node: Node) -> str:
    """'Conv 3×3/2 relu': what the operator is, in a few words."""
    op = node.op
    words = [str(getattr(op, "op_type", op.kind))]
    kernel, stride = getattr(op, "kernel", None), getattr(op, "stride", (1, 1))
    if kernel:
        words.append("×".join(map(str, kernel)) + (f"/{max(stride)}" if max(stride) > 1 else ""))
    words += [str(value) for value in (getattr(op, "mode", None), getattr(op, "fn", None)) if value]
    acts = (getattr(op, field, None) for field in ("pre_act", "mid_act", "act", "post"))
    return _short(" ".join([*words, *(act.kind for act in acts if act)]))


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _shape(graph: Graph, *values: str) -> str:
    """'96×35×35' of images, without the batch; '64+48' where outputs differ."""
    shapes = [graph.shape(value) for value in values]
    texts = ["×".join(map(str, shape[1:] if len(shape) > 1 else shape)) for shape in shapes]
    return _short(" ".join(dict.fromkeys(texts)) if len(texts) < 3 else f"{texts[0]} and {len(texts) - 1} more")


def steps_dict(steps: Steps, notes: Mapping[str, Sequence[str]]) -> Dict:
    """Every step laid out, for the page. Boxes and texts are told once, and numbered.

    notes: what the last step's boxes also say, by node, of which one is shown at a time.
    """
    texts: dict[str, int] = {}
    boxes: dict[Box, int] = {}
    drawn = []
    for step in steps.taken:
        last = step is steps.taken[-1]
        widths = [_width(box, notes.get(box.name, ()) if last else ()) for box in step.boxes]
        at = layered(widths, step.edges)
        drawn.append(
            {
                "pass": step.name,
                "boxes": [boxes.setdefault(box, len(boxes)) for box in step.boxes],
                "widths": [round(width) for width in widths],
                "x": [round(x) for x in at.x],
                "layer": at.layer,
                "edges": [
                    [source, target, *(round(part) for point in path for part in point)]
                    for (source, target), path in zip(step.edges, at.edges, strict=True)
                ],
                "width": round(at.width),
            }
        )
    listed = [
        [texts.setdefault(text, len(texts)) for text in (box.name, box.label, box.shape, box.text, *box.onnx_nodes)]
        for box in boxes
    ]
    return {"texts": list(texts), "boxes": listed, "steps": drawn, "algebra": steps.algebra}


def _width(box: Box, notes: Sequence[str]) -> float:
    """Of the box: the label above, the shape and the longest note below."""
    below = max(map(_letters, notes), default=-2) + 2 + _letters(box.shape)
    return CHARACTER * max(_letters(box.label), below) + MARGIN


def _letters(text: str) -> int:
    """How many letters wide it is: those of East Asia take two."""
    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)
