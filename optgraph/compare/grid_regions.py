"""The regions of a network of 8 bits, each by itself: what it makes of what it was given.

One step that a rounding takes the other way moves many behind it, so that two right networks soon differ in half of
their integers. From the same inputs they differ only where a number lies half way between two steps, and each region is
computed twice: rounding a little down, and a little up. What is right lies between.

Two things are compared so: what the backend made of what its own regions gave it, which is for kernels and lowering to
have right; and what the graph makes of the original's values, which is for import and passes. Numbers that lie on no
grid are compared as in a network of floats.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch

from optgraph.base.arrays import as_tensor
from optgraph.base.progress import Progress
from optgraph.compare.oracle import BOUNDS, SIGMOID_SCALE, as_stored, distance
from optgraph.compare.original import Original
from optgraph.compare.regions import REGION_FACTOR, BadRegion, Regions, ends_with_sigmoid
from optgraph.ir.graph import Graph, Node
from optgraph.ir.grids import values_on_grids
from optgraph.ir.quant import Quant
from optgraph.ir.words import op_text
from optgraph.ops.joining import Concat
from optgraph.ops.pool import Pool
from optgraph.ops.rounding import Rounding, rounded
from optgraph.run.context import Tensors
from optgraph.run.reference import Executor

# How far from half way between two steps, in steps, a number may be that is rounded the other way: what float32 rounds
# of a sum; and what a product of fewer bits may be off by, which is then judged as in a network of floats, too.
LEAN, ROUGH_LEAN = 2.0**-6, 0.5
APART = 0.25  # of a step: more, and it is another integer
EPS = {"fp32": 2.0**-22, "bf16": 2.0**-7}  # what stores the numbers of a grid; 2^-10 all others

Pair = tuple[torch.Tensor, torch.Tensor]  # the least and the most that a value may be
Known = Mapping[str, Pair]


@dataclass(frozen=True)
class _Leaning(Quant):
    """A grid that is rounded to a little down or up, by so many steps."""

    by: float = 0.0

    def integers(self, x: torch.Tensor) -> torch.Tensor:
        return super().integers(x + self.by * self.scale)


class GridRegions(Regions):
    """As `Regions`, of a graph with values on grids."""

    by_themselves = True

    def __init__(
        self,
        graph: Graph,
        original: Original,
        index: int,
        bound: float,
        tell: Progress,
        dtype: str,
        keep: Collection[str] = (),
        rough: Collection[str] = (),
    ) -> None:
        """bound: what is allowed behind a value that the original does not have. dtype, keep: as for `as_stored`.
        rough: names of the regions that multiply numbers of fewer bits than float32 has, and no integers."""
        super().__init__(graph, original, index, bound, tell)
        self._grids = values_on_grids(graph)
        self._dtype, self._rough = dtype, rough
        self._exact = Executor(graph, torch.float64)
        self._stored = self._exact if dtype == "fp32" else as_stored(graph, dtype, keep)
        feeds = {name: as_tensor(array) for name, array in original.feeds[index].items()}
        self._ours: dict[str, Pair] = {name: (x, x) for name, x in feeds.items()}
        self._theirs = dict(self._ours)
        self._dead = _last_reads(graph)

    def see(self, node: Node, results: Tensors) -> None:
        rough = node.name in self._rough
        made = _made(self._stored, node, self._ours, ROUGH_LEAN if rough else LEAN)
        for value, pair in zip(node.outputs, made, strict=True):
            shown = results[value].detach().cpu().clone() if value in results else None
            self._ours[value] = pair if shown is None else (shown, shown)
            if shown is not None:
                self._judge(
                    node, value, shown, pair, self._dtype, REGION_FACTOR * BOUNDS[self._dtype], "computed", not rough
                )
        certain = all(low is high for low, high in (self._theirs[v] for v in node.inputs if v in self._theirs))
        for value, pair in zip(node.outputs, _made(self._exact, node, self._theirs, LEAN), strict=True):
            self._theirs[value] = pair
            if value not in self._left or value not in results:
                continue
            self._left.remove(value)
            self.compared.add(node.name)
            expected, source = next(self._expected), self._sources[value]
            given = torch.from_numpy(np.array(expected.transpose(source.perm) if source.perm else expected))
            self._theirs[value] = given, given
            direct = certain or isinstance(node.op, Concat | Pool) or node.op.moves
            self._judge(
                node,
                value,
                given,
                pair,
                "fp32",
                REGION_FACTOR * BOUNDS["fp32"] if direct else self.bound,
                "meant",
                direct,
            )
            self._tell("regions", 1.0 - len(self._left) / len(self._wanted))
        for value in self._dead.get(node.name, ()):
            self._ours.pop(value, None)
            self._theirs.pop(value, None)

    def _judge(
        self,
        node: Node,
        value: str,
        found: torch.Tensor,
        pair: Pair,
        dtype: str,
        bound: float,
        by: str,
        direct: bool = True,
    ) -> None:
        """Whether `found` lies in `pair`. direct: whether single numbers do, where they are on a grid."""
        ours, low, high = (tensor.double() for tensor in (found, *pair))
        if ours.shape != low.shape:
            self._blame(node, math.inf, by)
            return
        both = torch.isfinite(ours) & torch.isfinite(low) & torch.isfinite(high)
        if by == "computed" and self.broken is None and bool((~torch.isfinite(ours) & torch.isfinite(low)).any()):
            self._blame(node, math.inf, by)
            self.broken = self.bad
        ours, low, high = ours[both], low[both], high[both]
        scale = SIGMOID_SCALE if ends_with_sigmoid(node.op) else self._spread(value)
        nearest = torch.minimum(torch.maximum(ours, low), high)
        rel_l2, _ = distance(ours, nearest, scale)
        grid = self._grids.get(value)
        if (grid is None or not direct) and rel_l2 > bound:
            self._blame(node, rel_l2, by)
        if grid is None:
            return
        nearest = nearest if direct else grid.apply(ours)  # whatever it is, it lies on the grid
        far = (ours - nearest).abs()
        wrong = int((far > APART * grid.scale + EPS.get(dtype, 2.0**-10) * ours.abs()).sum())
        if wrong:
            self._blame(node, rel_l2, by, wrong / far.numel(), float(far.max()) / grid.scale)

    def _spread(self, value: str) -> float:
        return self._spreads.get(self._sources[value].name, 0.0) if value in self._sources else 0.0

    def _blame(self, node: Node, rel_l2: float, by: str, share: float = 0.0, steps: float = 0.0) -> None:
        if self.bad is None:
            self.bad = BadRegion(region=node.name, op=op_text(node.op), onnx_nodes=list(node.origin), rel_l2=rel_l2)
            self.bad["fault"] = by
            if share:
                self.bad |= {"integers_off": share, "steps_off": steps}


def _last_reads(graph: Graph) -> dict[str, list[str]]:
    """By node, the values that nothing after it reads."""
    last = {value: node.name for node in graph.nodes() for value in (*node.outputs, *node.inputs)}
    found: dict[str, list[str]] = {}
    for value, name in last.items():
        found.setdefault(name, []).append(value)
    return found


def _made(executor: Executor, node: Node, values: Known, lean: float) -> list[Pair]:
    """What `node` may make of `values`: of each output, the least and the most."""
    low, high = ({value: values[value][i] for value in node.inputs if value in values} for i in (0, 1))
    op, certain = node.op, all(low[value] is high[value] for value in low)
    if isinstance(op, Rounding) and certain and not getattr(op, "before_residual", ()):  # one product for both
        (y,) = executor.node(node, low, replace(op, quants=()), store=False)
        down, up = (executor.stored(node.output, rounded(y, _leaning(op.quants, by))) for by in (-lean, lean))
        return [(down, up) if op.quants else (down, down)]
    downs = executor.node(node, low, _leaning(op, -lean))
    ups = downs if certain and not _quants(op) else executor.node(node, high, _leaning(op, lean))
    return [
        (torch.minimum(a, b), torch.maximum(a, b)) if a is not b else (a, b) for a, b in zip(downs, ups, strict=True)
    ]


def _leaning(part: Any, by: float) -> Any:
    """An operator, or a part of one, whose grids lean."""
    if isinstance(part, Quant):
        return _Leaning(part.scale, part.zero, by)
    if isinstance(part, tuple):
        return tuple(_leaning(each, by) for each in part) if _quants(part) else part
    changed = {name: _leaning(getattr(part, name), by) for name in _named(part) if _quants(getattr(part, name))}
    return replace(part, **changed) if changed else part


def _quants(part: Any) -> list[Quant]:
    """The grids that an operator, or a part of one, rounds to."""
    if isinstance(part, Quant):
        return [part]
    parts = part if isinstance(part, tuple) else [getattr(part, name) for name in _named(part)]
    return [quant for each in parts for quant in _quants(each)]


def _named(part: Any) -> list[str]:
    return [field.name for field in fields(part) if field.init] if is_dataclass(part) else []
