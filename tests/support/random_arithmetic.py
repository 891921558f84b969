"""Blocks of random networks that compute on elements, or reduce axes; see `random_models.py`."""

from __future__ import annotations

import numpy as np

from tests.support.model_builder import Builder, Image


def _arithmetic(to: Builder, x: Image) -> Image:
    """Two operands of any broadcast, in either order, and functions of one."""
    shapes = (), (x.c, 1, 1), (x.h, 1), (x.w,), (1, x.c, x.h, x.w), (x.c, 1, x.w), (1, 1, x.h, x.w)
    for _ in range(to.pick(1, 2)):
        op_type = to.pick("Sub", "Min", "Max", "Mul", "Add")
        other = to.vector(*to.pick(*shapes))
        x = x._replace(name=to.node(op_type, *((x.name, other) if to.maybe() else (other, x.name))))
    positive = to.node("Abs", x.name)
    root = to.node(to.pick("Sqrt", "Softplus", "Exp"), to.node("Min", positive, to.weight(3.0)))
    divisor = to.node("Add", root, to.weight(1.0))
    return x._replace(name=to.node("Div", x.name if to.maybe() else positive, divisor))


def _prelu(to: Builder, x: Image) -> Image:
    shape = to.pick((x.c, 1, 1), (1, x.c, 1, 1), (1,), (), (x.c, x.h, x.w))
    x = to.conv(x, x.c) if to.maybe() else x
    return x._replace(name=to.node("PRelu", x.name, to.vector(*shape)))


def _reduced(to: Builder, x: Image) -> Image:
    """A gate by a reduction over some axes, and a softmax over one."""
    axes = to.pick([1], [2], [3], [2, 3], [1, 2], [1, 3], [1, 2, 3])
    kind = to.pick("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSum")
    keep = to.pick(1, 0)
    if kind == "ReduceSum" or to.opset >= 18:
        gate = to.node(kind, x.name, to.weight(axes, np.int64), keepdims=keep)
    else:
        gate = to.node(kind, x.name, axes=axes, keepdims=keep)
    if not keep:
        gate = to.node("Unsqueeze", gate, to.weight(axes, np.int64))
    soft = to.node(to.pick("Softmax", "LogSoftmax"), x.name, axis=to.pick(1, 2, 3, -1))
    return x._replace(name=to.node("Add", to.node("Mul", x.name, to.node("Sigmoid", gate)), soft))


def _hard_swish(to: Builder, x: Image) -> Image:
    """As Paddle spells it."""
    clip = to.node("Clip", to.node("Add", x.name, to.weight(3.0)), to.weight(0.0), to.weight(6.0))
    if to.maybe():
        return x._replace(name=to.node("Div", to.node("Mul", x.name, clip), to.weight(6.0)))
    return x._replace(name=to.node("Mul", x.name, to.node("Mul", clip, to.weight(1 / 6))))


def _attention(to: Builder, x: Image) -> Image:
    """Pixels as rows, normalised, each a mean of all by how like they are."""
    if x.h * x.w > 100:
        return x
    rows = to.node("Reshape", x.name, to.weight([0, x.c, x.h * x.w], np.int64))
    rows = to.node("Transpose", rows, perm=[0, 2, 1])
    if to.opset >= 17:
        rows = to.node("LayerNormalization", rows, to.vector(x.c), to.vector(x.c), axis=-1)
    query, key, value = (to.node("MatMul", rows, to.weight(to.rng.normal(0, x.c**-0.5, (x.c, x.c)))) for _ in range(3))
    likeness = to.node("MatMul", query, to.node("Transpose", key, perm=[0, 2, 1]))
    mixed = to.node("MatMul", to.node("Softmax", likeness, axis=-1), value)
    back = to.node("Reshape", to.node("Transpose", mixed, perm=[0, 2, 1]), to.weight([0, x.c, x.h, x.w], np.int64))
    return x._replace(name=to.node("Add", x.name, back))


def _instance_norm(to: Builder, x: Image) -> Image:
    return x._replace(name=to.node("InstanceNormalization", x.name, to.vector(x.c), to.vector(x.c), epsilon=0.1))


ARITHMETIC = (_arithmetic, _prelu, _reduced, _hard_swish, _attention, _instance_norm)
