"""Two operators in one launch: what fuse passes make of convolutions and pools beside or behind each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optgraph.base.dtypes import torch_dtype
from optgraph.base.errors import ModelError, NoKernelError
from optgraph.ir.op import Exporter, Inputs, Node, Op, Outputs, check_slope, check_vector, fixed, image, present
from optgraph.ir.quant import Quant
from optgraph.ir.values import IDENTITY, Act, Pair, Segment, Value, Window
from optgraph.kernels import pointwise, separable
from optgraph.kernels.depthwise import DEPTHWISE
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.pointwise import POINTWISE
from optgraph.kernels.pool import POOL
from optgraph.kernels.pooled_pointwise import POOLED_POINTWISE
from optgraph.kernels.separable import SEPARABLE
from optgraph.ops import computing, exporting
from optgraph.ops.lowered import after, before, fusion
from optgraph.ops.pool import emit_max_pool, max_pool
from optgraph.ops.products import Products, pack_pointwise
from optgraph.ops.rounding import rounded
from optgraph.ops.windowed import Windowed
from optgraph.plan.lowering import Lowering
from optgraph.plan.weights import joined_vectors


@dataclass(frozen=True, kw_only=True)
class MergedPointwise(Op):
    """Sibling 1×1 convolutions of one input as one product: inputs x, pre_scale, pre_shift, then w, b of each."""

    slots = ("x", "pre_scale", "pre_shift")
    writes_channels = True
    integers = True
    segments: tuple[Segment, ...]
    stride: Pair = (1, 1)
    pre_act: Act = IDENTITY

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = image(inputs)
        if len(inputs) != 3 + 2 * len(self.segments):
            raise ModelError(f"{len(self.segments)} segments need a weight and a bias each")
        size = Window((1, 1), self.stride).over(x.shape[2], x.shape[3])
        for i, segment in enumerate(self.segments):
            weight = present(inputs, 3 + 2 * i)
            if weight.shape != (segment.channels, x.shape[1], 1, 1):
                raise ModelError(f"segment {i} has a weight of shape {list(weight.shape)}")
        return tuple(Value((x.shape[0], s.channels, *size), x.dtype) for s in self.segments)

    def on_grid(self, grids: Sequence[Quant | None], output: int = 0) -> Quant | None:
        quants = self.segments[output].quants
        return quants[-1] if quants else None

    def export(self, to: Exporter, node: Node) -> None:
        """A Conv a segment."""
        x = exporting.prologue(to, node, self.pre_act)
        weights = [to.name(value) for value in node.inputs[3:]]
        for i, (segment, output) in enumerate(zip(self.segments, node.outputs, strict=True)):
            y = to.emit("Conv", [x, *weights[2 * i : 2 * i + 2]], kernel_shape=(1, 1), strides=self.stride)
            exporting.finish(to, output, y, segment.act, quants=segment.quants)

    def compute(self, inputs: Inputs) -> Outputs:
        x, scale, shift, *weights = self.per_slot(inputs)
        x = computing.scaled(x, scale, shift, self.pre_act)
        window = Window((1, 1), self.stride)
        pairs = zip(weights[::2], weights[1::2], self.segments, strict=True)
        parts = [(segment, segment.act.apply(computing.convolve(x, w, b, window))) for w, b, segment in pairs]
        return tuple(rounded(y, segment.quants) for segment, y in parts)

    def lower(self, context: Lowering, node: Node) -> None:
        kernels, biases = node.inputs[3::2], node.inputs[4::2]
        if any(w not in context.graph.constants for w in kernels):
            raise NoKernelError("its weight is computed, not constant")
        sizes = tuple(segment.channels for segment in self.segments)
        pre = before(context, node, self.pre_act)
        product = Products(context, node.inputs[0], pre, *kernels)
        end = Epilogue(context.weight(joined_vectors, *biases, dtype="float32", sizes=sizes))
        context.call(
            POINTWISE,
            node,
            ("outs",),
            x=context.read(node.inputs[0]).nhwc,
            weight=product.weight(pack_pointwise, pointwise.pack),
            outs=tuple(context.write(value).nhwc for value in node.outputs),
            stride=self.stride,
            acts=tuple(segment.act for segment in self.segments),
            quants=tuple(segment.quants for segment in self.segments if segment.quants),
            before=pre,
            after=product.after(end),
            precision=context.precision,
        )


@dataclass(frozen=True, kw_only=True)
class Separable(Windowed):
    """Depthwise k×k (dw is [C, 1, kh, kw]) → `mid` activation → pointwise (w is [Cout, C, 1, 1]): one launch, or two
    where that is predicted to be faster."""

    slots = ("x", "dw", "dw_b", "w", "b", "residual", "pre_scale", "pre_shift", "slope", "mid_slope")
    prologue_field = "pre_act"
    writes_channels = True
    takes_residual = 2
    mid: Act = IDENTITY

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x, dw, w = image(inputs), present(inputs, 1), present(inputs, 3)
        if dw.shape != (x.shape[1], 1, *self.kernel) or w.shape[1:] != (x.shape[1], 1, 1):
            raise ModelError(f"weights {list(dw.shape)} and {list(w.shape)} do not fit {x.shape[1]} channels")
        for slot, length in ((2, x.shape[1]), (4, w.shape[0]), (6, x.shape[1]), (7, x.shape[1])):
            check_vector(inputs, slot, length)
        check_slope(self, inputs, fixed(dw.shape[0]), self.mid, name="mid_slope")
        return self.infer_image(inputs, w.shape[0])

    def export(self, to: Exporter, node: Node) -> None:
        x = exporting.prologue(to, node, self.pre_act)
        dw, dw_b, w, b = (node.get(slot) for slot in ("dw", "dw_b", "w", "b"))
        channels = to.value(dw).shape[0]
        y = to.emit("Conv", [x, to.name(dw), to.name(dw_b)], group=channels, **self.window_attributes())
        y = exporting.activated(to, y, self.mid, to.value(node.output), node.get("mid_slope"))
        self.export_epilogue(to, node, to.emit("Conv", [y, to.name(w), to.name(b)], kernel_shape=(1, 1)))

    def compute(self, inputs: Inputs) -> Outputs:
        x, dw, dw_b, w, b, residual, scale, shift, slope, mid_slope = self.per_slot(inputs)
        x = computing.scaled(x, scale, shift, self.pre_act)
        x = computing.activated(computing.convolve(x, dw, dw_b, self.window, dw.shape[0]), self.mid, mid_slope)
        return self.compute_epilogue(computing.convolve(x, w, b), residual, slope)

    def lower(self, context: Lowering, node: Node) -> None:
        dw = context.weight(separable.pack_depthwise, context.constant(node, "dw"))
        w = context.matrix(pointwise.pack, context.constant(node, "w"))
        dw_b, mid_slope = context.vector(node.get("dw_b")), context.vector(node.get("mid_slope"))
        x, out = context.read(node.inputs[0]).nhwc, context.write(node.output).nhwc
        first = {"x": x, "window": self.window, "before": before(context, node, self.pre_act)}
        product = {"weight": w, "after": after(context, node, self), "precision": context.precision}
        if self._one_launch(context, node):
            middle = {"depthwise_bias": dw_b, "mid": self.mid, "mid_slope": mid_slope}
            context.call(SEPARABLE, node, depthwise=dw, out=out, **first, **middle, **product)
            return
        batch, _, *size = context.shape(node.output)
        between = context.scratch(node, (batch, context.shape(node.inputs[0])[1], *size)).nhwc
        context.call(DEPTHWISE, node, weight=dw, out=between, after=Epilogue(dw_b, self.mid, slope=mid_slope), **first)
        context.call(POINTWISE, node, ("outs",), x=between, outs=(out,), **product)

    def _one_launch(self, context: Lowering, node: Node) -> bool:
        """Whether one kernel does both."""
        found = fusion(context, node, self, SEPARABLE, hidden=context.shape(node.inputs[0])[1])
        predicted = separable.pays(
            found.image,
            found.columns,
            window=found.window,
            affine=found.affine,
            residual=found.residual,
            dtype=torch_dtype(context.storage),
            target=context.target,
        )
        return context.one_launch(node, found, predicted)


@dataclass(frozen=True, kw_only=True)
class PooledPointwise(Windowed):
    """Max pool over k×k windows → pointwise (w is [Cout, C, 1, 1])."""

    slots = ("x", "w", "b", "residual", "slope")
    writes_channels = True
    integers = True

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x, w = image(inputs), present(inputs, 1)
        if len(w.shape) != 4 or w.shape[1:] != (x.shape[1], 1, 1):
            raise ModelError(f"a weight of shape {list(w.shape)} for {x.shape[1]} channels")
        check_vector(inputs, 2, w.shape[0])
        return self.infer_image(inputs, w.shape[0])

    def export(self, to: Exporter, node: Node) -> None:
        y = emit_max_pool(to, node, self)
        w, b = (to.name(node.get(slot)) for slot in ("w", "b"))
        self.export_epilogue(to, node, to.emit("Conv", [y, w, b], kernel_shape=(1, 1)))

    def compute(self, inputs: Inputs) -> Outputs:
        x, w, b, residual, slope = self.per_slot(inputs)
        pooled = max_pool(self.pre_act.apply(x), self.window)
        return self.compute_epilogue(computing.convolve(pooled, w, b), residual, slope)

    def lower(self, context: Lowering, node: Node) -> None:
        x, quant = node.inputs[0], context.quant(node.inputs[0])
        before_it = Prologue(act=self.pre_act, quant=quant)
        product = Products(context, x, before_it, context.constant(node, "w"))
        if quant is not None and product.integers:  # which the kernel of both does not multiply
            out = context.write(node.output).nhwc
            batch, height, width, _ = out.shape
            pooled = context.scratch(node, (batch, context.shape(x)[1], height, width), dtype="int8").nhwc
            ends = {"before": before_it, "after": Epilogue(quants=(quant,))}
            context.call(POOL, node, x=context.read(x).nhwc, kind="max", window=self.window, out=pooled, **ends)
            weight, end = product.weight(pack_pointwise, pointwise.pack), product.after(after(context, node, self))
            context.call(POINTWISE, node, ("outs",), x=pooled, weight=weight, outs=(out,), before=before_it, after=end)
            return
        context.call(
            POOLED_POINTWISE,
            node,
            x=context.real(x).nhwc,
            weight=context.matrix(pointwise.pack, context.constant(node, "w")),
            window=self.window,
            before=Prologue(act=self.pre_act),
            after=after(context, node, self),
            precision=context.precision,
            out=context.write(node.output).nhwc,
        )


OPS = (MergedPointwise, Separable, PooledPointwise)
