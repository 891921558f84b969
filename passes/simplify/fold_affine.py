"""An Affine folds into the weights of a convolution or dense layer beside it.

    affine(conv(x, w, b), s, t)   ->  conv(x, s w, s b + t)                     by output channel
    conv(affine(x, s, t), w, b)   ->  conv(x, w s, b + Σ w t)                   by input channel
    the same for Gemm

This also takes residual scales (Inception-ResNet's x + 0.17 f(x)) into the branch's last convolution.

Legal: the value between the two is read by nobody else. Before a convolution with padding only a scale folds: the
border is padded with zeros after the affine, so a shift does not reach it. Weights are constants, and may be shared:
a copy is changed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optgraph.ir.graph import Graph, Node
from optgraph.ops import Affine, Conv, Gemm
from optgraph.passes.rewrite import Outcome, Rule, sweep


@dataclass(frozen=True)
class _Found:
    affine: Node
    layer: Node
    scale: np.ndarray
    shift: np.ndarray


def _found(graph: Graph, affine: Node, layer: Node | None) -> _Found | None:
    if layer is None or not isinstance(layer.op, Conv | Gemm):
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
    assert isinstance(op, Conv | Gemm) and isinstance(affine, Affine)
    if affine.act:
        return f"'{found.affine.name}' has an activation"
    if op.act or (isinstance(op, Conv) and (op.post or found.layer.get("residual"))):
        return f"'{found.layer.name}' has an epilogue"
    return _constant_weights(graph, found.layer)


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
    return _constant_weights(graph, found.layer)


def _fold_after(graph: Graph, found: _Found) -> None:
    weight, bias = _weights(graph, found.layer)
    # The product of two float32 is exact in float64: rounding it to float32 is what float32 arithmetic does.
    scaled = weight * found.scale.reshape(-1, *[1] * (weight.ndim - 1))
    shifted = bias * found.scale.astype(np.float64) + found.shift.astype(np.float64)
    _replace(graph, found, found.layer.inputs[0], scaled, shifted, same_value=False)
    graph.rewire(found.affine.output, found.layer.output)
    graph.remove(graph.node(found.affine.name))


def _fold_before(graph: Graph, found: _Found) -> None:
    weight, bias = _weights(graph, found.layer)
    groups = found.layer.op.groups if isinstance(found.layer.op, Conv) else 1
    # [groups, Cout / groups, Cin / groups, kh * kw]
    split = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    scaled = split * found.scale.reshape(groups, 1, -1, 1)
    if found.shift.any():
        taps = split.sum(axis=3, dtype=np.float64)
        shift = found.shift.astype(np.float64).reshape(groups, -1, 1)
        bias = bias + np.matmul(taps, shift).reshape(-1)
    _replace(graph, found, found.affine.inputs[0], scaled.reshape(weight.shape), bias, same_value=True)
    graph.remove(graph.node(found.affine.name))


def _weights(graph: Graph, layer: Node) -> tuple[np.ndarray, np.ndarray]:
    """The weight as it is, the bias (zeros if there is none) in float64."""
    weight = graph.constants[layer.get("w")]
    bias = graph.constants[layer.get("b")] if layer.get("b") else np.zeros(weight.shape[0])
    return weight, bias.astype(np.float64)


def _replace(graph: Graph, found: _Found, x: str, weight: np.ndarray, bias: np.ndarray, *, same_value: bool) -> None:
    """New weights for the layer, which now reads `x`; no bias where it is zero and there was none."""
    layer, old = found.layer, found.layer.get("w")
    b = layer.get("b")
    dtype = graph.constants[old].dtype
    slots = {"x": x, "w": graph.add_constant(weight.astype(dtype, copy=False), old)}
    if b or bias.any():
        slots["b"] = graph.add_constant(bias.astype(dtype), b or f"{layer.name}.bias")
    inputs = layer.inputs_with(**slots)
    while not inputs[-1]:
        inputs = inputs[:-1]
    graph.update(layer, inputs=inputs, origin=found.affine.origin, same_value=same_value)


def run(graph: Graph) -> Outcome:
    outcome = sweep(
        graph,
        Rule("fold affine into the layer before", _match_after, _check_after, _fold_after),
        Rule("fold affine into the layer after", _match_before, _check_before, _fold_before),
    )
    graph.prune()
    return outcome
