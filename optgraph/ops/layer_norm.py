"""Normalisation over the last axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import onnx

from optgraph.base.errors import ModelError, NoKernelError
from optgraph.ir.op import Exporter, Handlers, Importer, Inputs, Node, Op, Outputs, present
from optgraph.ir.values import Value, broadcast
from optgraph.kernels.normalise import NORMALISE
from optgraph.ops import exporting
from optgraph.ops.importing import KeepError, axis_of
from optgraph.ops.lines import lines
from optgraph.plan.lowering import Lowering
from optgraph.plan.plan import Weight

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LayerNorm(Op):
    """x with mean 0 and variance 1 over all axes from `axis` (not negative) on; then * scale + b, which broadcast to
    these axes."""

    slots = ("x", "scale", "b")
    axis: int
    epsilon: float = 1e-5

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = present(inputs, 0)
        own = x.shape[self.axis :]
        for slot, value in zip(self.slots[1:], inputs[1:], strict=False):
            if value is not None and broadcast(value.shape, own) != own:
                raise ModelError(f"{slot} of shape {list(value.shape)} does not fit axes of {list(own)}")
        return (x,)

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        if importer.reads(node.output[1:]):  # the mean and the deviation, for training
            raise KeepError
        axis = axis_of(int(attrs.get("axis", -1)), len(importer.shape(node.input[0])))
        importer.add(LayerNorm(axis=axis, epsilon=float(attrs.get("epsilon", 1e-5))), node.input)

    handlers: ClassVar[Handlers] = {"LayerNormalization": from_onnx}

    def export(self, to: Exporter, node: Node) -> None:
        exporting.one_node(to, node, "LayerNormalization", axis=self.axis, epsilon=self.epsilon)

    def compute(self, inputs: Inputs) -> Outputs:
        from torch.nn import functional as F

        x, scale, b = self.per_slot(inputs)
        y = F.layer_norm(x, x.shape[self.axis :], eps=self.epsilon) * scale
        return (y if b is None else y + b,)

    def lower(self, context: Lowering, node: Node) -> None:
        """The output lies in the order of its axes, so that a line of it is in one piece."""
        x, out = context.read(node.inputs[0]), context.write_in_order(node.output)
        size = math.prod(x.shape[self.axis :])
        rows = (*x.shape[: self.axis], size)
        given, made = x.reshaped(rows), out.reshaped(rows)
        if given is None or made is None:
            raise NoKernelError(f"axes {self.axis} to {len(x.shape) - 1} do not lie in memory as one")
        # As the graph has them, a batch of one is no axis of one.
        shape = (*context.graph.shape(node.output)[: self.axis], size)
        before, after = lines(shape, given, made, (self.axis,), whole=True)
        own = x.shape[self.axis :]
        scale, shift = (_vector(context, node, slot, own) for slot in ("scale", "b"))
        context.call(NORMALISE, node, x=before, out=after, epsilon=self.epsilon, scale=scale, shift=shift)


def _vector(context: Lowering, node: Node, slot: str, axes: tuple[int, ...]) -> Weight | None:
    """One number an element of a line. Raises NoKernelError if it is computed."""
    if not node.get(slot):
        return None
    return context.weight(_line, context.constant(node, slot), dtype="float32", shape=axes)


def _line(constant: Tensor, shape: tuple[int, ...]) -> Tensor:
    return constant.expand(shape).flatten()


OPS = (LayerNorm,)
