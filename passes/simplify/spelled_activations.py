"""Activations spelled out in arithmetic with numbers become one.

    clip(x + 3, 0, 6) / 6                     ->  hard_sigmoid(x)
    x * clip(x + 3, 0, 6) / 6                 ->  hard_swish(x)       in any order, 1/6 wherever it is multiplied
    x * 0.5 * (1 + erf(x / sqrt(2)))          ->  gelu(x)
    x * tanh(softplus(x))                     ->  mish(x)

Steps with one number are composed: k * f(q x + r) + t, or clip(q x + r, low, high), is all that a chain of them can be.

Legal: the numbers are those of the activation, up to rounding; what lies between is read within the pattern only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from optgraph.ir.graph import Graph, Node
from optgraph.ir.values import Act
from optgraph.ops import Activation, Binary
from optgraph.passes.rewrite import Outcome, Rule, needed_elsewhere, remove_unread, sweep

_INNER = {"erf", "softplus"}  # what a chain has at most one of, beside clips


@dataclass(frozen=True)
class _Form:
    """scale * fn(slope * x + offset) + shift; or clip(slope * x + offset, low, high), if fn is ''."""

    slope: float = 1.0
    offset: float = 0.0
    low: float = -math.inf
    high: float = math.inf
    fn: str = ""
    scale: float = 1.0
    shift: float = 0.0

    def affine(self, m: float, c: float) -> _Form:
        """m * this + c."""
        if self.fn:
            return replace(self, scale=self.scale * m, shift=self.shift * m + c)
        low, high = sorted((m * self.low + c, m * self.high + c)) if m else (c, c)
        return _Form(self.slope * m, self.offset * m + c, low, high)

    def clipped(self, low: float, high: float) -> _Form | None:
        if self.fn or low > high:
            return None
        return replace(self, low=min(max(self.low, low), high), high=min(max(self.high, low), high))

    def then(self, act: Act) -> _Form | None:
        """act(this); None if that has no such form."""
        match act.kind:
            case "relu":
                return self.clipped(0.0, math.inf)
            case "clip":
                return self.clipped(act.a, act.b)
            case "hard_sigmoid":
                return None if self.fn else self.affine(act.a, act.b).clipped(0.0, 1.0)
            case "tanh" if self.fn == "softplus" and (self.scale, self.shift) == (1.0, 0.0):
                return replace(self, fn="tanh softplus")
            case kind if kind in _INNER and not self.fn and (self.low, self.high) == (-math.inf, math.inf):
                return _Form(self.slope, self.offset, fn=kind)
        return None

    @property
    def line(self) -> bool:
        """Whether it is slope * x."""
        return not self.fn and self.offset == 0.0 and (self.low, self.high) == (-math.inf, math.inf)


@dataclass(frozen=True)
class _Found:
    end: Node
    x: str
    act: Act
    inner: list[Node]


def _affine(graph: Graph, node: Node) -> tuple[str, float, float] | None:
    """(u, m, c) of a node that is m * u + c with numbers m and c."""
    if not isinstance(node.op, Binary) or node.op.post:
        return None
    first, second = (graph.constant(value) for value in node.inputs)
    array, u = (second, node.inputs[0]) if first is None else (first, node.inputs[1])
    if array is None or array.size != 1 or graph.shape(u) != graph.shape(node.output):
        return None
    number = float(array.item())
    if not math.isfinite(number):
        return None
    match node.op.fn:
        case "add":
            return u, 1.0, number
        case "mul":
            return u, number, 0.0
        case "sub":
            return (u, 1.0, -number) if first is None else (u, -1.0, number)
        case "div" if first is None and number:
            return u, 1.0 / number, 0.0
    return None


def _chain(graph: Graph, value: str) -> list[tuple[str, Node | None]]:
    """`value` and the values above it, each with the node that makes it of the next; the last has none."""
    found: list[tuple[str, Node | None]] = []
    while True:
        node = graph.producer(value)
        step = _affine(graph, node) if node else None
        if node and isinstance(node.op, Activation):
            above = node.inputs[0]
        elif step:
            above = step[0]
        else:
            return [*found, (value, None)]
        found.append((value, node))
        value = above


def _form(graph: Graph, nodes: list[Node]) -> _Form | None:
    """What a chain of nodes, from the end up, makes of what it reads."""
    form: _Form | None = _Form()
    for node in reversed(nodes):
        step = _affine(graph, node)
        if form is None:
            return None
        if step:
            form = form.affine(step[1], step[2])
        else:
            assert isinstance(node.op, Activation)
            form = form.then(node.op.act)
    return form


def _above(chain: list[tuple[str, Node | None]], base: str) -> list[Node]:
    """The nodes of a chain before it reaches `base`."""
    nodes: list[Node] = []
    for value, node in chain:
        if value == base or node is None:
            break
        nodes.append(node)
    return nodes


def _gated(form: _Form, factor: float, dtype: str) -> Act | None:
    """factor * x * form(x) as an activation."""
    exact = max(float(np.finfo(dtype).eps), 1e-6) if dtype in ("float16", "float32", "float64") else 1e-6

    def are(*pairs: tuple[float, float]) -> bool:
        return all(math.isclose(found, wanted, rel_tol=exact, abs_tol=exact) for found, wanted in pairs)

    form = form.affine(factor, 0.0)
    scaled = (form.scale, form.shift)
    if not form.fn and are((form.slope, 1 / 6), (form.offset, 0.5), (form.low, 0.0), (form.high, 1.0)):
        return Act("hard_swish")
    if form.fn == "erf" and are((form.slope, math.sqrt(0.5)), (form.offset, 0), (scaled[0], 0.5), (scaled[1], 0.5)):
        return Act("gelu")
    if form.fn == "tanh softplus" and are((form.slope, 1), (form.offset, 0), (scaled[0], 1), (scaled[1], 0)):
        return Act("mish")
    return None


def _match_gate(graph: Graph, node: Node) -> _Found | None:
    """A product of x and a function of x, perhaps times numbers."""
    factor, outer, product = 1.0, [], node
    while (step := _affine(graph, product)) and step[2] == 0.0:
        above = graph.producer(step[0])
        if above is None:
            return None
        outer.append(product)
        factor, product = factor * step[1], above
    if not isinstance(product.op, Binary) or product.op.fn != "mul" or product.op.post:
        return None
    one, two = (_chain(graph, value) for value in product.inputs)
    shared = {value for value, _ in two}
    for x in (value for value, _ in one if value in shared):
        nodes = _above(one, x), _above(two, x)
        for straight, bent in (nodes, nodes[::-1]):
            line, form = _form(graph, straight), _form(graph, bent)
            if line and line.line and form:
                act = _gated(form, factor * line.slope, graph.values[x].dtype)
                if act:
                    inner = [n for n in (*outer, product, *straight, *bent) if n is not node]
                    return _Found(node, x, act, inner)
    return None


def _match_hard_sigmoid(graph: Graph, node: Node) -> _Found | None:
    """The end of a chain, with as much of it as may go."""
    chain, found = _chain(graph, node.output), []
    for i in range(len(chain) - 1, 1, -1):
        nodes = [n for _, n in chain[:i] if n is not None]
        form = _form(graph, nodes)
        whole = form is not None and not form.fn and form.low == 0.0 and math.isclose(form.high, 1.0, rel_tol=1e-6)
        if form and whole and any(_affine(graph, n) for n in nodes):
            found.append(_Found(node, chain[i][0], Act("hard_sigmoid", form.slope, form.offset), nodes[1:]))
    return next((f for f in found if _check(graph, f) is None), found[0] if found else None)


def _check(graph: Graph, found: _Found) -> str | None:
    return needed_elsewhere(graph, found.end, found.inner)


def _rewrite(graph: Graph, found: _Found) -> None:
    origin = [name for node in reversed(found.inner) for name in node.origin]
    graph.update(found.end, Activation(act=found.act), [found.x], origin, same_value=True)
    remove_unread(graph, found.inner)


def run(graph: Graph) -> Outcome:
    outcome = sweep(
        graph,
        Rule("arithmetic to hard sigmoid", _match_hard_sigmoid, _check, _rewrite),
        Rule("arithmetic to gated activation", _match_gate, _check, _rewrite),
    )
    graph.prune()
    return outcome
