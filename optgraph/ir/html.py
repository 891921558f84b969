"""What a notebook shows: tables and pictures of graphs as HTML, in which no name of a file is more than text."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from optgraph.base.errors import printable
from optgraph.ir.layered import layered

PICTURED = 60  # boxes: a graph of more is a table
LISTED = 200  # rows of that table
LETTER, LINE, PAD, BETWEEN = 6.7, 15, 8, 26  # pixels: of a letter, a line of a box, its margin, and between layers
LETTERS = 36  # of a line in a box; the rest is in its tooltip


class Box(NamedTuple):
    """An operator, or an input or output of the graph: its lines, and all there is to say of it."""

    title: str
    shape: str
    whole: str
    is_end: bool = False


def text(words: str) -> str:
    """Any text as HTML: no markup, no line breaks, nothing unprintable."""
    return html.escape(printable(words))


def table(rows: Mapping[str, str]) -> str:
    """A table of one name and one text a row."""
    body = "".join(f"<tr>{_cell(name, 'th')}{_cell(value)}</tr>" for name, value in rows.items())
    return f"<table>{body}</table>"


def listing(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a header."""
    lines = ["".join(_cell(name, "th") for name in header), *("".join(map(_cell, row)) for row in rows)]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _cell(words: str, tag: str = "td") -> str:
    return f'<{tag} style="text-align: left">{text(words)}</{tag}>'


def graph(boxes: Sequence[Box], edges: Sequence[tuple[int, int]]) -> str:
    """A picture of a graph, or a table of its boxes if these are many. edges: from and to which box."""
    if len(boxes) <= PICTURED:
        return _picture(boxes, edges)
    more = f"<p>and {len(boxes) - LISTED} more</p>" if len(boxes) > LISTED else ""
    rows = [(box.title, box.shape, box.whole) for box in boxes[:LISTED]]
    return listing(("operator", "shape", "as text"), rows) + more


def _picture(boxes: Sequence[Box], edges: Sequence[tuple[int, int]]) -> str:
    lines = [[_short(line) for line in (box.title, box.shape) if line] for box in boxes]
    widths = [max(map(len, each), default=0) * LETTER + 2 * PAD for each in lines]
    at = layered(widths, edges)
    tall = 2 * LINE + PAD
    height = (max(at.layer, default=0) + 1) * (tall + BETWEEN)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {at.width:.0f} {height}" width="{at.width:.0f}" '
        f'style="max-width: 100%" font-family="monospace" font-size="11" fill="currentColor" stroke="none">'
    ]
    for (source, target), points in zip(edges, at.edges, strict=True):
        path = [(at.x[source], at.layer[source] * (tall + BETWEEN) + tall)]
        for x, layer in points:
            path += [(x, layer * (tall + BETWEEN)), (x, layer * (tall + BETWEEN) + tall)]
        path.append((at.x[target], at.layer[target] * (tall + BETWEEN)))
        drawn = " ".join(f"{x:.0f},{y}" for x, y in path)
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="currentColor" stroke-opacity="0.5"/>')
    for box, shown, width, x, layer in zip(boxes, lines, widths, at.x, at.layer, strict=True):
        top = layer * (tall + BETWEEN)
        rounded = tall / 2 if box.is_end else 3
        parts.append(
            f'<g><title>{text(box.whole)}</title><rect x="{x - width / 2:.0f}" y="{top}" width="{width:.0f}" '
            f'height="{tall}" rx="{rounded:.0f}" fill="currentColor" fill-opacity="0.08" stroke="currentColor"/>'
        )
        for i, line in enumerate(shown):
            y = top + (tall - len(shown) * LINE) / 2 + (i + 0.75) * LINE
            parts.append(f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="middle">{text(line)}</text>')
        parts.append("</g>")
    return "".join([*parts, "</svg>"])


def _short(line: str) -> str:
    return line if len(line) <= LETTERS else f"{line[: LETTERS - 1]}…"
