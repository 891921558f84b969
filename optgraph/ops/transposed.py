"""Transposed convolution: what makes an image larger where a convolution would make it smaller.

    y[n, :, i * stride + k * dilation - begin] += x[n, :, i] @ w[:, :, k]

For the kernels it is an ordinary convolution. Output pixels at the same place within a stride form a phase, and see the
same taps of w: the convolution computes all phases of a pixel as channels, and a copy deals them out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

import onnx

from optgraph.base.errors import ModelError, NoKernelError
from optgraph.ir.op import (
    Exporter,
    Handlers,
    Importer,
    Inputs,
    Node,
    Op,
    Outputs,
    check_slope,
    check_vector,
    fixed,
    present,
)
from optgraph.ir.values import IDENTITY, Act, Value, Window
from optgraph.kernels import conv2d, pointwise
from optgraph.kernels.conv2d import CONV2D
from optgraph.kernels.frame.ends import Epilogue
from optgraph.kernels.frame.view import View
from optgraph.kernels.pointwise import POINTWISE
from optgraph.ops import computing, exporting
from optgraph.ops.lowered import copied
from optgraph.plan.lowering import Lowering

if TYPE_CHECKING:
    from torch import Tensor

MOST_PHASES = 1024  # each has weights of its own, most of them zeros where the stride is over the kernel


@dataclass(frozen=True, kw_only=True)
class ConvTranspose(Op):
    """act(transposed convolution of x + b); w is [Cin, Cout/groups, ...] for any number of spatial axes. slope: of a
    PRelu.

    pads: begins then ends, which are cut off. extra: as many more pixels at the end, ONNX's output_padding.
    """

    slots = ("x", "w", "b", "slope")
    writes_channels = True
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pads: tuple[int, ...]
    dilation: tuple[int, ...]
    extra: tuple[int, ...]
    groups: int = 1
    act: Act = IDENTITY

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x, w = present(inputs, 0), present(inputs, 1)
        if len(x.shape) != len(self.kernel) + 2 or w.shape[2:] != self.kernel:
            raise ModelError(f"weight of shape {list(w.shape)} does not fit {list(x.shape)}")
        cin, columns = w.shape[:2]
        if x.shape[1] != cin or not isinstance(cin, int) or cin % self.groups:
            raise ModelError(f"input has {x.shape[1]} channels, weight expects {cin} in {self.groups} groups")
        channels = fixed(columns) * self.groups
        check_vector(inputs, 2, channels)
        check_slope(self, inputs, channels, self.act)
        sizes = tuple(self._length(axis, fixed(size)) for axis, size in enumerate(x.shape[2:]))
        if min(sizes) < 1:
            raise ModelError(f"pads {list(self.pads)} leave nothing of {list(x.shape)}")
        return (Value((x.shape[0], channels, *sizes), x.dtype),)

    def _length(self, axis: int, size: int) -> int:
        pads = self.pads[axis] + self.pads[axis + len(self.kernel)]
        return (
            transposed_length(size, self.kernel[axis], self.stride[axis], self.dilation[axis]) - pads + self.extra[axis]
        )

    def epilogue_field(self, node: Node) -> str:
        return "act"

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        importer.add(ConvTranspose(**read_transposed(importer, node, attrs)), node.input)

    handlers: ClassVar[Handlers] = {"ConvTranspose": from_onnx}

    def export(self, to: Exporter, node: Node) -> None:
        window: dict[str, Any] = {"kernel_shape": self.kernel, "strides": self.stride, "dilations": self.dilation}
        ends: dict[str, Any] = {"pads": self.pads, "output_padding": self.extra}
        weights = [to.name(node.get(slot)) for slot in ("x", "w", "b")]
        y = to.emit("ConvTranspose", weights, group=self.groups, **window, **ends)
        exporting.finish(to, node.output, y, self.act, node.get("slope"))

    def compute(self, inputs: Inputs) -> Outputs:
        from torch.nn import functional as F

        x, w, b, slope = self.per_slot(inputs)
        rank = len(self.kernel)
        if not 1 <= rank <= 3:
            raise ModelError(f"a transposed convolution over {rank} axes")
        function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
        y = function(x, w, None, self.stride, 0, 0, self.groups, self.dilation)
        margins = [(-self.pads[axis], self.extra[axis] - self.pads[axis + rank]) for axis in reversed(range(rank))]
        y = F.pad(y, [margin for pair in margins for margin in pair])
        return (computing.activated(y if b is None else y + computing.channels(b, y), self.act, slope),)

    def lower(self, context: Lowering, node: Node) -> None:
        x, out, w = context.read(node.inputs[0]), context.write(node.output), context.constant(node, "w")
        op, vectors = self, [node.get("b"), node.get("slope")]
        if len(self.kernel) == 1:  # an image of one row
            x, out, op = _row(x), _row(out), self._of_a_row()
        elif len(self.kernel) != 2:
            raise NoKernelError(f"a transposed convolution over {len(self.kernel)} axes")
        if any(vector and vector not in context.graph.constants for vector in vectors):
            raise NoKernelError("its bias is computed, not constant")
        if op.stride[0] * op.stride[1] > MOST_PHASES:
            raise NoKernelError(f"a stride of {list(self.stride)} has too many phases")
        phases = Phases(op.kernel, op.stride, op.pads[:2], op.dilation)
        how: dict[str, Any] = {"phases": phases, "groups": self.groups}
        bias, slope = (context.weight(_vector, v, dtype="float32", **how) if v else None for v in vectors)
        ends = {"after": Epilogue(bias, self.act, slope=slope), "precision": context.precision}
        window = phases.window(x.shape[2:], out.shape[2:])
        height, width = window.over(*x.shape[2:])
        channels = out.shape[1] * op.stride[0] * op.stride[1]
        size = (x.shape[0], channels, int(height), int(width))
        whole = len(self.kernel) == 2 and size == out.shape  # of stride 1
        made = out if whole else context.scratch(node, size)
        if window == Window((1, 1)) and self.groups == 1:
            weight = context.matrix(_matrix, w, **how)
            context.call(POINTWISE, node, ("outs",), x=x.nhwc, weight=weight, outs=(made.nhwc,), **ends)
        else:
            weight = context.matrix(_kernels, w, **how)
            operands = {"x": x.nhwc, "weight": weight, "out": made.nhwc, "window": window, "groups": self.groups}
            context.call(CONV2D, node, **operands, **ends)
        if whole:
            return
        columns = out.shape[1] // self.groups
        dealt = made.split(1, columns).split(1, op.stride[1]).split(1, op.stride[0]).permute(0, 1, 4, 5, 2, 6, 3)
        for part, place in _dealt_out(dealt, out.split(1, columns), op.stride):
            copied(context, node, part, place)

    def _of_a_row(self) -> ConvTranspose:
        begin, end = self.pads
        return replace(
            self,
            kernel=(1, *self.kernel),
            stride=(1, *self.stride),
            pads=(0, begin, 0, end),
            dilation=(1, *self.dilation),
            extra=(0, *self.extra),
        )


def transposed_length(size: int, kernel: int, stride: int, dilation: int) -> int:
    """Of an axis, before anything is cut off."""
    return (size - 1) * stride + (kernel - 1) * dilation + 1


# ---- ONNX in


def read_transposed(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> dict[str, Any]:
    """The fields, with pads spelled out."""
    x, w = importer.shape(node.input[0]), importer.shape(node.input[1])
    kernel = [fixed(d) for d in attrs.get("kernel_shape", w[2:])]
    rank = len(kernel)
    stride, dilation = list(attrs.get("strides", [1] * rank)), list(attrs.get("dilations", [1] * rank))
    pads, extra = list(attrs.get("pads", [0] * 2 * rank)), list(attrs.get("output_padding", [0] * rank))
    if (len(x), len(stride), len(dilation), len(pads), len(extra)) != (rank + 2, rank, rank, 2 * rank, rank):
        raise ModelError(f"strides {stride}, dilations {dilation}, pads {pads}, output_padding {extra} for {rank} axes")
    if min(kernel + stride + dilation) < 1 or min(pads + extra) < 0:
        raise ModelError(f"kernel {kernel}, strides {stride}, dilations {dilation}, pads {pads} make no window")
    auto, shape = attrs.get("auto_pad", "NOTSET"), list(attrs.get("output_shape", []))[-rank:]
    if auto == "VALID" and not shape:
        pads = [0] * 2 * rank
    elif shape or auto in ("SAME_UPPER", "SAME_LOWER"):
        for i in range(rank):
            size = fixed(x[2 + i])
            wanted = shape[i] if shape else size * stride[i]
            total = transposed_length(size, kernel[i], stride[i], dilation[i]) + extra[i] - wanted
            if total < 0:  # ONNX has pads at least 0
                extra[i], total = extra[i] - total, 0
            small, large = total // 2, total - total // 2
            pads[i], pads[i + rank] = (small, large) if auto == "SAME_UPPER" else (large, small)
    fields = {"kernel": kernel, "stride": stride, "pads": pads, "dilation": dilation, "extra": extra}
    return {**{name: tuple(numbers) for name, numbers in fields.items()}, "groups": int(attrs.get("group", 1))}


# ---- as a convolution


@dataclass(frozen=True)
class Phases:
    """How output pixels q * stride + r, for a phase r below the stride, come from the input pixels q + t.

    kernel, stride, begin (of the pads) and dilation: (height, width) of each.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    begin: tuple[int, ...]
    dilation: tuple[int, ...]

    def taps(self, axis: int) -> list[tuple[int, int, int]]:
        """Each phase r and offset t that meet at a tap k of the kernel: (r, t, k)."""
        begin, stride, dilation = self.begin[axis], self.stride[axis], self.dilation[axis]
        found = ((r, r + begin - k * dilation, k) for r, k in product(range(stride), range(self.kernel[axis])))
        return [(r, distance // stride, k) for r, distance, k in found if distance % stride == 0]

    def reach(self, axis: int) -> tuple[int, int]:
        """The least offset and the greatest."""
        offsets = [0, *(t for _, t, _ in self.taps(axis))]
        return min(offsets), max(offsets)

    def window(self, size: Sequence[int], out: Sequence[int]) -> Window:
        """Of the convolution that makes all phases, at least as many pixels as `out` takes."""
        kernel, before, after = [], [], []
        for axis in (0, 1):
            first, last = self.reach(axis)
            pixels = -(-out[axis] // self.stride[axis])
            kernel.append(last - first + 1)
            before.append(-first)
            after.append(max(pixels - size[axis] + last, 0))
        return Window((kernel[0], kernel[1]), pads=(before[0], before[1], after[0], after[1]))


def _weights(w: Tensor, phases: Phases, groups: int) -> Tensor:
    """[Cin, Cout/groups, (kh,) kw] as a convolution's weight: [Cout·phases, Cin/groups, taps down, taps across]."""
    w = w if w.dim() == 4 else w[:, :, None]  # that of an image of one row
    cin, columns = w.shape[:2]
    (top, bottom), (left, right) = phases.reach(0), phases.reach(1)
    w = w.reshape(groups, cin // groups, columns, *w.shape[2:])
    out = w.new_zeros(groups, *phases.stride, columns, cin // groups, bottom - top + 1, right - left + 1)
    for (r, t, k), (s, u, m) in product(phases.taps(0), phases.taps(1)):
        out[:, r, s, :, :, t - top, u - left] = w[..., k, m].transpose(1, 2)
    return out.reshape(-1, *out.shape[4:])


def _kernels(w: Tensor, phases: Phases, groups: int) -> Tensor:
    return conv2d.pack(_weights(w, phases, groups), groups=groups)


def _matrix(w: Tensor, phases: Phases, groups: int) -> Tensor:
    return pointwise.pack(_weights(w, phases, groups))


def _vector(b: Tensor, phases: Phases, groups: int) -> Tensor:
    count = phases.stride[0] * phases.stride[1]
    return b.reshape(groups, 1, -1).expand(-1, count, -1).reshape(-1)


def _row(view: View) -> View:
    """N×C×L as N×C×1×L."""
    (n, c, length), (sn, sc, step) = view.shape, view.strides
    return replace(view, shape=(n, c, 1, length), strides=(sn, sc, step * length, step))


def _dealt_out(made: View, out: View, stride: Sequence[int]) -> Iterator[tuple[View, View]]:
    """What goes where: made is [N, groups, C, H, phases down, W, phases across], out [N, groups, C, Ho, Wo]."""
    n, groups, columns, height, width = out.shape
    *outer, down, across = out.strides
    for (r, rows, h), (s, places, w) in product(_pieces(height, stride[0]), _pieces(width, stride[1])):
        part = made.part(3, 0, h).part(4, r, rows).part(5, 0, w).part(6, s, places)
        place = View(
            out.base,
            (n, groups, columns, h, rows, w, places),
            (*outer, stride[0] * down, down, stride[1] * across, across),
            out.dtype,
            out.offset + r * down + s * across,
        )
        yield part, place


def _pieces(length: int, stride: int) -> list[tuple[int, int, int]]:
    """The first of some phases, how many, and of how many pixels each is: those before the last stride ends have one
    more than the others."""
    pixels, more = divmod(length, stride)
    pieces = [(0, more, pixels + 1), (more, stride - more, pixels)]
    return [piece for piece in pieces if piece[1] and piece[2]]


OPS = (ConvTranspose,)
