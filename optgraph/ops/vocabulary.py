"""The vocabulary of operators a Graph is made of.

A computing op (Conv, Separable, Pool, Gemm, ...) may carry a prologue and an epilogue. Simplified graphs leave
them empty, so that every op has a standard ONNX equivalent; the fuse passes fill them in:

    y = post( act( op(pre(x)) + bias ) + residual )        pre(x) = pre_act(x * pre_scale + pre_shift)

Padding is applied after the prologue: a padded position contributes exactly zero (-inf to a max pool).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from optgraph.base.dtypes import ITEMSIZE
from optgraph.base.errors import ModelError, NoKernelError
from optgraph.ir.graph import Node
from optgraph.ir.op import Op, check_vector, fixed, image, present
from optgraph.ir.values import (
    IDENTITY,
    Act,
    Dim,
    Pads,
    Pair,
    Segment,
    Shape,
    Value,
    Window,
    broadcast,
    reshaped,
    window_size,
)
from optgraph.kernels import conv2d, dense, depthwise, pointwise, separable
from optgraph.kernels import lrn as kernel
from optgraph.kernels.bottleneck import BOTTLENECK, pays
from optgraph.kernels.conv2d import CONV2D
from optgraph.kernels.dense import DENSE
from optgraph.kernels.depthwise import DEPTHWISE
from optgraph.kernels.elementwise import ELEMENTWISE
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.tile import nearest_planned
from optgraph.kernels.frame.view import View, contiguous
from optgraph.kernels.global_pool import GLOBAL_POOL
from optgraph.kernels.pad import PAD
from optgraph.kernels.pointwise import POINTWISE
from optgraph.kernels.pool import POOL
from optgraph.kernels.pooled_pointwise import POOLED_POINTWISE
from optgraph.kernels.separable import SEPARABLE
from optgraph.kernels.softmax import SOFTMAX
from optgraph.ops.lowered import after, before, rows
from optgraph.plan.lowering import Lowering
from optgraph.plan.weights import joined_vectors


@dataclass(frozen=True, kw_only=True)
class _Window(Op):
    kernel: Pair
    stride: Pair = (1, 1)
    pads: Pads = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    pre_act: Act = IDENTITY
    act: Act = IDENTITY
    post: Act = IDENTITY

    @property
    def window(self) -> Window:
        return Window(self.kernel, self.stride, self.pads, self.dilation)

    def _spatial(self, x: Value) -> tuple[Dim, Dim]:
        top, left, bottom, right = self.pads
        h = window_size(x.shape[2], self.kernel[0], self.stride[0], top, bottom, self.dilation[0])
        w = window_size(x.shape[3], self.kernel[1], self.stride[1], left, right, self.dilation[1])
        return h, w

    def _check_residual(self, inputs: Sequence[Value | None], slot: int, out: Value) -> tuple[Value, ...]:
        residual = inputs[slot] if slot < len(inputs) else None
        if residual is not None and residual.shape != out.shape:
            raise ModelError(f"residual of shape {list(residual.shape)} onto an output of {list(out.shape)}")
        return (out,)


@dataclass(frozen=True, kw_only=True)
class Conv(_Window):
    """2-D convolution; w is [Cout, Cin/groups, kh, kw]."""

    slots = ("x", "w", "b", "residual", "pre_scale", "pre_shift")
    groups: int = 1

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x, w = image(inputs), present(inputs, 1)
        if len(w.shape) != 4 or w.shape[2:] != self.kernel:
            raise ModelError(f"weight of shape {list(w.shape)} does not fit kernel {list(self.kernel)}")
        cin, cout = w.shape[1], w.shape[0]
        if not isinstance(cin, int) or x.shape[1] != cin * self.groups:
            raise ModelError(f"input has {x.shape[1]} channels, weight expects {cin} × {self.groups} groups")
        if not isinstance(cout, int) or cout % self.groups:
            raise ModelError(f"{cout} output channels do not divide into {self.groups} groups")
        for slot, length in ((2, cout), (4, x.shape[1]), (5, x.shape[1])):
            check_vector(inputs, slot, length)
        return self._check_residual(inputs, 3, Value((x.shape[0], cout, *self._spatial(x)), x.dtype))

    @property
    def pointwise(self) -> bool:
        """A 1×1 convolution without padding or groups: a matrix product over pixels."""
        return self.kernel == (1, 1) and self.groups == 1 and self.pads == (0, 0, 0, 0)

    def depthwise(self, channels: Dim) -> bool:
        """One filter a channel, no channel multiplier (given the input's channel count; needs cout = cin)."""
        return self.groups > 1 and self.groups == channels

    def lower(self, context: Lowering, node: Node) -> None:
        w = context.constant(node, "w")
        channels = context.shape(node.inputs[0])[1]
        ends = {"before": before(context, node, self.pre_act), "after": after(context, node, self)}
        x, out = context.read(node.inputs[0]).nhwc, context.write(node.output).nhwc
        if self.pointwise:
            weight = context.matrix(pointwise.pack, w)
            product = {"weight": weight, "stride": self.stride, "precision": context.precision}
            context.call(POINTWISE, node, ("outs",), x=x, outs=(out,), **product, **ends)
        elif self.depthwise(channels) and context.shape(node.output)[1] == channels:
            weight = context.weight(depthwise.pack, w)
            context.call(DEPTHWISE, node, x=x, weight=weight, out=out, window=self.window, **ends)
        else:
            weight = context.matrix(conv2d.pack, w, groups=self.groups)
            product = {"weight": weight, "groups": self.groups, "precision": context.precision}
            context.call(CONV2D, node, x=x, out=out, window=self.window, **product, **ends)


@dataclass(frozen=True, kw_only=True)
class MergedPointwise(Op):
    """Sibling 1×1 convolutions of one input as one product: inputs x, pre_scale, pre_shift, then w, b of each."""

    slots = ("x", "pre_scale", "pre_shift")
    segments: tuple[Segment, ...]
    stride: Pair = (1, 1)
    pre_act: Act = IDENTITY

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = image(inputs)
        if len(inputs) != 3 + 2 * len(self.segments):
            raise ModelError(f"{len(self.segments)} segments need a weight and a bias each")
        h = window_size(x.shape[2], 1, self.stride[0], 0, 0, 1)
        w = window_size(x.shape[3], 1, self.stride[1], 0, 0, 1)
        for i, segment in enumerate(self.segments):
            weight = present(inputs, 3 + 2 * i)
            if weight.shape != (segment.channels, x.shape[1], 1, 1):
                raise ModelError(f"segment {i} has a weight of shape {list(weight.shape)}")
        return tuple(Value((x.shape[0], s.channels, h, w), x.dtype) for s in self.segments)

    def lower(self, context: Lowering, node: Node) -> None:
        kernels, biases = node.inputs[3::2], node.inputs[4::2]
        if any(w not in context.graph.constants for w in kernels):
            raise NoKernelError("its weight is computed, not constant")
        sizes = tuple(segment.channels for segment in self.segments)
        context.call(
            POINTWISE,
            node,
            ("outs",),
            x=context.read(node.inputs[0]).nhwc,
            weight=context.matrix(pointwise.pack, *kernels),
            outs=tuple(context.write(value).nhwc for value in node.outputs),
            stride=self.stride,
            acts=tuple(segment.act for segment in self.segments),
            before=before(context, node, self.pre_act),
            after=Epilogue(context.weight(joined_vectors, *biases, dtype="float32", sizes=sizes)),
            precision=context.precision,
        )


@dataclass(frozen=True, kw_only=True)
class Separable(_Window):
    """Depthwise k×k (dw is [C, 1, kh, kw]) → `mid` activation → pointwise (w is [Cout, C, 1, 1])."""

    slots = ("x", "dw", "dw_b", "w", "b", "residual", "pre_scale", "pre_shift")
    mid: Act = IDENTITY

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x, dw, w = image(inputs), present(inputs, 1), present(inputs, 3)
        if dw.shape != (x.shape[1], 1, *self.kernel) or w.shape[1:] != (x.shape[1], 1, 1):
            raise ModelError(f"weights {list(dw.shape)} and {list(w.shape)} do not fit {x.shape[1]} channels")
        for slot, length in ((2, x.shape[1]), (4, w.shape[0]), (6, x.shape[1]), (7, x.shape[1])):
            check_vector(inputs, slot, length)
        return self._check_residual(inputs, 5, Value((x.shape[0], w.shape[0], *self._spatial(x)), x.dtype))

    def lower(self, context: Lowering, node: Node) -> None:
        dw, w = context.constant(node, "dw"), context.constant(node, "w")
        context.call(
            SEPARABLE,
            node,
            x=context.read(node.inputs[0]).nhwc,
            depthwise=context.weight(separable.pack_depthwise, dw),
            weight=context.matrix(pointwise.pack, w),
            window=self.window,
            depthwise_bias=context.vector(node.get("dw_b")),
            mid=self.mid,
            before=before(context, node, self.pre_act),
            after=after(context, node, self),
            precision=context.precision,
            out=context.write(node.output).nhwc,
        )


@dataclass(frozen=True, kw_only=True)
class PooledPointwise(_Window):
    """Max pool over k×k windows → pointwise (w is [Cout, C, 1, 1])."""

    slots = ("x", "w", "b", "residual")

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x, w = image(inputs), present(inputs, 1)
        if len(w.shape) != 4 or w.shape[1:] != (x.shape[1], 1, 1):
            raise ModelError(f"a weight of shape {list(w.shape)} for {x.shape[1]} channels")
        check_vector(inputs, 2, w.shape[0])
        return self._check_residual(inputs, 3, Value((x.shape[0], w.shape[0], *self._spatial(x)), x.dtype))

    def lower(self, context: Lowering, node: Node) -> None:
        context.call(
            POOLED_POINTWISE,
            node,
            x=context.read(node.inputs[0]).nhwc,
            weight=context.matrix(pointwise.pack, context.constant(node, "w")),
            window=self.window,
            before=Prologue(act=self.pre_act),
            after=after(context, node, self),
            precision=context.precision,
            out=context.write(node.output).nhwc,
        )


@dataclass(frozen=True, kw_only=True)
class Bottleneck(_Window):
    """Dense k×k convolution (conv_w is [Ch, Cin, kh, kw]) → `mid` activation → pointwise (w is [Cout, Ch + Cr, 1, 1]).

    The pointwise one may also read `rest`, of Cr channels, concatenated to the convolution's: before it (`rest_first`)
    or behind it. rest_in_place: its producer may write straight into such a concatenation (see `place_concat`).
    """

    slots = ("x", "conv_w", "conv_b", "w", "b", "residual", "pre_scale", "pre_shift", "rest")
    mid: Act = IDENTITY
    rest_first: bool = False
    rest_in_place: bool = False

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x, conv_w, w = image(inputs), present(inputs, 1), present(inputs, 3)
        rest = inputs[8] if len(inputs) > 8 else None
        if len(conv_w.shape) != 4 or len(w.shape) != 4 or conv_w.shape[1:] != (x.shape[1], *self.kernel):
            raise ModelError(f"weights {list(conv_w.shape)} and {list(w.shape)} do not fit {x.shape[1]} channels")
        hidden, columns = fixed(conv_w.shape[0]), w.shape[0]
        size = self._spatial(x)
        if rest is not None and (len(rest.shape) != 4 or (rest.shape[0], *rest.shape[2:]) != (x.shape[0], *size)):
            raise ModelError(f"cannot join {list(rest.shape)} to images of {list(size)} pixels")
        joined = hidden + (0 if rest is None else fixed(rest.shape[1]))
        if w.shape[1:] != (joined, 1, 1):
            raise ModelError(f"a weight of shape {list(w.shape)} for {joined} channels")
        for slot, length in ((2, hidden), (4, columns), (6, x.shape[1]), (7, x.shape[1])):
            check_vector(inputs, slot, length)
        return self._check_residual(inputs, 5, Value((x.shape[0], columns, *size), x.dtype))

    def place(self, context: Lowering, node: Node) -> None:
        if self.rest_in_place and not self._one_launch(context, node):
            context.alias(node.get("rest"), self._joined(context, node)[2])

    def lower(self, context: Lowering, node: Node) -> None:
        conv_weight = context.matrix(conv2d.pack, context.constant(node, "conv_w"), groups=1)
        weight = context.matrix(pointwise.pack, context.constant(node, "w"))
        conv_bias, pre = context.vector(node.get("conv_b")), before(context, node, self.pre_act)
        end, out = after(context, node, self), context.write(node.output).nhwc
        common = {"window": self.window, "before": pre, "precision": context.precision}
        rest = node.get("rest")
        if self._one_launch(context, node):
            context.call(
                BOTTLENECK,
                node,
                x=context.dense(node, node.inputs[0]),
                conv_weight=conv_weight,
                weight=weight,
                conv_bias=conv_bias,
                rest=context.dense(node, rest) if rest else None,
                rest_first=self.rest_first,
                mid=self.mid,
                after=end,
                out=out,
                **common,
            )
            return
        joined, hidden, beside = self._joined(context, node)
        if rest and context.read(rest) != beside:
            context.call(ELEMENTWISE, node, x=context.read(rest).nhwc, out=beside.nhwc)
        x, middle = context.read(node.inputs[0]).nhwc, Epilogue(conv_bias, self.mid)
        context.call(CONV2D, node, x=x, weight=conv_weight, after=middle, out=hidden.nhwc, **common)
        product = {"weight": weight, "after": end, "precision": context.precision}
        context.call(POINTWISE, node, ("outs",), x=joined.nhwc, outs=(out,), **product)

    def _one_launch(self, context: Lowering, node: Node) -> bool:
        """Whether one kernel does it all. Batches that tiles are planned together for decide alike: a net compiled for
        them serves all sizes."""
        hidden, channels = (int(d) for d in context.graph.shape(node.get("conv_w"))[:2])
        batch, columns, height, width = context.shape(node.output)
        return pays(
            nearest_planned(batch) * height * width,
            channels,
            hidden,
            int(context.graph.shape(node.get("w"))[1]) - hidden,
            columns,
            taps=self.window.taps,
            read=channels * math.prod(self.stride),
            residual=bool(node.get("residual")),
            itemsize=ITEMSIZE[context.storage],
            device=context.target.device,
        )

    def _joined(self, context: Lowering, node: Node) -> tuple[View, View, View]:
        """For two launches: what the 1×1 reads, and the convolution's and the rest's channels of that."""
        hidden, channels = int(context.graph.shape(node.get("conv_w"))[0]), int(context.graph.shape(node.get("w"))[1])
        n, _, h, w = context.shape(node.output)
        whole = context.scratch(node, (n, channels, h, w))
        if self.rest_first:
            return whole, whole.part(1, channels - hidden, hidden), whole.part(1, 0, channels - hidden)
        return whole, whole.part(1, 0, hidden), whole.part(1, hidden, channels - hidden)


@dataclass(frozen=True, kw_only=True)
class Pool(_Window):
    """Max or average pooling; `mode` is 'max' or 'average'. Average divides by the pixels inside the image,
    or by the whole window with count_include_pad."""

    slots = ("x", "b", "residual")
    mode: str
    count_include_pad: bool = False

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = image(inputs)
        return self._check_residual(inputs, 2, Value((*x.shape[:2], *self._spatial(x)), x.dtype))

    def lower(self, context: Lowering, node: Node) -> None:
        context.call(
            POOL,
            node,
            x=context.read(node.inputs[0]).nhwc,
            kind=self.mode,
            window=self.window,
            count_include_pad=self.count_include_pad,
            before=Prologue(act=self.pre_act),
            after=after(context, node, self),
            out=context.write(node.output).nhwc,
        )


Windowed = Conv | Separable | PooledPointwise | Bottleneck | Pool


@dataclass(frozen=True, kw_only=True)
class GlobalPool(Op):
    """Max or average over H and W, kept as N×C×1×1."""

    slots = ("x", "pre_scale", "pre_shift")
    mode: str
    pre_act: Act = IDENTITY
    act: Act = IDENTITY

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = image(inputs)
        return (Value((*x.shape[:2], 1, 1), x.dtype),)

    def lower(self, context: Lowering, node: Node) -> None:
        x, out = context.read(node.inputs[0]).nhwc, context.write(node.output).nhwc
        pre = before(context, node, self.pre_act)
        context.call(GLOBAL_POOL, node, x=x, out=out, kind=self.mode, before=pre, act=self.act)


@dataclass(frozen=True, kw_only=True)
class Affine(Op):
    """act(x * scale + shift), scale and shift of [C] along axis 1."""

    slots = ("x", "scale", "shift")
    act: Act = IDENTITY

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = present(inputs, 0)
        for slot in (1, 2):
            if len(x.shape) < 2 or present(inputs, slot).shape != (x.shape[1],):
                raise ModelError(f"{self.slots[slot]} does not have one value a channel of {list(x.shape)}")
        return (x,)

    def lower(self, context: Lowering, node: Node) -> None:
        x, out = rows(context.read(node.inputs[0])), rows(context.write(node.output))
        pre = Prologue(context.vector(node.get("scale")), context.vector(node.get("shift")), self.act)
        context.call(ELEMENTWISE, node, x=x, out=out, before=pre)


@dataclass(frozen=True, kw_only=True)
class BatchNorm(Op):
    """(x - mean) / sqrt(var + epsilon) * scale + b, as ONNX BatchNormalization at inference."""

    slots = ("x", "scale", "b", "mean", "var")
    epsilon: float = 1e-5

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = present(inputs, 0)
        for slot in range(1, 5):
            if len(x.shape) < 2 or present(inputs, slot).shape != (x.shape[1],):
                raise ModelError(f"{self.slots[slot]} does not have one value a channel of {list(x.shape)}")
        return (x,)


@dataclass(frozen=True, kw_only=True)
class Activation(Op):
    act: Act

    def lower(self, context: Lowering, node: Node) -> None:
        x, out = rows(context.read(node.inputs[0])), rows(context.write(node.output))
        context.call(ELEMENTWISE, node, x=x, out=out, before=Prologue(act=self.act))


@dataclass(frozen=True, kw_only=True)
class Binary(Op):
    """post(x fn y) with numpy broadcasting; fn is 'add', 'sub', 'mul' or 'div'."""

    slots = ("x", "y")
    fn: str
    post: Act = IDENTITY

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x, y = present(inputs, 0), present(inputs, 1)
        return (Value(broadcast(x.shape, y.shape), x.dtype),)

    def lower(self, context: Lowering, node: Node) -> None:
        if self.fn not in ("add", "mul"):
            raise NoKernelError(f"no kernel for an elementwise {self.fn}")
        if any(value in context.graph.constants for value in node.inputs):
            raise NoKernelError("an operand is a constant of no per-channel form")
        x, y = node.inputs
        shape = context.shape(node.output)
        if context.shape(x) != shape:
            x, y = y, x
        if context.shape(x) != shape or context.shape(y) not in (shape, (*shape[:2], *(1 for _ in shape[2:]))):
            raise NoKernelError(f"broadcast of {list(context.shape(x))} and {list(context.shape(y))}")
        operands = {"x": rows(context.read(x)), "other": rows(context.read(y))}
        out = rows(context.write(node.output))
        context.call(ELEMENTWISE, node, **operands, out=out, combine=self.fn, post=self.post)


@dataclass(frozen=True, kw_only=True)
class Gemm(Op):
    """act(x @ w.T + b): x is [M, K], or images [M, C, H, W] of K = C·H·W elements each (`flatten`); w is [N, K]."""

    slots = ("x", "w", "b")
    act: Act = IDENTITY

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x, w = present(inputs, 0), present(inputs, 1)
        if len(x.shape) not in (2, 4) or len(w.shape) != 2 or math.prod(map(fixed, x.shape[1:])) != w.shape[1]:
            raise ModelError(f"cannot multiply {list(x.shape)} by the transpose of {list(w.shape)}")
        check_vector(inputs, 2, w.shape[0])
        return (Value((x.shape[0], w.shape[0]), x.dtype),)

    def lower(self, context: Lowering, node: Node) -> None:
        x, image = _flat(context.read(node.inputs[0]))
        context.call(
            DENSE,
            node,
            x=x,
            weight=context.matrix(dense.pack, context.constant(node, "w"), **image),
            bias=context.vector(node.get("b")),
            # Logits stay float32: a softmax or a user reads them, and there are few.
            out=context.write(node.output, dtype="float32"),
            act=self.act,
            precision=context.precision,
        )


@dataclass(frozen=True, kw_only=True)
class MatMul(Op):
    slots = ("x", "y")

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x, y = present(inputs, 0), present(inputs, 1)
        if len(x.shape) < 2 or len(y.shape) < 2 or x.shape[-1] != y.shape[-2]:
            raise ModelError(f"cannot multiply {list(x.shape)} by {list(y.shape)}")
        return (Value((*broadcast(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-1]), x.dtype),)


@dataclass(frozen=True, kw_only=True)
class Concat(Op):
    """Concatenation of any number of inputs along `axis` (not negative).

    in_place: one flag an input, true where its producer writes straight into the output's channels (`place_concat`);
    the others are copied there. Empty: all are.
    """

    axis: int
    in_place: tuple[bool, ...] = ()

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        first = present(inputs, 0)
        total = 0
        for value in inputs:
            if value is None or len(value.shape) != len(first.shape):
                raise ModelError("inputs of different rank")
            size = value.shape[self.axis]
            rest = [d for i, d in enumerate(value.shape) if i != self.axis]
            if not isinstance(size, int) or rest != [d for i, d in enumerate(first.shape) if i != self.axis]:
                raise ModelError(f"cannot join {list(value.shape)} to {list(first.shape)} along axis {self.axis}")
            total += size
        return (Value((*first.shape[: self.axis], total, *first.shape[self.axis + 1 :]), first.dtype),)

    def place(self, context: Lowering, node: Node) -> None:
        if not any(self.in_place):
            return
        for value, part, in_place in zip(node.inputs, self._parts(context, node), self.in_place, strict=True):
            if in_place:
                context.alias(value, part)

    def lower(self, context: Lowering, node: Node) -> None:
        if self.axis != 1 or len(context.shape(node.output)) != 4:
            raise NoKernelError(f"concat along axis {self.axis} of rank {len(context.shape(node.output))}")
        if any(value in context.graph.constants for value in node.inputs):
            raise NoKernelError("it joins a constant")
        for i, (value, part) in enumerate(zip(node.inputs, self._parts(context, node), strict=True)):
            if not (self.in_place and self.in_place[i]):
                context.call(ELEMENTWISE, node, x=context.read(value).nhwc, out=part.nhwc)

    def _parts(self, context: Lowering, node: Node) -> list[View]:
        """The channels of the output that are each input's."""
        whole, parts, start = context.write(node.output), [], 0
        for value in node.inputs:
            channels = context.shape(value)[1]
            parts.append(whole.part(1, start, channels))
            start += channels
        return parts


@dataclass(frozen=True, kw_only=True)
class Split(Op):
    """Consecutive pieces of the given sizes along `axis` (not negative), one output each."""

    axis: int
    sizes: tuple[int, ...]

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = present(inputs, 0)
        if sum(self.sizes) != x.shape[self.axis]:
            raise ModelError(f"pieces {list(self.sizes)} of an axis of {x.shape[self.axis]}")
        return tuple(Value((*x.shape[: self.axis], s, *x.shape[self.axis + 1 :]), x.dtype) for s in self.sizes)

    def lower(self, context: Lowering, node: Node) -> None:
        view, start = context.read(node.inputs[0]), 0
        for value, size in zip(node.outputs, self.sizes, strict=True):
            context.alias(value, view.part(self.axis, start, size))
            start += size


@dataclass(frozen=True, kw_only=True)
class Slice(Op):
    """x[start:stop:step] along each of `axes`, in ONNX's meaning (negative from the end, clamped)."""

    starts: tuple[int, ...]
    ends: tuple[int, ...]
    axes: tuple[int, ...]
    steps: tuple[int, ...]

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = present(inputs, 0)
        shape = list(x.shape)
        for start, end, axis, step in zip(self.starts, self.ends, self.axes, self.steps, strict=True):
            size = shape[axis]
            if not isinstance(size, int):
                raise ModelError(f"cannot slice the symbolic dimension '{size}'")
            shape[axis] = len(range(size)[slice(start, end if step > 0 or end >= -size else None, step)])
        return (Value(tuple(shape), x.dtype),)

    def lower(self, context: Lowering, node: Node) -> None:
        view = context.read(node.inputs[0])
        if min(self.steps) < 0:
            raise NoKernelError("a slice with a negative step")
        strides, offset = list(view.strides), view.offset
        for start, axis, step in zip(self.starts, self.axes, self.steps, strict=True):
            size = view.shape[axis]
            offset += min(max(start + size if start < 0 else start, 0), size) * view.strides[axis]
            strides[axis] *= step
        sliced = replace(view, shape=context.shape(node.output), strides=tuple(strides), offset=offset)
        context.alias(node.output, sliced)


@dataclass(frozen=True, kw_only=True)
class Reshape(Op):
    """Reshape to `shape`: at most one -1 (what is left); a symbol stands for itself."""

    shape: Shape

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = present(inputs, 0)
        return (Value(reshaped(x.shape, self.shape), x.dtype),)

    def lower(self, context: Lowering, node: Node) -> None:
        view, shape = context.read(node.inputs[0]), context.shape(node.output)
        kept = [(d, s) for d, s in zip(view.shape, view.strides, strict=True) if d != 1]
        if [d for d, _ in kept] != [d for d in shape if d != 1]:
            raise NoKernelError(f"reshape {list(view.shape)} to {list(shape)} moves data")
        # Only ones come and go. Their stride is never used; the next one's keeps the view regular.
        strides: list[int] = []
        for d in reversed(shape):
            strides.append(kept.pop()[1] if d != 1 else strides[-1] if strides else 1)
        context.alias(node.output, replace(view, shape=shape, strides=tuple(reversed(strides))))


@dataclass(frozen=True, kw_only=True)
class Transpose(Op):
    perm: tuple[int, ...]

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = present(inputs, 0)
        if sorted(self.perm) != list(range(len(x.shape))):
            raise ModelError(f"perm {list(self.perm)} does not permute {list(x.shape)}")
        return (Value(tuple(x.shape[p] for p in self.perm), x.dtype),)

    def lower(self, context: Lowering, node: Node) -> None:
        context.alias(node.output, context.read(node.inputs[0]).permute(*self.perm))


@dataclass(frozen=True, kw_only=True)
class Softmax(Op):
    axis: int  # not negative

    def lower(self, context: Lowering, node: Node) -> None:
        shape = context.shape(node.inputs[0])
        if self.axis != 1 or math.prod(shape[2:]) != 1:
            raise NoKernelError(f"softmax over axis {self.axis} of rank {len(shape)}")
        x, out = context.read(node.inputs[0]), context.write(node.output, dtype="float32")
        x, out = (replace(view, shape=view.shape[:2], strides=view.strides[:2]) for view in (x, out))
        context.call(SOFTMAX, node, x=x, out=out)


@dataclass(frozen=True, kw_only=True)
class LRN(Op):
    """x / (bias + alpha/size * sum of squares over `size` neighbouring channels) ** beta."""

    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    bias: float = 1.0

    def lower(self, context: Lowering, node: Node) -> None:
        if len(context.shape(node.output)) != 4:
            raise NoKernelError(f"LRN of rank {len(context.shape(node.output))}")
        x, out = context.read(node.inputs[0]).nhwc, context.write(node.output).nhwc
        options = {"size": self.size, "alpha": self.alpha, "beta": self.beta, "bias": self.bias}
        context.call(kernel.LRN, node, x=x, out=out, **options)


@dataclass(frozen=True, kw_only=True)
class Pad(Op):
    """Padding with `value`, or in mode 'edge' with the nearest element; `pads` is begins then ends, one of each an
    axis. Negative crops."""

    pads: tuple[int, ...]
    value: float = 0.0
    mode: str = "constant"

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = present(inputs, 0)
        rank = len(x.shape)
        shape: list[Dim] = []
        for size, begin, end in zip(x.shape, self.pads[:rank], self.pads[rank:], strict=True):
            if isinstance(size, str) and (begin or end):
                raise ModelError(f"cannot pad the symbolic dimension '{size}'")
            shape.append(size if isinstance(size, str) else size + begin + end)
        return (Value(tuple(shape), x.dtype),)

    def lower(self, context: Lowering, node: Node) -> None:
        if len(self.pads) != 8 or any(self.pads[i] for i in (0, 1, 4, 5)):
            raise NoKernelError("it pads other axes than height and width")
        x, out = context.read(node.inputs[0]).nhwc, context.write(node.output).nhwc
        options = {"begin": self.pads[2:4], "value": self.value, "edge": self.mode == "edge"}
        context.call(PAD, node, x=x, out=out, **options)


@dataclass(frozen=True, kw_only=True)
class Reduce(Op):
    """`mode` is 'mean', 'max', 'min' or 'sum'; axes are not negative."""

    mode: str
    axes: tuple[int, ...]
    keepdims: bool

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = present(inputs, 0)
        shape = [1 if i in self.axes else d for i, d in enumerate(x.shape) if self.keepdims or i not in self.axes]
        return (Value(tuple(shape), x.dtype),)


@dataclass(frozen=True, kw_only=True)
class Cast(Op):
    to: str  # numpy dtype name

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        return (Value(present(inputs, 0).shape, self.to),)


@dataclass(frozen=True, kw_only=True)
class Identity(Op):
    def lower(self, context: Lowering, node: Node) -> None:
        context.alias(node.output, context.read(node.inputs[0]))


@dataclass(frozen=True, kw_only=True)
class Opaque(Op):
    """Any other ONNX operator, kept as it came (`proto`: its serialized NodeProto) and run by ONNX's own reference
    implementation. `values` holds the outputs' shapes, found at import."""

    op_type: str
    domain: str
    proto: bytes
    values: tuple[Value, ...]

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        return self.values

    @property
    def kind(self) -> str:
        return self.op_type


def _flat(view: View) -> tuple[View, dict[str, Any]]:
    """A view of [M, K] or M images as rows, and what the weight's packing must know of the order in a row."""
    if len(view.shape) == 2:
        return view, {}
    m, c, h, w = view.shape
    row = replace(view, shape=(m, c * h * w), strides=(view.strides[0], 1))
    if view.strides[1:] == contiguous(view.shape[1:]):
        return row, {}
    if view.strides[1:] != (1, w * c, c):
        raise NoKernelError(f"images of strides {list(view.strides)} do not lie in one piece")
    return row, {"image": (c, h, w)}
