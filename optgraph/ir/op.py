"""What an operator is: a frozen dataclass that knows its input slots, its output shapes and its reference.

An op of one's own subclasses `Op` and implements `infer`, `compute` and, to run through a kernel, `lower`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from optgraph.base.errors import ModelError, NoKernelError
from optgraph.ir.values import Dim, Value

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Op:
    """Base of all operators. `slots` names the inputs in order; a missing optional input is the empty string."""

    slots: ClassVar[tuple[str, ...]] = ("x",)

    @property
    def kind(self) -> str:
        return type(self).__name__

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        """Shapes and dtypes of the outputs; the default is one output like the first input."""
        return (present(inputs, 0),)

    def compute(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        """Plain torch reference, NCHW. Only ops from outside this package need it: ours are in `reference.py`."""
        raise ModelError(f"operator {self.kind} has no reference implementation (define compute)")

    def function(
        self, opsets: Mapping[str, int]
    ) -> Callable[[Sequence[torch.Tensor | None]], tuple[torch.Tensor, ...]]:
        """TEMPORARY"""
        from optgraph.ops.torch_ops import function

        return function(self, opsets)

    def place(self, context: Any, node: Any) -> None:
        """Hands producers of inputs their places; asked of every node, the last first, before any is lowered."""

    def lower(self, context: Any, node: Any) -> None:
        """Emits kernel calls into a plan (see `lower.py`). Without one, the op runs as a torch fallback."""
        raise NoKernelError


def present(inputs: Sequence[Value | None], slot: int) -> Value:
    value = inputs[slot] if slot < len(inputs) else None
    if value is None:
        raise ModelError(f"input {slot} is missing")
    return value


def fixed(dim: Dim) -> int:
    if isinstance(dim, str):
        raise ModelError(f"dimension '{dim}' is not known: fix the input shape (--input-shape)")
    return dim


def check_vector(inputs: Sequence[Value | None], slot: int, length: Dim) -> None:
    """Raises ModelError if the optional input is not a vector of `length`."""
    value = inputs[slot] if slot < len(inputs) else None
    if value is not None and value.shape != (length,):
        raise ModelError(f"a bias, scale or shift of shape {list(value.shape)} for {length} channels")


def image(inputs: Sequence[Value | None]) -> Value:
    x = present(inputs, 0)
    if len(x.shape) != 4:
        raise ModelError(f"expects a 4-D N×C×H×W input, got shape {list(x.shape)}: only 2-D networks are supported")
    return x
