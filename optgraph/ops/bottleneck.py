"""A dense convolution and the pointwise one that follows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optgraph.base.errors import ModelError
from optgraph.ir.op import Exporter, Inputs, Node, Outputs, check_vector, fixed, image, present
from optgraph.ir.values import IDENTITY, Act, Value
from optgraph.ops import computing, exporting
from optgraph.ops.windowed import Windowed


@dataclass(frozen=True, kw_only=True)
class Bottleneck(Windowed):
    """Dense k×k convolution (conv_w is [Ch, Cin, kh, kw]) → `mid` activation → pointwise (w is [Cout, Ch + Cr, 1, 1]).

    The pointwise one may also read `rest`, of Cr channels, concatenated to the convolution's: before it (`rest_first`)
    or behind it. rest_in_place: its producer may write straight into such a concatenation (see `place_concat`).
    """

    slots = ("x", "conv_w", "conv_b", "w", "b", "residual", "pre_scale", "pre_shift", "rest")
    writes_channels = True
    mid: Act = IDENTITY
    rest_first: bool = False
    rest_in_place: bool = False

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x, conv_w, w = image(inputs), present(inputs, 1), present(inputs, 3)
        rest = inputs[8] if len(inputs) > 8 else None
        if len(conv_w.shape) != 4 or len(w.shape) != 4 or conv_w.shape[1:] != (x.shape[1], *self.kernel):
            raise ModelError(f"weights {list(conv_w.shape)} and {list(w.shape)} do not fit {x.shape[1]} channels")
        hidden, columns = fixed(conv_w.shape[0]), w.shape[0]
        size = self.window.over(x.shape[2], x.shape[3])
        if rest is not None and (len(rest.shape) != 4 or (rest.shape[0], *rest.shape[2:]) != (x.shape[0], *size)):
            raise ModelError(f"cannot join {list(rest.shape)} to images of {list(size)} pixels")
        joined = hidden + (0 if rest is None else fixed(rest.shape[1]))
        if w.shape[1:] != (joined, 1, 1):
            raise ModelError(f"a weight of shape {list(w.shape)} for {joined} channels")
        for slot, length in ((2, hidden), (4, columns), (6, x.shape[1]), (7, x.shape[1])):
            check_vector(inputs, slot, length)
        return self.infer_image(inputs, columns)

    def export(self, to: Exporter, node: Node) -> None:
        x = exporting.prologue(to, node, self.pre_act)
        conv_w, conv_b, w, b, rest = (to.name(node.get(slot)) for slot in ("conv_w", "conv_b", "w", "b", "rest"))
        y = to.emit("Conv", [x, conv_w, conv_b], **self.window_attributes())
        y = exporting.activated(to, y, self.mid, to.value(node.output).dtype)
        if rest:
            y = to.emit("Concat", [rest, y] if self.rest_first else [y, rest], axis=1)
        self.export_epilogue(to, node, to.emit("Conv", [y, w, b], kernel_shape=(1, 1)))

    def compute(self, inputs: Inputs) -> Outputs:
        import torch

        x, conv_w, conv_b, w, b, residual, scale, shift, rest = self.per_slot(inputs)
        x = computing.scaled(x, scale, shift, self.pre_act)
        z = self.mid.apply(computing.convolve(x, conv_w, conv_b, self.window))
        if rest is not None:
            z = torch.cat((rest, z) if self.rest_first else (z, rest), 1)
        return self.compute_epilogue(computing.convolve(z, w, b), residual)


OPS = (Bottleneck,)
