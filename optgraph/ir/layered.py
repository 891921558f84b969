"""Where the boxes of a graph are drawn: a layered layout (Sugiyama, Tagawa and Toda, 1981), always the same.

Each box is a layer below the lowest of those it reads. An edge over several layers passes each of them at a point that
takes room like a box, so that no edge crosses one. Boxes of a layer are ordered by the mean place of their neighbours,
and then moved to where these are, as near as the others of the layer let them: least squares under an order, which is
isotonic regression, solved by pooling adjacent violators.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

import networkx as nx

GAP = 16.0  # pixels between boxes of a layer
SWEEPS = 8  # down and up in turn; more change little
POINT = 2.0  # how wide an edge is where it passes a layer
MOST_POINTS = 50_000  # of all edges: of 3,000 nodes, real exporters' have under 3,000
STIFF = 4.0  # how much more than a box a point wants to be above the next: long edges are to be straight


@dataclass(frozen=True)
class Layout:
    """Pixels along x, layers along y.

    x: the middle of each box. layer: of each box, from 0. edges: for each the points (x, layer) where it passes the
    layers between its ends. width: of all.
    """

    x: tuple[float, ...]
    layer: tuple[int, ...]
    edges: tuple[tuple[tuple[float, int], ...], ...]
    width: float


def layered(widths: Sequence[float], edges: Sequence[tuple[int, int]]) -> Layout:
    """Lays out boxes of these widths. edges: from and to which box, without a cycle.

    Where edges pass more than MOST_POINTS layers in all, the longest go straight to where they end.
    """
    layer = _layers(len(widths), edges)
    passed = [layer[target] - layer[source] - 1 for source, target in edges]
    longest = _longest(passed)
    boxes = list(zip(widths, layer, strict=True))
    above: list[list[int]] = [[] for _ in boxes]  # by box or point, its neighbours in the layer before it
    paths = []
    for (source, target), count in zip(edges, passed, strict=True):
        path: list[int] = []
        paths.append(path)
        if count > longest:
            continue
        for between in range(layer[source] + 1, layer[target]):
            above.append([path[-1] if path else source])
            path.append(len(boxes))
            boxes.append((POINT, between))
        above[target].append(path[-1] if path else source)
    below: list[list[int]] = [[] for _ in boxes]
    for item, neighbours in enumerate(above):
        for other in neighbours:
            below[other].append(item)
    x = _places(boxes, above, below, len(widths))
    left = min((x[i] - width / 2 for i, (width, _) in enumerate(boxes)), default=0.0) - GAP
    right = max((x[i] + width / 2 for i, (width, _) in enumerate(boxes)), default=0.0) + GAP
    return Layout(
        tuple(at - left for at in x[: len(widths)]),
        tuple(layer),
        tuple(tuple((x[i] - left, boxes[i][1]) for i in path) for path in paths),
        right - left,
    )


def _longest(passed: Sequence[int]) -> int:
    """How many layers an edge may pass for all up to it to pass MOST_POINTS at most."""
    total = 0
    for count in sorted(passed):
        total += count
        if total > MOST_POINTS:
            return count - 1
    return max(passed, default=0)


def _layers(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """One below the lowest of those it reads; then as low as those that read it allow, if it reads nothing itself."""
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from(range(count))
    graph.add_edges_from(edges)
    layer = [0] * count
    for depth, generation in enumerate(nx.topological_generations(graph)):
        for node in generation:
            layer[node] = depth
    for node in range(count):
        if not graph.pred[node] and graph.succ[node]:
            layer[node] = min(layer[user] for user in graph.succ[node]) - 1
    return layer


def _places(
    boxes: Sequence[tuple[float, int]], above: Sequence[list[int]], below: Sequence[list[int]], real: int
) -> list[float]:
    """x of each box and point, of which the first `real` are boxes."""
    rows: list[list[int]] = [[] for _ in range(max((layer for _, layer in boxes), default=-1) + 1)]
    for item in _by_descent(above, below):
        rows[boxes[item][1]].append(item)
    x = [0.0] * len(boxes)
    for sweep in range(SWEEPS):
        neighbours = below if sweep % 2 else above
        for row in reversed(rows) if sweep % 2 else rows:
            wanted = {i: fmean(x[other] for other in neighbours[i]) if neighbours[i] else x[i] for i in row}
            if 0 < sweep < SWEEPS - 2:  # the first is in the order of descent, and the last two let it settle
                row.sort(key=wanted.__getitem__)
            widths = [boxes[i][0] for i in row]
            weights = [1.0 if i < real else STIFF for i in row]
            x_of_row = _apart([wanted[i] for i in row], widths, weights)
            for i, place in zip(row, x_of_row, strict=True):
                x[i] = place
    _straighten(rows, x)
    return x


def _straighten(rows: Sequence[Sequence[int]], x: list[float]) -> None:
    """Moves whole layers so that those of one item lie above each other: else each block would lean a bit further."""
    alone = [layer for layer, row in enumerate(rows) if len(row) == 1]
    for layer, row in enumerate(rows):
        at = bisect_left(alone, layer)
        ends = alone[max(at - 1, 0) : at + 1] if at == len(alone) or alone[at] != layer else [layer]
        shift = fmean(x[rows[end][0]] for end in ends) if ends else 0.0
        if len(row) > 1:
            for item in row:
                x[item] -= shift
    for layer in alone:
        x[rows[layer][0]] = 0.0


def _by_descent(above: Sequence[list[int]], below: Sequence[list[int]]) -> Iterator[int]:
    """All items, each branch in one piece: depth first from those that read nothing."""
    seen: set[int] = set()
    pending = [item for item in reversed(range(len(above))) if not above[item]]
    while pending:
        item = pending.pop()
        if item not in seen:
            seen.add(item)
            yield item
            pending += reversed(below[item])


def _apart(wanted: Sequence[float], widths: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The places nearest to those wanted where boxes of these widths, in this order, do not overlap."""
    offsets = [0.0]
    for left, right in pairwise(widths):
        offsets.append(offsets[-1] + (left + right) / 2 + GAP)
    pools: list[tuple[float, float, int]] = []  # boxes that touch: their mean wish, their weight, how many
    for place, offset, weight in zip(wanted, offsets, weights, strict=True):
        mean, count = place - offset, 1
        while pools and pools[-1][0] >= mean:
            other, heavy, more = pools.pop()
            mean = (mean * weight + other * heavy) / (weight + heavy)
            weight, count = weight + heavy, count + more
        pools.append((mean, weight, count))
    starts = [mean for mean, _, count in pools for _ in range(count)]
    return [start + offset for start, offset in zip(starts, offsets, strict=True)]
