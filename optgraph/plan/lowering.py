"""Lowering: a fused Graph becomes a Plan for one batch size and dtype.

Walks the graph once. Every value gets a View; images lie N×H×W×C in memory whatever their meaning, so a Transpose,
a channel Split and an N×C×1×1 Reshape are just other views, and the producers of an in-place Concat are handed
slices of its buffer. What has no kernel becomes a fallback call, run by the torch reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from optgraph import ops
from optgraph.base.errors import InputError, ModelError, NoKernelError
from optgraph.ir.graph import Graph, Node
from optgraph.ir.op import Op
from optgraph.ir.values import BATCH, IDENTITY, Act, Value
from optgraph.kernels.frame.bottleneck_tiles import pays
from optgraph.kernels.frame.choice import planned_batch
from optgraph.plan.memory import Lifetime, allocate
from optgraph.plan.plan import ITEMSIZE, Call, Fallback, Packed, Plan, Schedule, View
from optgraph.plan.schedule import dependences, streams, waves

STORAGE = {"fp32": "float32", "tf32": "float32", "fp16": "float16", "bf16": "bfloat16"}
KERNELS = "optgraph.kernels."


def lower(graph: Graph, batch: int = 1, dtype: str = "fp32") -> Plan:
    """Lowers `graph` for `batch` images. dtype: 'fp32' (IEEE products), 'tf32', 'fp16' or 'bf16'; sums are fp32.

    Raises InputError for an unknown dtype or a batch that the model fixes otherwise.
    """
    check_dtype(dtype)
    batch = fitting_batch({name: graph.values[name] for name in graph.inputs}, batch)
    return Lowering(graph, batch, dtype).plan()


def check_dtype(dtype: str) -> None:
    """Raises InputError for an unknown dtype."""
    if dtype not in STORAGE:
        raise InputError(f"unknown dtype '{dtype}': use {', '.join(STORAGE)}")


def fitting_batch(inputs: Mapping[str, Value], batch: int) -> int:
    """`batch`, or the size the model fixes. Raises InputError if another than that or 1 was asked for."""
    if batch < 1:
        raise InputError(f"batch {batch}: a batch has at least one image")
    shapes = [value.shape for value in inputs.values()]
    if any(BATCH in shape for shape in shapes) or not shapes[0]:
        return batch
    fixed = int(shapes[0][0])
    if batch not in (1, fixed):
        raise InputError(f"batch {batch}: the model fixes it to {fixed}; compile it with an input shape of N,...")
    return fixed


class Lowering:
    """The state of one lowering; what an op's `lower(context, node)` gets as its context."""

    def __init__(self, graph: Graph, batch: int, dtype: str) -> None:
        self.graph = graph
        self.batch = batch
        self.dtype = dtype
        self.storage = STORAGE[dtype]
        self.precision = "tf32" if dtype == "tf32" else "ieee"
        self._views: dict[str, View] = {}
        self._sizes: dict[str, int] = {}  # arena buffer -> bytes
        self._packed: dict[str, Packed] = {}
        self._scratch: dict[str, View] = {}  # by node
        self._calls: list[Call] = []
        self._fallbacks: list[Fallback] = []

    # ---- for an op's lowering

    def shape(self, value: str) -> tuple[int, ...]:
        """The value's shape with the batch filled in."""
        dims: list[int] = []
        for d in self.graph.shape(value):
            if isinstance(d, str) and d != BATCH:
                raise ModelError(f"the shape of '{value}' is not known ({d}): fix the input shape (--input-shape)")
            dims.append(self.batch if isinstance(d, str) else d)
        return tuple(dims)

    def read(self, value: str) -> View:
        """Where `value` is, axes in their ONNX order."""
        return self._views[value]

    def write(self, value: str, dtype: str | None = None) -> View:
        """Where to put `value`: its slice of a concat, or a new arena buffer (channels last)."""
        if value not in self._views:
            self._views[value] = self._buffer(value, self.shape(value), dtype or self._value_dtype(value))
        return self._views[value]

    def alias(self, value: str, view: View) -> None:
        """`value` is where `view` is; nothing runs."""
        self._views[value] = view

    def weight(
        self, pack: str, *sources: str, dtype: str | None = None, precision: str = "ieee", **options: Any
    ) -> str:
        """A weight packed by `pack` ('module:function') from the named constants; equal requests share one."""
        packed = Packed(pack, sources, dtype or self.storage, options, precision)
        key = f"{pack.rpartition(':')[2]}({', '.join(sources)}, {packed.dtype}, {precision}, {options})"
        self._packed[key] = packed
        return key

    def matrix(self, pack: str, *sources: str, **options: Any) -> str:
        """A weight that tensor cores multiply."""
        return self.weight(pack, *sources, precision=self.precision, **options)

    def vector(self, value: str) -> str:
        """A bias, scale or shift, kept in float32."""
        return self.weight("optgraph.plan.weights:as_is", value, dtype="float32")

    def call(
        self,
        kernel: str,
        node: Node,
        reads: Mapping[str, View],
        writes: Mapping[str, View | tuple[View, ...]],
        weights: Mapping[str, str] | None = None,
        /,
        **options: Any,
    ) -> None:
        """Emits one launch of `kernel` ('module:launcher'). Activations left at identity are not passed."""
        options = {k: v for k, v in options.items() if not (isinstance(v, Act) and v == IDENTITY)}
        self._calls.append(Call(kernel, node.name, dict(reads), dict(writes), dict(weights or {}), options))

    def fallback(self, node: Node, reason: str) -> None:
        """Runs the node through the torch reference."""
        reads, weights = {}, {}
        for slot, value in enumerate(node.inputs):
            if value in self.graph.constants:
                weights[f"_{slot}"] = self.weight(
                    "optgraph.plan.weights:as_is", value, dtype=self._constant_dtype(self.graph.values[value].dtype)
                )
            elif value:
                reads[f"_{slot}"] = self.read(value)
        writes = {f"out{i}": self.write(value) for i, value in enumerate(node.outputs)}
        options = {"op": node.op, "opsets": {**self.graph.domains, "": self.graph.opset}}
        self._calls.append(Call("optgraph.run.engine:fallback", node.name, reads, dict(writes), weights, options))
        self._fallbacks.append(Fallback(node.name, node.op.kind, reason))

    def dense(self, node: Node, value: str) -> View:
        """`value` as N×H×W×C with pixels at an even pitch, as a residual must be; copied if it is not."""
        view = self.read(value).nhwc
        n, h, w, _ = view.shape
        sn, sh, sw, sc = view.strides
        if sc == 1 and (h == 1 or sh == w * sw) and (n == 1 or sn == h * w * sw):
            return view
        copy = self._buffer(self._name(f"{value}:dense"), self.shape(value), self.storage)
        self.call(KERNELS + "elementwise:elementwise", node, {"x": view}, {"out": copy.nhwc})
        return copy.nhwc

    def scratch(self, node: Node, shape: tuple[int, ...]) -> View:
        """A buffer of the node's own, for what lies between its launches; the same whenever it is asked for."""
        if node.name not in self._scratch:
            self._scratch[node.name] = self._buffer(self._name(f"{node.name}:scratch"), shape, self.storage)
        return self._scratch[node.name]

    # ---- the walk

    def plan(self) -> Plan:
        inputs = {}
        for name in self.graph.inputs:
            shape = self.shape(name)
            inputs[name] = self._views[name] = View(name, shape, _contiguous(shape), self.graph.values[name].dtype)
        for node in reversed(self.graph.nodes()):  # a Concat within a Concat takes its place from the outer one
            if isinstance(node.op, ops.Concat):
                self._place(node)
            elif isinstance(node.op, ops.Bottleneck) and node.op.rest_in_place and not _one_launch(self, node):
                self._views[node.get("rest")] = _joined(self, node)[2]
        for node in self.graph.nodes():
            self._lower(node)
        outputs = {}
        for public, value in self.graph.outputs.items():
            if value in self.graph.constants:
                raise ModelError(f"output '{public}' does not depend on the input")
            outputs[public] = self.read(value)
        needs = dependences(self._calls)
        wave = waves(needs)
        offsets, arena = allocate(self._lifetimes(outputs, wave))
        blocks = {name: (offset, offset + self._sizes[name]) for name, offset in offsets.items()}
        produced = [value for node in self.graph.nodes() for value in node.outputs]
        return Plan(
            batch=self.batch,
            dtype=self.dtype,
            arena_bytes=arena,
            offsets=offsets,
            inputs=inputs,
            outputs=outputs,
            packed=self._packed,
            calls=tuple(self._calls),
            schedule=Schedule(wave, *streams(self._calls, needs, blocks)),
            results={value: self._views[value] for value in produced},
            fallbacks=tuple(self._fallbacks),
        )

    def _lower(self, node: Node) -> None:
        function = _LOWER.get(type(node.op))
        try:
            if function is not None:
                function(self, node)
            else:
                node.op.lower(self, node)
        except NoKernelError as error:
            self.fallback(node, str(error) or f"no kernel for {node.op.kind}")

    def _place(self, node: Node) -> None:
        """Hands the producers of an in-place Concat their slices of its buffer."""
        assert isinstance(node.op, ops.Concat)
        if not any(node.op.in_place):
            return
        whole = self.write(node.output)
        offset = 0
        for value, in_place in zip(node.inputs, node.op.in_place, strict=True):
            shape = self.shape(value)
            if in_place:
                self._views[value] = replace(whole, shape=shape, offset=whole.offset + offset * whole.strides[1])
            offset += shape[1]

    def _lifetimes(self, outputs: Mapping[str, View], wave: Sequence[int]) -> list[Lifetime]:
        """From wave to wave, not call to call: what calls of one wave use is apart, so that they can run together."""
        first: dict[str, int] = {}
        last: dict[str, int] = {}
        for i, call in zip(wave, self._calls, strict=True):
            for view in (*call.reads.values(), *call.written()):
                first.setdefault(view.base, i)
                last[view.base] = i
        for view in outputs.values():
            last[view.base] = len(self._calls)
        return [Lifetime(name, size, first[name], last[name]) for name, size in self._sizes.items() if name in first]

    def _buffer(self, name: str, shape: tuple[int, ...], dtype: str) -> View:
        self._sizes[name] = math.prod(shape) * ITEMSIZE[dtype]
        if len(shape) != 4:
            return View(name, shape, _contiguous(shape), dtype)
        n, c, h, w = shape
        return View(name, (n, h, w, c), _contiguous((n, h, w, c)), dtype).permute(0, 3, 1, 2)

    def _name(self, hint: str) -> str:
        name, i = hint, 0
        while name in self._sizes or name in self.graph.values:
            i += 1
            name = f"{hint}.{i}"
        return name

    def _value_dtype(self, value: str) -> str:
        return self._constant_dtype(self.graph.values[value].dtype)

    def _constant_dtype(self, dtype: str) -> str:
        return self.storage if dtype.startswith(("float", "bfloat")) else dtype


def _contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


# ---- operators with kernels


def _prologue(context: Lowering, node: Node) -> dict[str, str]:
    return {slot: context.vector(node.get(slot)) for slot in ("pre_scale", "pre_shift") if node.get(slot)}


def _bias(context: Lowering, node: Node, slot: str = "b", name: str = "bias") -> dict[str, str]:
    value = node.get(slot)
    if value and value not in context.graph.constants:
        raise NoKernelError("its bias is computed, not constant")
    return {name: context.vector(value) if value else ""}


def _operands(context: Lowering, node: Node) -> dict[str, View]:
    reads = {"x": context.read(node.inputs[0]).nhwc}
    if node.get("residual"):
        reads["residual"] = context.dense(node, node.get("residual"))
    return reads


def _constant_weight(context: Lowering, node: Node, slot: str) -> str:
    value = node.get(slot)
    if value not in context.graph.constants:
        raise NoKernelError("its weight is computed, not constant")
    return value


def _conv(context: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, ops.Conv)
    w = _constant_weight(context, node, "w")
    channels = context.shape(node.inputs[0])[1]
    common: dict[str, Any] = {"stride": op.stride, "pre_act": op.pre_act, "post": op.post}
    window: dict[str, Any] = {"pads": op.pads, "dilation": op.dilation, "act": op.act}
    weights = {**_bias(context, node), **_prologue(context, node)}
    reads = _operands(context, node)
    out = context.write(node.output).nhwc
    if op.pointwise:
        weights["weight"] = context.matrix(KERNELS + "pointwise:pack", w)
        context.call(
            KERNELS + "pointwise:pointwise",
            node,
            reads,
            {"outs": (out,)},
            weights,
            acts=(op.act,),
            precision=context.precision,
            **common,
        )
    elif op.depthwise(channels) and context.shape(node.output)[1] == channels:
        weights["weight"] = context.weight(KERNELS + "depthwise:pack", w)
        context.call(KERNELS + "depthwise:depthwise", node, reads, {"out": out}, weights, **common, **window)
    else:
        weights["weight"] = context.matrix(KERNELS + "conv2d:pack", w, groups=op.groups)
        context.call(
            KERNELS + "conv2d:conv2d",
            node,
            reads,
            {"out": out},
            weights,
            groups=op.groups,
            precision=context.precision,
            **common,
            **window,
        )


def _merged_pointwise(context: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, ops.MergedPointwise)
    kernels, biases = node.inputs[3::2], node.inputs[4::2]
    if any(w not in context.graph.constants for w in kernels):
        raise NoKernelError("its weight is computed, not constant")
    weights = {**_prologue(context, node), "weight": context.matrix(KERNELS + "pointwise:pack", *kernels)}
    sizes = tuple(s.channels for s in op.segments)
    weights["bias"] = context.weight("optgraph.plan.weights:joined", *biases, dtype="float32", sizes=sizes)
    context.call(
        KERNELS + "pointwise:pointwise",
        node,
        {"x": context.read(node.inputs[0]).nhwc},
        {"outs": tuple(context.write(value).nhwc for value in node.outputs)},
        weights,
        stride=op.stride,
        acts=tuple(s.act for s in op.segments),
        pre_act=op.pre_act,
        precision=context.precision,
    )


def _separable(context: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, ops.Separable)
    weights = {
        **_bias(context, node),
        **_bias(context, node, "dw_b", "depthwise_bias"),
        **_prologue(context, node),
        "depthwise": context.weight(KERNELS + "separable:pack_depthwise", _constant_weight(context, node, "dw")),
        "weight": context.matrix(KERNELS + "pointwise:pack", _constant_weight(context, node, "w")),
    }
    context.call(
        KERNELS + "separable:separable",
        node,
        _operands(context, node),
        {"out": context.write(node.output).nhwc},
        weights,
        stride=op.stride,
        pads=op.pads,
        dilation=op.dilation,
        pre_act=op.pre_act,
        mid=op.mid,
        act=op.act,
        post=op.post,
        precision=context.precision,
    )


def _pooled_pointwise(context: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, ops.PooledPointwise)
    weight = context.matrix(KERNELS + "pointwise:pack", _constant_weight(context, node, "w"))
    context.call(
        KERNELS + "pooled_pointwise:pooled_pointwise",
        node,
        _operands(context, node),
        {"out": context.write(node.output).nhwc},
        {"weight": weight, **_bias(context, node)},
        kernel=op.kernel,
        stride=op.stride,
        pads=op.pads,
        dilation=op.dilation,
        pre_act=op.pre_act,
        act=op.act,
        post=op.post,
        precision=context.precision,
    )


def _one_launch(context: Lowering, node: Node) -> bool:
    """Whether a Bottleneck runs as one kernel. Batches that tiles are planned together for decide alike: a net
    compiled for them serves all sizes."""
    op = node.op
    assert isinstance(op, ops.Bottleneck)
    hidden, channels = (int(d) for d in context.graph.shape(node.get("conv_w"))[:2])
    batch, columns, height, width = context.shape(node.output)
    return pays(
        planned_batch(batch, "sm_90") * height * width,
        channels,
        hidden,
        int(context.graph.shape(node.get("w"))[1]) - hidden,
        columns,
        taps=math.prod(op.kernel),
        read=channels * math.prod(op.stride),
        residual=bool(node.get("residual")),
        itemsize=ITEMSIZE[context.storage],
    )


def _joined(context: Lowering, node: Node) -> tuple[View, View, View]:
    """For a Bottleneck of two launches: what its 1×1 reads, and the convolution's and the rest's channels of that."""
    op = node.op
    assert isinstance(op, ops.Bottleneck)
    hidden, channels = int(context.graph.shape(node.get("conv_w"))[0]), int(context.graph.shape(node.get("w"))[1])
    n, _, h, w = context.shape(node.output)
    whole = context.scratch(node, (n, channels, h, w))
    parts = (channels - hidden, hidden) if op.rest_first else (hidden, channels - hidden)
    first, second = replace(whole, shape=(n, parts[0], h, w)), replace(whole, shape=(n, parts[1], h, w))
    second = replace(second, offset=whole.offset + parts[0] * whole.strides[1])
    return (whole, second, first) if op.rest_first else (whole, first, second)


def _bottleneck(context: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, ops.Bottleneck)
    rest, x = node.get("rest"), context.read(node.inputs[0]).nhwc
    conv_weight = context.matrix(KERNELS + "conv2d:pack", _constant_weight(context, node, "conv_w"), groups=1)
    weight = context.matrix(KERNELS + "pointwise:pack", _constant_weight(context, node, "w"))
    conv_bias, bias = _bias(context, node, "conv_b", "bias"), _bias(context, node)
    residual = {slot: v for slot, v in _operands(context, node).items() if slot == "residual"}
    window: dict[str, Any] = {"stride": op.stride, "pads": op.pads, "dilation": op.dilation, "pre_act": op.pre_act}
    prologue, out = _prologue(context, node), context.write(node.output).nhwc
    if _one_launch(context, node):
        reads = {"x": context.dense(node, node.inputs[0]), **residual}
        if rest:
            reads["rest"] = context.dense(node, rest)
        weights = {"conv_weight": conv_weight, "conv_bias": conv_bias["bias"], "weight": weight, **bias, **prologue}
        options = {"mid": op.mid, "act": op.act, "post": op.post, "rest_first": op.rest_first}
        context.call(
            KERNELS + "bottleneck:bottleneck",
            node,
            reads,
            {"out": out},
            weights,
            precision=context.precision,
            **options,
            **window,
        )
        return
    joined, hidden, beside = _joined(context, node)
    if rest and context.read(rest) != beside:
        context.call(KERNELS + "elementwise:elementwise", node, {"x": context.read(rest).nhwc}, {"out": beside.nhwc})
    weights = {"weight": conv_weight, **conv_bias, **prologue}
    context.call(
        KERNELS + "conv2d:conv2d",
        node,
        {"x": x},
        {"out": hidden.nhwc},
        weights,
        groups=1,
        act=op.mid,
        precision=context.precision,
        **window,
    )
    context.call(
        KERNELS + "pointwise:pointwise",
        node,
        {"x": joined.nhwc, **residual},
        {"outs": (out,)},
        {"weight": weight, **bias},
        stride=(1, 1),
        acts=(op.act,),
        post=op.post,
        precision=context.precision,
    )


def _pool(context: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, ops.Pool)
    context.call(
        KERNELS + "pool:pool",
        node,
        _operands(context, node),
        {"out": context.write(node.output).nhwc},
        _bias(context, node),
        kind=op.mode,
        kernel=op.kernel,
        stride=op.stride,
        pads=op.pads,
        dilation=op.dilation,
        count_include_pad=op.count_include_pad,
        pre_act=op.pre_act,
        act=op.act,
        post=op.post,
    )


def _global_pool(context: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, ops.GlobalPool)
    x, out = context.read(node.inputs[0]).nhwc, context.write(node.output).nhwc
    weights = _prologue(context, node)
    acts = {"pre_act": op.pre_act, "act": op.act}
    context.call(KERNELS + "pool:global_pool", node, {"x": x}, {"out": out}, weights, kind=op.mode, **acts)


def _flat(view: View) -> tuple[View, dict[str, Any]]:
    """A view of [M, K] or M images as rows, and what the weight's packing must know of the order in a row."""
    if len(view.shape) == 2:
        return view, {}
    m, c, h, w = view.shape
    row = replace(view, shape=(m, c * h * w), strides=(view.strides[0], 1))
    if view.strides[1:] == _contiguous(view.shape[1:]):
        return row, {}
    if view.strides[1:] != (1, w * c, c):
        raise NoKernelError(f"images of strides {list(view.strides)} do not lie in one piece")
    return row, {"image": (c, h, w)}


def _gemm(context: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, ops.Gemm)
    x, image = _flat(context.read(node.inputs[0]))
    weights = {"weight": context.matrix(KERNELS + "head:pack", _constant_weight(context, node, "w"), **image)}
    # Logits stay float32: a softmax or a user reads them, and there are few.
    out = context.write(node.output, dtype="float32")
    context.call(
        KERNELS + "head:head",
        node,
        {"x": x},
        {"out": out},
        {**weights, **_bias(context, node)},
        act=op.act,
        precision=context.precision,
    )


def _lrn(context: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, ops.LRN)
    if len(context.shape(node.output)) != 4:
        raise NoKernelError(f"LRN of rank {len(context.shape(node.output))}")
    x, out = context.read(node.inputs[0]).nhwc, context.write(node.output).nhwc
    options = {"size": op.size, "alpha": op.alpha, "beta": op.beta, "bias": op.bias}
    context.call(KERNELS + "lrn:lrn", node, {"x": x}, {"out": out}, **options)


def _pad(context: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, ops.Pad)
    if len(op.pads) != 8 or any(op.pads[i] for i in (0, 1, 4, 5)):
        raise NoKernelError("it pads other axes than height and width")
    x, out = context.read(node.inputs[0]).nhwc, context.write(node.output).nhwc
    options = {"begin": op.pads[2:4], "value": op.value, "edge": op.mode == "edge"}
    context.call(KERNELS + "pad:pad", node, {"x": x}, {"out": out}, **options)


def _softmax(context: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, ops.Softmax)
    shape = context.shape(node.inputs[0])
    if op.axis != 1 or math.prod(shape[2:]) != 1:
        raise NoKernelError(f"softmax over axis {op.axis} of rank {len(shape)}")
    x, out = context.read(node.inputs[0]), context.write(node.output, dtype="float32")
    rows = [View(v.base, v.shape[:2], v.strides[:2], v.dtype, v.offset) for v in (x, out)]
    context.call(KERNELS + "head:softmax", node, {"x": rows[0]}, {"out": rows[1]})


def _rows(view: View) -> View:
    """An N×C×H×W or N×C view as N×H×W×C."""
    if len(view.shape) == 4:
        return view.nhwc
    if len(view.shape) != 2:
        raise NoKernelError(f"elementwise on rank {len(view.shape)}")
    (n, c), (sn, sc) = view.shape, view.strides
    return View(view.base, (n, 1, 1, c), (sn, sn, sn, sc), view.dtype, view.offset)


def _affine(context: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, ops.Affine)
    weights = {slot: context.vector(node.get(slot)) for slot in ("scale", "shift")}
    x, out = _rows(context.read(node.inputs[0])), _rows(context.write(node.output))
    context.call(KERNELS + "elementwise:elementwise", node, {"x": x}, {"out": out}, weights, act=op.act)


def _activation(context: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, ops.Activation)
    x, out = _rows(context.read(node.inputs[0])), _rows(context.write(node.output))
    context.call(KERNELS + "elementwise:elementwise", node, {"x": x}, {"out": out}, act=op.act)


def _binary(context: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, ops.Binary)
    if op.fn not in ("add", "mul"):
        raise NoKernelError(f"no kernel for an elementwise {op.fn}")
    if any(value in context.graph.constants for value in node.inputs):
        raise NoKernelError("an operand is a constant of no per-channel form")
    x, y = node.inputs
    shape = context.shape(node.output)
    if context.shape(x) != shape:
        x, y = y, x
    if context.shape(x) != shape or context.shape(y) not in (shape, (*shape[:2], *(1 for _ in shape[2:]))):
        raise NoKernelError(f"broadcast of {list(context.shape(x))} and {list(context.shape(y))}")
    context.call(
        KERNELS + "elementwise:elementwise",
        node,
        {"x": _rows(context.read(x)), "other": _rows(context.read(y))},
        {"out": _rows(context.write(node.output))},
        combine=op.fn,
        post=op.post,
    )


def _concat(context: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, ops.Concat)
    if op.axis != 1 or len(context.shape(node.output)) != 4:
        raise NoKernelError(f"concat along axis {op.axis} of rank {len(context.shape(node.output))}")
    if any(value in context.graph.constants for value in node.inputs):
        raise NoKernelError("it joins a constant")
    whole = context.write(node.output)
    offset = 0
    for i, value in enumerate(node.inputs):
        shape = context.shape(value)
        if not (op.in_place and op.in_place[i]):
            part = replace(whole, shape=shape, offset=whole.offset + offset * whole.strides[1])
            context.call(KERNELS + "elementwise:elementwise", node, {"x": context.read(value).nhwc}, {"out": part.nhwc})
        offset += shape[1]


# ---- operators that are only another view


def _transpose(context: Lowering, node: Node) -> None:
    assert isinstance(node.op, ops.Transpose)
    context.alias(node.output, context.read(node.inputs[0]).permute(*node.op.perm))


def _identity(context: Lowering, node: Node) -> None:
    context.alias(node.output, context.read(node.inputs[0]))


def _reshape(context: Lowering, node: Node) -> None:
    view, shape = context.read(node.inputs[0]), context.shape(node.output)
    kept = [(d, s) for d, s in zip(view.shape, view.strides, strict=True) if d != 1]
    if [d for d, _ in kept] != [d for d in shape if d != 1]:
        raise NoKernelError(f"reshape {list(view.shape)} to {list(shape)} moves data")
    # Only ones come and go. Their stride is never used; the next one's keeps the view regular.
    strides: list[int] = []
    for d in reversed(shape):
        strides.append(kept.pop()[1] if d != 1 else strides[-1] if strides else 1)
    context.alias(node.output, View(view.base, shape, tuple(reversed(strides)), view.dtype, view.offset))


def _split(context: Lowering, node: Node) -> None:
    assert isinstance(node.op, ops.Split)
    view, axis, offset = context.read(node.inputs[0]), node.op.axis, 0
    for value, size in zip(node.outputs, node.op.sizes, strict=True):
        shape = (*view.shape[:axis], size, *view.shape[axis + 1 :])
        context.alias(value, replace(view, shape=shape, offset=view.offset + offset * view.strides[axis]))
        offset += size


def _slice(context: Lowering, node: Node) -> None:
    assert isinstance(node.op, ops.Slice)
    op, view = node.op, context.read(node.inputs[0])
    if min(op.steps) < 0:
        raise NoKernelError("a slice with a negative step")
    strides, offset = list(view.strides), view.offset
    for start, axis, step in zip(op.starts, op.axes, op.steps, strict=True):
        size = view.shape[axis]
        offset += min(max(start + size if start < 0 else start, 0), size) * view.strides[axis]
        strides[axis] *= step
    context.alias(node.output, View(view.base, context.shape(node.output), tuple(strides), view.dtype, offset))


_LOWER: dict[type[Op], Callable[[Lowering, Node], None]] = {
    ops.Activation: _activation,
    ops.Affine: _affine,
    ops.Binary: _binary,
    ops.Bottleneck: _bottleneck,
    ops.Concat: _concat,
    ops.Conv: _conv,
    ops.Gemm: _gemm,
    ops.GlobalPool: _global_pool,
    ops.Identity: _identity,
    ops.LRN: _lrn,
    ops.MergedPointwise: _merged_pointwise,
    ops.Pad: _pad,
    ops.Pool: _pool,
    ops.PooledPointwise: _pooled_pointwise,
    ops.Reshape: _reshape,
    ops.Separable: _separable,
    ops.Slice: _slice,
    ops.Softmax: _softmax,
    ops.Split: _split,
    ops.Transpose: _transpose,
}
