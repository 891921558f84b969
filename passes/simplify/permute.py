"""How operators move across a transpose, the algebra of `layout.py`.

    f(transpose(x, p))  =  transpose(g(x), q)        permuted(f, p) = (g, q)

A permutation p is a tuple as in numpy: axis i of transpose(x, p) is axis p[i] of x.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optgraph.ir.op import Op
from optgraph.ir.values import Shape, Value
from optgraph.ops import (
    Activation,
    Binary,
    Cast,
    Concat,
    FakeQuantize,
    Gather,
    Identity,
    Opaque,
    Pad,
    Reduce,
    Resize,
    Slice,
    Softmax,
    Split,
    Tile,
)

Perm = tuple[int, ...]

# Opaque operators on each element alone, of one input. What they do to floats is an Activation, if it has a kernel.
_ANGLES = {"Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cosh", "Sinh", "Tan"}
ELEMENTWISE = _ANGLES | {"Abs", "IsInf", "IsNaN", "Neg", "Not", "Sign"}


def identity(p: Perm) -> bool:
    return p == tuple(range(len(p)))


def inverse(p: Perm) -> Perm:
    return tuple(p.index(i) for i in range(len(p)))


def compose(p: Perm, q: Perm) -> Perm:
    """transpose(transpose(x, p), q) = transpose(x, compose(p, q))"""
    return tuple(p[i] for i in q)


def permuted_shape(shape: Shape, p: Perm) -> Shape:
    return tuple(shape[i] for i in p)


def moves_units_only(shape: Shape, p: Perm) -> bool:
    """Whether transposing a tensor of `shape` only moves axes of size 1, and so is a Reshape."""
    kept = [i for i in p if shape[i] != 1]
    return kept == sorted(kept)


def permuted_constant(array: np.ndarray, p: Perm) -> np.ndarray:
    """`array`, which broadcasts against a tensor of rank len(p), transposed by p; as it is if of one element."""
    if array.size == 1 and array.ndim <= len(p):
        return array
    return np.ascontiguousarray(np.transpose(array.reshape((1,) * (len(p) - array.ndim) + array.shape), p))


def permuted(op: Op, p: Perm) -> tuple[Op, Perm] | None:
    """The operator on the other side of a transpose of its inputs, and the transpose that then follows its outputs.
    None for an operator that does not move."""
    match op:
        case Activation() | Cast() | Identity() | Binary() | FakeQuantize():
            return op, p
        case Concat() | Split() | Softmax() | Gather():
            return replace(op, axis=p[op.axis]), p
        case Slice(axes=axes):
            return replace(op, axes=tuple(p[a] for a in axes)), p
        case Resize(axes=axes) if {p[a] for a in axes} <= {2, 3}:  # what kernels, and ONNX Runtime's, resize
            return replace(op, axes=tuple(p[a] for a in axes)), p
        case Pad(pads=pads):
            rank, back = len(p), inverse(p)
            return replace(op, pads=tuple(pads[i] for i in (*back, *(rank + i for i in back)))), p
        case Tile(repeats=repeats):
            return replace(op, repeats=tuple(repeats[i] for i in inverse(p))), p
        case Reduce(axes=axes, keepdims=keepdims):
            axes = tuple(sorted(p[a] for a in axes))
            return replace(op, axes=axes), p if keepdims else _without(p, axes)
        case Opaque(op_type=op_type, domain="", values=(value,)) if op_type in ELEMENTWISE:
            return replace(op, values=(Value(permuted_shape(value.shape, inverse(p)), value.dtype),)), p
    return None


def _without(p: Perm, axes: tuple[int, ...]) -> Perm:
    """p on the axes that are left when `axes` of the untransposed tensor are gone."""
    left = [i for i in p if i not in axes]
    return tuple(sorted(left).index(i) for i in left)
