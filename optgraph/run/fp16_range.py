"""Which values of a network leave the range of float16, on given inputs.

float16 holds numbers up to 65,504: what is larger is infinite. Below 6.1e-5 it loses bits, below 3e-8 all of them,
which is of no account beside larger numbers, but is where a logarithm, a root or a quotient reads them. bfloat16 has
float32's range.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from optgraph.base.arrays import to_tensor
from optgraph.base.dtypes import float_storage
from optgraph.ir.graph import Graph, Node
from optgraph.ops import Activation
from optgraph.plan.kept import Kept
from optgraph.run.reference import Executor
from optgraph.run.row_sums import adding_in_half, largest_row_sum

LARGEST = 65504.0
SMALLEST = 2.0**-14  # of full precision

# Functions whose answer to small numbers depends on how small they are; powers from the first on are not among them.
_SENSITIVE = {"log", "power", "pow", "reciprocal", "sqrt"}
# What gives small numbers only where it reads some, number by number: sums of others hide them.
_PASSING = {
    *("Activation", "Affine", "Binary", "Cast", "Concat", "Identity", "Pad", "Reshape", "Slice", "Split"),
    *("Tile", "Transpose"),
}


@dataclass(frozen=True)
class Leaving:
    """A region whose results leave float16, the ONNX nodes it stands for, and the end where: 'large' or 'small'.

    value: the largest number, or the smallest but 0, in absolute terms. reader: who reads the small numbers; the region
    itself, where it is its weights that are large or small.
    """

    region: str
    onnx_nodes: tuple[str, ...]
    end: str
    value: float
    reader: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "onnx_nodes": list(self.onnx_nodes)}


def leaving(
    simplified: Graph,
    fused: Graph,
    dtype: str,
    inputs: Sequence[Mapping[str, np.ndarray]],
    keep: Collection[str] = (),
) -> list[Leaving]:
    """The regions of `fused` that leave the range of `dtype` on some of `inputs`, in topological order.

    keep: ONNX nodes whose regions are kept in float32, and so are none of these. Of what is inside a region, and so in
    no value of `fused`, the large numbers count as they are in `simplified`. Sums that a kernel makes in float16 count.
    """
    if float_storage(dtype) != "float16":
        return []
    sums: dict[str, float] = {}
    extremes = _extremes(fused, inputs, sums=sums)
    readers = _readers(fused, extremes)
    inside = _inside(simplified, fused, inputs)
    stored = Kept.of(fused, keep).values
    found = []
    for node in fused.nodes():
        if stored.issuperset(node.outputs):
            continue
        lowest = {value: extremes[value][0] for value in node.outputs if value in extremes}
        largest = max((extremes[value][1] for value in lowest), default=0.0)
        largest = max(largest, *(inside.get(name, 0.0) for name in node.origin), sums.get(node.name, 0.0))
        small = [(low, readers[v]) for v, low in lowest.items() if v in readers and low < SMALLEST]
        weight = _weight(fused, node)
        if largest > LARGEST:
            found.append(Leaving(node.name, node.origin, "large", largest))
        elif weight and not SMALLEST <= weight <= LARGEST:
            found.append(Leaving(node.name, node.origin, "large" if weight > LARGEST else "small", weight, node.name))
        elif small:
            found.append(Leaving(node.name, node.origin, "small", *min(small)))
    return found


def _weight(graph: Graph, node: Node) -> float:
    """The largest number of the weights that a node multiplies, in absolute terms, or of those that are all small."""
    arrays = [graph.constants[value] for value in node.inputs if value in graph.constants]
    sizes = [
        float(np.abs(array).max()) for array in arrays if array.ndim > 1 and array.dtype.kind == "f" and array.size
    ]
    if node.op.kind in _PASSING or not sizes:  # an elementwise kernel has its constants in float32
        return 0.0
    small = [size for size in sizes if 0 < size < SMALLEST]
    return max(sizes) if max(sizes) > LARGEST or not small else small[0]


def _extremes(
    graph: Graph,
    inputs: Sequence[Mapping[str, np.ndarray]],
    wanted: Collection[str] | None = None,
    sums: dict[str, float] | None = None,
) -> dict[str, tuple[float, float]]:
    """By value that a node computes, the smallest number but 0 and the largest, in absolute terms.

    wanted: the values looked at, None for all. sums: gets, by node, the largest sum of a row of taps over float16.
    """
    adding = {} if sums is None else adding_in_half(graph)
    sums = {} if sums is None else sums
    executor = Executor(graph)
    found: dict[str, tuple[float, float]] = {}
    for feeds in inputs:
        for node, results in executor.stream(feeds):
            for value, result in zip(node.outputs, results, strict=True):
                if result.is_floating_point() and result.numel() and (wanted is None or value in wanted):
                    low, high = found.get(value, (math.inf, 0.0))
                    least, most = _ends(result)
                    found[value] = min(low, least), max(high, most)
                for reader in adding.get(value, ()) if result.numel() else ():
                    weight = to_tensor(graph.constants[reader.inputs[1]])
                    most = largest_row_sum(reader, result, weight, LARGEST)
                    sums[reader.name] = max(sums.get(reader.name, 0.0), most)
    return found


def _ends(result: torch.Tensor) -> tuple[float, float]:
    """The smallest and the largest of its numbers but 0 and those that are not finite; inf and 0 if there are none."""
    size = result.abs()
    if not size.max().isfinite():
        size = torch.where(size.isfinite(), size, 0.0)
    return float(torch.where(size > 0, size, math.inf).min()), float(size.max())


def _readers(graph: Graph, extremes: Mapping[str, tuple[float, float]]) -> dict[str, str]:
    """The node that small numbers of a value matter to, by value, for those that one matters to."""
    found: dict[str, str] = {}
    for node in reversed(graph.nodes()):
        for value in _read_closely(graph, node):
            found[value] = node.name
        reader = next((found[value] for value in node.outputs if value in found), None)
        if reader is not None and node.op.kind in _PASSING:
            small = any(extremes.get(value, (math.inf, 0.0))[0] < SMALLEST for value in node.outputs)
            found.update({value: reader for value in node.inputs if small and value not in found})
    return found


def _read_closely(graph: Graph, node: Node) -> Iterator[str]:
    """The inputs of whose small numbers the node makes a difference."""
    acts = [getattr(node.op, "pre_act", None), *([node.op.act] if isinstance(node.op, Activation) else [])]
    name = str(getattr(node.op, "fn", getattr(node.op, "op_type", ""))).lower()
    if any(act and act.kind in _SENSITIVE and not (act.kind == "power" and act.a >= 1.0) for act in acts):
        yield node.inputs[0]
    elif name in _SENSITIVE:
        exponent = graph.constant(node.inputs[1]) if name == "pow" else None
        if exponent is None or exponent.min() < 1:
            yield node.inputs[0]
    elif name == "div":
        yield node.inputs[1]


def _hides(node: Node) -> bool:
    prologue = getattr(node.op, "pre_act", None) or ("pre_scale" in node.op.slots and node.get("pre_scale"))
    return node.op.kind in ("Bottleneck", "Separable") or bool(prologue)


def _inside(simplified: Graph, fused: Graph, inputs: Sequence[Mapping[str, np.ndarray]]) -> dict[str, float]:
    """By ONNX node, the largest number that it gives and that no kernel shows but one multiplies: what lies between the
    two products of a region, or before the first."""
    hidden = {name for node in fused.nodes() if _hides(node) for name in node.origin}
    if not hidden:
        return {}
    shown = {source.name for source in fused.sources.values()}
    inside = {
        node.output: node.origin
        for node in simplified.nodes()
        if node.output in simplified.sources
        and simplified.sources[node.output].name not in shown
        and not hidden.isdisjoint(node.origin)
    }
    found: dict[str, float] = {}
    for value, (_, high) in _extremes(simplified, inputs, inside).items():
        found.update({name: max(found.get(name, 0.0), high) for name in inside[value]})
    return found
