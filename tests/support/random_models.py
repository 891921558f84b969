"""Random convolutional networks as ONNX models: a hypothesis strategy.

A model is a chain of blocks, each a pattern that some exporter or architecture has and some pass looks for, or almost;
a block may also read what earlier blocks left, and a constant may serve several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.support.model_builder import Builder, Image
from tests.support.moving_blocks import MOVING
from tests.support.random_arithmetic import ARITHMETIC


def _convolution(to: Builder, x: Image) -> Image:
    kernel = to.pick((1, 1), (3, 3), (3, 3), (1, 7), (7, 1), (5, 5), (2, 2), (3, 1))
    groups = to.pick(1, 1, 1, 2 if x.c % 2 == 0 else 1, x.c)
    cout = to.pick(4, 6, 8, 12)
    return to.tail(to.conv(x, cout - cout % groups or groups, kernel, groups, plain=to.maybe()))


def _separable(to: Builder, x: Image) -> Image:
    x = to.act(x) if to.maybe() else x
    y = to.conv(x, x.c, (3, 3), x.c, plain=to.maybe())
    y = to.tail(y) if to.maybe() else y
    return to.tail(to.conv(y, to.pick(4, 8, 10)))


def _pool(to: Builder, x: Image) -> Image:
    mode = to.pick("MaxPool", "AveragePool")
    attrs, h, w = to.window(to.pick((2, 2), (3, 3), (3, 2), (5, 5)), x, dilations=mode == "MaxPool")
    if "auto_pad" not in attrs and to.maybe():
        reach = [(k - 1) * d + 1 for k, d in zip(attrs["kernel_shape"], attrs.get("dilations", (1, 1)), strict=True)]
        ends = [size + attrs["pads"][i] for i, size in enumerate((x.h, x.w))]
        sizes = [-(-(ends[i] + attrs["pads"][2 + i] - reach[i]) // attrs["strides"][i]) + 1 for i in range(2)]
        # Before opset 22, ONNX does not say whether a window that starts behind the image counts.
        if all((sizes[i] - 1) * attrs["strides"][i] < ends[i] for i in range(2)):
            attrs["ceil_mode"], (h, w) = 1, sizes
    if mode == "AveragePool":
        attrs["count_include_pad"] = to.pick(0, 1)
    return Image(to.node(mode, x.name, **attrs), x.c, h, w)


def _pool_branch(to: Builder, x: Image) -> Image:
    """Inception's pool branch beside a 1×1 convolution."""
    mode = to.pick("AveragePool", "AveragePool", "MaxPool")
    attrs = {"count_include_pad": to.pick(0, 1)} if mode == "AveragePool" else {}
    pooled = x._replace(name=to.node(mode, x.name, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1], **attrs))
    return to.concat([to.tail(to.conv(pooled, 4)), to.tail(to.conv(x, 6))])


def _siblings(to: Builder, x: Image) -> Image:
    parts = [to.tail(to.conv(x, to.pick(3, 4, 8))) for _ in range(to.pick(2, 3))]
    if to.maybe():
        parts[0] = to.tail(to.conv(parts[0], 4, (3, 3)))
    return to.concat(parts)


def _residual(to: Builder, x: Image) -> Image:
    y = to.tail(to.conv(x, x.c, to.pick((1, 1), (3, 3))))
    if to.maybe():  # Inception-ResNet's scale
        y = y._replace(name=to.node("Mul", y.name, to.weight(0.17)))
    y = to.add(y, x)
    return to.act(y) if to.maybe() else y


def _bottleneck(to: Builder, x: Image) -> Image:
    """A k×k convolution before a 1×1, alone as in ResNet or beside other branches as in Inception-ResNet."""
    y = to.tail(to.conv(to.tail(to.conv(x, 16)), to.pick(5, 8, 24), to.pick((3, 3), (1, 7), (7, 1))))
    parts = [y, *(to.tail(to.conv(x, 4)) for _ in range(to.pick(0, 1, 2)))]
    if len(parts) > 1:
        y = to.concat(parts if to.maybe() else parts[::-1])
    return to.add(to.conv(y, x.c), x)


def _preactivation(to: Builder, x: Image) -> Image:
    y = to.act(to.norm(x))
    return to.add(to.tail(to.conv(to.tail(to.conv(y, 4)), x.c, (3, 3))), x)


def _join(to: Builder, x: Image) -> Image:
    """What an earlier block left, added or concatenated where it fits."""
    others = [i for i in to.images if (i.h, i.w) == (x.h, x.w)]
    other = to.pick(*others)
    return to.add(x, other) if other.c == x.c and to.maybe() else to.concat([x, other])


def _affine(to: Builder, x: Image) -> Image:
    for _ in range(to.pick(1, 2, 3)):
        shape = to.pick((1, x.c, 1, 1), (x.c, 1, 1), (x.c, 1, 1), (), (1,), (x.w,), (x.h, 1))  # the last two are traps
        op_type = to.pick("Sub", "Mul", "Add", "Sub", "Mul", "Add", "Div")
        inputs = [x.name, to.vector(*shape, positive=op_type == "Div")]
        x = x._replace(name=to.node(op_type, *(inputs[::-1] if op_type != "Div" and to.maybe() else inputs)))
    return x


def _channels_last(to: Builder, x: Image) -> Image:
    """An island in N×H×W×C."""
    name = to.node("Transpose", x.name, perm=[0, 2, 3, 1])
    for _ in range(to.pick(1, 2)):
        kind = to.pick("Relu", "Mul", "Add", "BiasAdd", "Sigmoid")
        if kind in ("Relu", "Sigmoid"):
            name = to.node(kind, name)
        else:
            name = to.node(
                kind.removeprefix("Bias"), name, to.vector(*((x.c,) if kind == "BiasAdd" else (1, 1, 1, x.c)))
            )
    return x._replace(name=to.node("Transpose", name, perm=[0, 3, 1, 2]))


def _nothing(to: Builder, x: Image) -> Image:
    kind = to.pick("Identity", "Cast", "Dropout", "Transposes", "Concat", "Squeeze", "Double")
    if kind == "Transposes":
        name = to.node("Transpose", to.node("Transpose", x.name, perm=[0, 3, 1, 2]), perm=[0, 2, 3, 1])
    elif kind == "Squeeze":
        axis = to.weight([to.pick(0, 2, -1)], np.int64)
        name = to.node("Squeeze", to.node("Unsqueeze", x.name, axis), axis)
    elif kind == "Double":
        name = to.node("Cast", to.node("Cast", x.name, to=TensorProto.DOUBLE), to=TensorProto.FLOAT)
    else:
        attrs = {"Cast": {"to": TensorProto.FLOAT}, "Concat": {"axis": 1}}.get(kind, {})
        name = to.node(kind, x.name, **attrs)
    return x._replace(name=name)


def _padded(to: Builder, x: Image) -> Image:
    """A Pad, perhaps one that belongs to the window behind it."""
    mode = to.pick("constant", "constant", "edge", "reflect")
    top, left, bottom, right = (to.pick(0, 1, 1) if min(x.h, x.w) > 1 else 0 for _ in range(4))
    pads = to.weight([0, 0, top, left, 0, 0, bottom, right], np.int64)
    value = [to.weight(to.pick(0.0, 0.0, 0.5))] if mode == "constant" else []
    y = Image(to.node("Pad", x.name, pads, *value, mode=mode), x.c, x.h + top + bottom, x.w + left + right)
    kind = to.pick("conv", "average", "max")
    if kind == "conv":
        return to.tail(to.conv(y, 6, (3, 3), plain=to.maybe()))
    size = {"h": y.h + 1 - 2, "w": y.w + 1 - 2} if min(y.h, y.w) > 1 else {}
    if not size:
        return y
    return y._replace(name=to.node("MaxPool" if kind == "max" else "AveragePool", y.name, kernel_shape=[2, 2]), **size)


def _cut(to: Builder, x: Image) -> Image:
    """Channels or rows taken apart, worked on, and perhaps put together."""
    if x.c < 2:
        return x
    if to.maybe():
        sizes = [x.c // 2, x.c - x.c // 2]
        first = to.node("Split", x.name, to.weight(sizes, np.int64), outputs=2, axis=1)
        parts = [Image(n, c, x.h, x.w) for n, c in zip((first, f"{first}.1"), sizes, strict=True)]
        parts[0] = to.tail(to.conv(parts[0], 4, (3, 3)))
        return to.concat(parts[:: to.pick(1, -1)])
    step, axis = to.pick(1, 2), to.pick(1, 2, 3)
    start = to.draw(st.integers(0, x[axis] - 1))
    bounds = [to.weight([v], np.int64) for v in (start, to.pick(x[axis], 2**31), axis, step)]
    size = {"_chw"[axis]: len(range(start, x[axis], step))}
    return to.conv(x._replace(name=to.node("Slice", x.name, *bounds), **size), 5)


def _twice(to: Builder, x: Image) -> Image:
    """The same computation twice."""
    kernel = to.weight(to.rng.normal(0, (9 * x.c) ** -0.5, (x.c, x.c, 3, 3)))
    y, z = (to.node("Conv", to.node("Tanh", x.name), kernel, pads=[1, 1, 1, 1]) for _ in range(2))
    return to.add(x._replace(name=to.node("Relu", y)), x._replace(name=z))


def _bounds(to: Builder, x: Image) -> Image:
    return x._replace(name=to.node(to.pick("Min", "Max"), x.name, to.weight(to.pick(0.0, 0.5, 6.0))))


def _squeeze_excite(to: Builder, x: Image) -> Image:
    pooled = Image(to.node("GlobalAveragePool", x.name), x.c, 1, 1)
    gate = to.conv(to.act(to.conv(pooled, 3)), x.c)
    return x._replace(name=to.node("Mul", x.name, to.node(to.pick("Sigmoid", "HardSigmoid"), gate.name)))


def _lrn(to: Builder, x: Image) -> Image:
    return x._replace(name=to.node("LRN", x.name, size=to.pick(3, 5), alpha=0.1, beta=0.75, bias=1.0))


BLOCKS = (
    *(_convolution, _separable, _pool, _pool_branch, _siblings, _residual, _preactivation, _join, _affine),
    *(_channels_last, _nothing, _padded, _cut, _squeeze_excite, _lrn, _twice, _separable),
    *(_bounds, _bottleneck),
    *MOVING,
    *ARITHMETIC,
)


def _viewed(to: Builder, x: str) -> str:
    """`x.view(x.size(0), -1)`, as torch exports it."""
    batch = to.node("Gather", to.node("Shape", x), to.weight(0, np.int64), axis=0)
    sizes = to.node("Unsqueeze", batch, to.weight([0], np.int64)), to.weight([-1], np.int64)
    return to.node("Reshape", x, to.node("Concat", *sizes, axis=0))


def _head(to: Builder, x: Image) -> str:
    """Global pool, flatten, fully connected, perhaps softmax."""
    kind = to.pick("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "none")
    if kind == "ReduceMean" and to.opset < 18:
        rows = to.node(kind, x.name, axes=[2, 3], keepdims=0)
    elif kind == "ReduceMean":
        rows = to.node(kind, x.name, to.weight([2, 3], np.int64), keepdims=0)
    else:
        pooled = to.node(kind, x.name) if kind != "none" else x.name
        rows = to.node("Flatten", pooled, axis=1) if to.maybe() else _viewed(to, pooled)
    features = x.c * x.h * x.w if kind == "none" else x.c
    if to.maybe():
        hidden = to.weight(to.rng.normal(0, features**-0.5, (features, 9)))
        rows, features = to.norm(Image(to.node("Gemm", rows, hidden, to.vector(9)), 9, 1, 1)).name, 9
        rows = to.node("Relu", rows) if to.maybe() else rows
    weight = to.rng.normal(0, features**-0.5, (features, 7))
    if to.maybe():
        out = to.node("Gemm", rows, to.weight(weight.T), to.vector(7), transB=1)
    else:
        out = to.node("Add", to.node("MatMul", rows, to.weight(weight)), to.vector(7))
    return to.node("Softmax", out, axis=-1) if to.maybe() else out


@st.composite
def models(draw: Any, blocks: Sequence[Callable[[Builder, Image], Image]] = BLOCKS) -> onnx.ModelProto:
    """A network of 1 to 9 of the blocks with one input 'x' and one to three outputs."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    to = Builder(draw, rng, draw(st.sampled_from((17, 14, 20))))
    x = Image("x", to.pick(3, 4, 1, 6), draw(st.integers(5, 15)), draw(st.integers(5, 15)))
    batch = to.pick("N", "N", 2)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *x[1:]])]
    to.images.append(x)
    for _ in range(draw(st.integers(1, 9))):
        x = to.pick(*blocks)(to, x)
        to.images.append(x)
    outputs = [_head(to, x) if to.maybe() else x.name]
    outputs += [i.name for i in draw(st.lists(st.sampled_from(to.images), max_size=2)) if i.name not in ("x", *outputs)]
    names = [n for n in dict.fromkeys(outputs) if n != "x"] or [to.node("Relu", "x")]
    graph = helper.make_graph(
        to.nodes,
        "random",
        inputs,
        [helper.make_empty_tensor_value_info(name) for name in names],
        [numpy_helper.from_array(array, name) for name, array in to.weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", to.opset)], ir_version=9)
