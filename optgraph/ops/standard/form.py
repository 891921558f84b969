"""What the function of an ONNX operator sees of its node beside the inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

# Called with the node, and a tensor an input of it; None stands for an absent one. Gives the output, or all of them.
Function = Callable[..., "Tensor | tuple[Tensor, ...]"]


class OutsideTorchError(Exception):
    """This use of an operator is none that torch has: ONNX's reference implementation is to do it."""


@dataclass(frozen=True)
class Form:
    """attrs: the attributes as Python values. opset: what gives the operator its meaning. outputs: how many it has."""

    attrs: Mapping[str, Any]
    opset: int
    outputs: int = 1

    def get(self, name: str) -> Any:
        """An attribute, None if absent."""
        return self.attrs.get(name)

    def integer(self, name: str, default: int) -> int:
        return int(self.attrs.get(name, default))

    def number(self, name: str, default: float) -> float:
        return float(self.attrs.get(name, default))

    def text(self, name: str, default: str) -> str:
        return str(self.attrs.get(name, default))

    def numbers(self, name: str, operand: Tensor | None = None) -> list[int] | None:
        """Integers that were an attribute in older opsets and are an input in newer ones; None where there are none."""
        if operand is not None:
            return [int(number) for number in operand.reshape(-1).tolist()]
        found = self.attrs.get(name)
        return None if found is None else [int(number) for number in found]


def axes_of(axes: list[int], rank: int) -> list[int]:
    """Axes counted from the front, in order."""
    return sorted(axis % rank for axis in axes)


def along(vector: Tensor, axis: int, rank: int) -> Tensor:
    """A vector shaped to broadcast along `axis` of a tensor of `rank`; a single number as it is."""
    if vector.numel() == 1:
        return vector.reshape(())
    shape = [1] * rank
    shape[axis] = -1
    return vector.reshape(shape)
