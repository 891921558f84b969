"""Where boxes are drawn: none on another, every edge down and past all boxes, the same each time."""

from __future__ import annotations

import random
from itertools import combinations, pairwise

import pytest

import optgraph
from optgraph.ir.layered import GAP, MOST_POINTS, Layout, layered
from tests.support.paths import GRAPHS

Edges = list[tuple[int, int]]


def of_graph(name: str) -> tuple[list[float], Edges]:
    """The boxes and edges of a real exporter's graph, of uneven widths."""
    graph = optgraph.read(GRAPHS / name, allow_stripped=True)
    index = {node.name: i for i, node in enumerate(graph.nodes())}
    edges = dict.fromkeys((index[source], index[target]) for source, target, _ in graph.nx.edges)
    return [60.0 + 37 * (i % 5) for i in range(len(index))], list(edges)


def at_random(seed: int) -> tuple[list[float], Edges]:
    """A graph of up to 60 boxes with edges of any length; some boxes have none."""
    rng = random.Random(seed)
    count = rng.randint(1, 60)
    edges = {(rng.randrange(target), target) for target in range(1, count) for _ in range(rng.randint(0, 3))}
    return [rng.uniform(10, 300) for _ in range(count)], sorted(edges)


GRAPHS_TO_DRAW = [
    *(of_graph(name) for name in ("torch_inception_v3.onnx", "torch_googlenet.onnx", "keras_torch_resnet50_v2.onnx")),
    *map(at_random, range(40)),
]


def spans(widths: list[float], at: Layout) -> dict[int, list[tuple[float, float]]]:
    """By layer, from where to where each box is."""
    found: dict[int, list[tuple[float, float]]] = {}
    for width, x, layer in zip(widths, at.x, at.layer, strict=True):
        found.setdefault(layer, []).append((x - width / 2, x + width / 2))
    return found


@pytest.mark.parametrize(("widths", "edges"), GRAPHS_TO_DRAW)
def test_no_boxes_overlap_and_all_are_within_the_width(widths: list[float], edges: Edges) -> None:
    at = layered(widths, edges)
    for row in spans(widths, at).values():
        assert all(right + GAP <= left + 1e-6 for (_, right), (left, _) in pairwise(sorted(row)))
        assert all(left >= 0 and right <= at.width for left, right in row)


@pytest.mark.parametrize(("widths", "edges"), GRAPHS_TO_DRAW)
def test_edges_go_down_and_past_the_boxes(widths: list[float], edges: Edges) -> None:
    at = layered(widths, edges)
    boxes = spans(widths, at)
    for (source, target), path in zip(edges, at.edges, strict=True):
        layers = [at.layer[source], *(layer for _, layer in path), at.layer[target]]
        assert all(below == above + 1 for above, below in pairwise(layers))
        assert all(not left < x < right for x, layer in path for left, right in boxes.get(layer, ()))


def test_the_same_graph_is_drawn_the_same() -> None:
    widths, edges = GRAPHS_TO_DRAW[0]
    assert layered(widths, edges) == layered(list(widths), list(edges))


def test_a_chain_is_straight_and_branches_lie_side_by_side() -> None:
    chain = layered([50.0] * 4, [(0, 1), (1, 2), (2, 3)])
    assert len(set(chain.x)) == 1 and chain.layer == (0, 1, 2, 3) and chain.width == 50 + 2 * GAP
    fork = layered([50.0] * 4, [(0, 1), (0, 2), (1, 3), (2, 3), (0, 3)])
    assert fork.layer == (0, 1, 1, 2) and fork.x[0] == fork.x[3]
    assert fork.edges[4][0][1] == 1  # the long one passes the layer of the two boxes


def test_blocks_one_after_another_do_not_lean() -> None:
    """Each of a residual network's is a box or two beside a long edge: a layer of one item ends it."""
    edges = [edge for i in range(0, 300, 3) for edge in ((i, i + 1), (i + 1, i + 2), (i + 2, i + 3), (i, i + 3))]
    at = layered([50.0] * 301, edges)
    assert at.width < 4 * 50 and len({round(at.x[i], 6) for i in range(0, 301, 3)}) == 1


def test_what_reads_nothing_is_just_above_what_reads_it() -> None:
    at = layered([10.0] * 4, [(0, 1), (1, 2), (3, 2)])
    assert at.layer == (0, 1, 2, 1)


def test_nothing_is_drawn_of_nothing() -> None:
    assert layered([], []) == Layout((), (), (), 2 * GAP)


def test_a_graph_of_very_long_edges_is_drawn_all_the_same() -> None:
    """Each box reads the one before it and the first: 8 million layers to pass, were all edges to go round."""
    edges = [(i, i + 1) for i in range(4000)] + [(0, i) for i in range(2, 4001)]
    at = layered([50.0] * 4001, edges)
    assert sum(map(len, at.edges)) <= MOST_POINTS and at.layer == tuple(range(4001))
    short = dict(zip(edges, at.edges, strict=True))
    assert len(short[0, 50]) == 49 and short[0, 3000] == ()


def test_crossings_are_few() -> None:
    """Four branches that keep their order have none, however they are numbered."""
    order = [7, 3, 1, 5, 8, 2, 6, 4]  # the boxes of four branches of two
    edges = (
        [(0, box) for box in order[::2]]
        + list(zip(order[::2], order[1::2], strict=True))
        + [(box, 9) for box in order[1::2]]
    )
    at = layered([40.0] * 10, edges)
    pairs = [(at.x[a], at.x[b]) for a, b in zip(order[::2], order[1::2], strict=True)]
    assert all((a - c) * (b - d) > 0 for (a, b), (c, d) in combinations(pairs, 2))
