"""An Affine folds into the weights of a convolution or dense layer beside it.

    affine(conv(x, w, b), s, t)   ->  conv(x, s w, s b + t)                     by output channel
    conv(affine(x, s, t), w, b)   ->  conv(x, w s, b + Σ w t)                   by input channel
    the same for Gemm, and the first for a transposed convolution

This also takes residual scales (Inception-ResNet's x + 0.17 f(x)) into the branch's last convolution.

Legal: the value between the two is read by nobody else. Before a convolution with padding only a scale folds: the
border is padded with zeros after the affine, so a shift does not reach it. Weights are constants, and may be shared:
a copy is changed. What comes out lies in the range of their dtype. Of weights that were integers in the model the
same integers are left, on another grid, where the affine comes after.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from optgraph.base.in_range import out_of_range, overflow, stored
from optgraph.ir.graph import Graph, Node
from optgraph.ir.quant import Grid
from optgraph.ops import Affine, Conv, ConvTranspose, Gemm
from optgraph.passes.rewrite import Outcome, Rule, sweep


@dataclass
class _Found:
    affine: Node
    layer: Node
    scale: np.ndarray
    shift: np.ndarray
    weight: np.ndarray = field(default_factory=lambda: np.zeros(0))  # of the layer, once `check` has folded them
    bias: np.ndarray = field(default_factory=lambda: np.zeros(0))


def _found(graph: Graph, affine: Node, layer: Node | None) -> _Found | None:
    if layer is None or not isinstance(layer.op, Conv | ConvTranspose | Gemm):
        return None
    scale, shift = (graph.constant(affine.get(slot)) for slot in ("scale", "shift"))
    return None if scale is None or shift is None else _Found(affine, layer, scale, shift)


def _match_after(graph: Graph, node: Node) -> _Found | None:
    return _found(graph, node, graph.producer(node.inputs[0])) if isinstance(node.op, Affine) else None


def _match_before(graph: Graph, node: Node) -> _Found | None:
    """The Affine above a layer; a layer that reads one in another slot is no match."""
    affine = graph.producer(node.inputs[0]) if isinstance(node.op, Conv | Gemm) else None
    return _found(graph, affine, node) if affine is not None and isinstance(affine.op, Affine) else None


def _constant_weights(graph: Graph, layer: Node) -> str | None:
    bias = layer.get("b")
    if graph.constant(layer.get("w")) is None or (bias and graph.constant(bias) is None):
        return "the weights are not constants"
    return None


def _check_after(graph: Graph, found: _Found) -> str | None:
    if graph.sole_user(found.layer.output) is None:
        return f"the output of '{found.layer.name}' is also needed elsewhere"
    op, affine = found.layer.op, found.affine.op
    assert isinstance(op, Conv | ConvTranspose | Gemm) and isinstance(affine, Affine)
    if affine.act:
        return f"'{found.affine.name}' has an activation"
    if op.act or (isinstance(op, Conv) and (op.post or found.layer.get("residual"))):
        return f"'{found.layer.name}' has an epilogue"
    return _constant_weights(graph, found.layer) or _fold(graph, found, _after)


def _check_before(graph: Graph, found: _Found) -> str | None:
    if graph.sole_user(found.affine.output) is None:
        return f"the output of '{found.affine.name}' is also needed elsewhere"
    op, affine = found.layer.op, found.affine.op
    assert isinstance(affine, Affine)
    if affine.act:
        return f"'{found.affine.name}' has an activation"
    if isinstance(op, Conv):
        if op.pre_act or found.layer.get("pre_scale") or found.layer.get("pre_shift"):
            return f"'{found.layer.name}' has a prologue"
        if any(op.pads) and found.shift.any():
            return "the padding is zero after the shift"
    return _constant_weights(graph, found.layer) or _fold(graph, found, _before)


def _fold(graph: Graph, found: _Found, fold: Callable[[_Found, np.ndarray, np.ndarray], None]) -> str | None:
    """Folds the affine into `found`, weights and bias; why these cannot be kept, if so."""
    weight, bias = _weights(graph, found.layer)
    with np.errstate(over="ignore", under="ignore"):
        fold(found, weight, bias)
    dtype = graph.constants[found.layer.get("w")].dtype
    return out_of_range(found.weight, dtype) or overflow(found.bias, dtype)


def _after(found: _Found, weight: np.ndarray, bias: np.ndarray) -> None:
    # The product of two float32 is exact in float64: rounding it to float32 is what float32 arithmetic does.
    if isinstance(found.layer.op, ConvTranspose):  # [Cin, Cout / groups, ...], group after group of Cin
        groups = found.layer.op.groups
        scale = found.scale.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
        found.weight = (weight.reshape(groups, -1, *weight.shape[1:]) * scale).reshape(weight.shape)
    else:
        found.weight = weight * found.scale.reshape(-1, *[1] * (weight.ndim - 1))
    found.bias = bias * found.scale.astype(np.float64) + found.shift.astype(np.float64)


def _before(found: _Found, weight: np.ndarray, bias: np.ndarray) -> None:
    groups = found.layer.op.groups if isinstance(found.layer.op, Conv) else 1
    # [groups, Cout / groups, Cin / groups, kh * kw]
    split = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    found.weight = (split * found.scale.reshape(groups, 1, -1, 1)).reshape(weight.shape)
    found.bias = bias
    if found.shift.any():
        taps = split.sum(axis=3, dtype=np.float64)
        shift = found.shift.astype(np.float64).reshape(groups, -1, 1)
        found.bias = bias + np.matmul(taps, shift).reshape(-1)


def _rewrite_after(graph: Graph, found: _Found) -> None:
    _replace(graph, found, found.layer.inputs[0], same_value=False)
    graph.rewire(found.affine.output, found.layer.output)
    graph.remove(graph.node(found.affine.name))


def _rewrite_before(graph: Graph, found: _Found) -> None:
    _replace(graph, found, found.affine.inputs[0], same_value=True)
    graph.remove(graph.node(found.affine.name))


def _weights(graph: Graph, layer: Node) -> tuple[np.ndarray, np.ndarray]:
    """The weight, in float32 if it is shorter, and the bias (zeros if there is none) in float64."""
    weight = graph.constants[layer.get("w")]
    bias = graph.constants[layer.get("b")] if layer.get("b") else np.zeros(_outputs(layer, weight))
    return weight.astype(np.promote_types(weight.dtype, np.float32), copy=False), bias.astype(np.float64)


def _outputs(layer: Node, weight: np.ndarray) -> int:
    """How many channels it makes."""
    op = layer.op
    return int(weight.shape[1] * op.groups if isinstance(op, ConvTranspose) else weight.shape[0])


def _replace(graph: Graph, found: _Found, x: str, *, same_value: bool) -> None:
    """The new weights for the layer, which now reads `x`; no bias where it is zero and there was none."""
    layer, old, weight, bias = found.layer, found.layer.get("w"), found.weight, found.bias
    b = layer.get("b")
    dtype = graph.constants[old].dtype
    weight = stored(weight, dtype)
    slots = {"x": x, "w": graph.add_constant(weight, old, _scaled(graph.grids.get(old), found, weight))}
    if b or bias.any():
        slots["b"] = graph.add_constant(stored(bias, dtype), b or f"{layer.name}.bias")
    inputs = layer.inputs_with(**slots)
    while not inputs[-1]:
        inputs = inputs[:-1]
    graph.update(layer, inputs=inputs, origin=found.affine.origin, same_value=same_value)


def _scaled(grid: Grid | None, found: _Found, weight: np.ndarray) -> Grid | None:
    """That of the folded weight, if its rows are those of before times a factor each."""
    rows = len(weight)
    factor = np.abs(np.broadcast_to(found.scale.astype(np.float64), rows)) if found.scale.size in (1, rows) else None
    if grid is None or factor is None or any(grid.zero) or (grid.axis != 0 and len(grid.scale) > 1):
        return None
    scale = np.broadcast_to(np.array(grid.scale, np.float64), rows) * np.where(factor > 0, factor, 1.0)
    scaled = Grid(grid.dtype, tuple(map(float, scale.astype(np.float32))), (0,) * rows, 0)
    return scaled if all(scaled.scale) and scaled.integers(weight) is not None else None


def run(graph: Graph) -> Outcome:
    outcome = sweep(
        graph,
        Rule("fold affine into the layer before", _match_after, _check_after, _rewrite_after),
        Rule("fold affine into the layer after", _match_before, _check_before, _rewrite_before),
    )
    graph.prune()
    return outcome
