"""Normalisation over groups of channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx

from optgraph.base.errors import ModelError
from optgraph.ir.op import Exporter, Handlers, Importer, Inputs, Node, Op, Outputs, present
from optgraph.ir.values import Value
from optgraph.ops import exporting
from optgraph.ops.importing import constant_operand


@dataclass(frozen=True, kw_only=True)
class GroupNorm(Op):
    """Each of `groups` groups of channels of an image, of any rank, with mean 0 and variance 1; then * scale + b.

    scale, b: [C], one a channel.
    """

    slots = ("x", "scale", "b")
    groups: int
    epsilon: float = 1e-5

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = present(inputs, 0)
        channels = x.shape[1] if len(x.shape) >= 3 else 0
        if not isinstance(channels, int) or not channels or self.groups < 1 or channels % self.groups:
            raise ModelError(f"{self.groups} groups of the channels of {list(x.shape)}")
        for slot in (1, 2):
            if present(inputs, slot).shape != (channels,):
                raise ModelError(f"{self.slots[slot]} does not have one value a channel of {list(x.shape)}")
        return (x,)

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        op = GroupNorm(groups=int(attrs["num_groups"]), epsilon=float(attrs.get("epsilon", 1e-5)))
        x, *vectors = node.input
        if importer.opset < 21:  # one scale and bias a group until then
            channels = importer.shape(x)[1]
            for slot in (1, 2):
                vector = constant_operand(importer, node, slot)
                if vector is None or vector.shape != (op.groups,) or not isinstance(channels, int):
                    raise ModelError(f"{op.slots[slot]} does not have one value for each of {op.groups} groups")
                vectors[slot - 1] = importer.add_constant(np.repeat(vector, channels // op.groups), op.slots[slot])
        importer.add(op, [x, *vectors])

    handlers: ClassVar[Handlers] = {"GroupNormalization": from_onnx}

    def export(self, to: Exporter, node: Node) -> None:
        if to.opset >= 21:
            exporting.one_node(to, node, "GroupNormalization", num_groups=self.groups, epsilon=self.epsilon)
            return
        # Of each group as one channel. Opset 18 had the operator with another scale, and took it back.
        x, scale, b = node.inputs
        value = to.value(x)
        rows = to.emit("Reshape", [to.name(x), exporting.integers(to, (0, self.groups, -1), "groups")])
        one, zero = (to.constant(np.full(self.groups, n, np.dtype(value.dtype)), "unit") for n in (1, 0))
        y = to.emit("InstanceNormalization", [rows, one, zero], epsilon=self.epsilon)
        whole = [0 if isinstance(d, str) else d for d in value.shape]
        y = to.emit("Reshape", [y, exporting.integers(to, whole, "shape")])
        y = to.emit("Mul", [y, exporting.column(to, scale, len(whole))])
        to.bind(node.output, to.emit("Add", [y, exporting.column(to, b, len(whole))]))

    def least_opset(self, source: int) -> int:
        return 21 if source >= 21 else 0

    def compute(self, inputs: Inputs) -> Outputs:
        from torch.nn import functional as F

        x, scale, b = self.per_slot(inputs)
        return (F.group_norm(x, self.groups, scale, b, self.epsilon),)


OPS = (GroupNorm,)
