"""A graph of torch's operators, as Dynamo takes it from a program: which of its arguments are weights, which sizes are
open.

Dynamo hands the parameters and buffers of modules in as arguments, at each call: so one graph serves every module of a
class, and a weight is known by the tensor that comes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import fx

from optgraph.base.errors import ModelError


class Size(NamedTuple):
    """An axis of an argument whose length is no number when the graph is taken."""

    position: int
    axis: int


class TorchGraph:
    """A graph and what its arguments are.

    weights: the parameters and buffers, by name, and where they stand among the arguments.
    own: those that the graph has itself, as it is with older versions of torch.
    inputs: all other tensors, by name.
    sizes: arguments that are the length of an axis, by their place.
    batched: the inputs whose first axis is the batch, if that is open.
    varying: what else is open.
    """

    def __init__(self, module: fx.GraphModule, examples: Sequence[Any]) -> None:
        """examples: arguments to call it with. Raises ModelError for one that we do not know."""
        self.module = module
        self.nodes = [node for node in module.graph.nodes if node.op == "placeholder"]
        self.own = dict(module.named_parameters(remove_duplicate=True)) | dict(module.named_buffers())
        self.weights: dict[str, int] = {}
        self.inputs: dict[str, int] = {}
        self.sizes: dict[int, Size] = {}
        names: set[str] = set()
        for position, (node, example) in enumerate(zip(self.nodes, examples, strict=True)):
            if isinstance(example, torch.Tensor):
                if _is_weight(example):  # "weights.": an output may be called as a weight is
                    self.weights[unique(f"weights.{readable(node.name)}", names)] = position
                else:
                    self.inputs[unique(readable(node.name), names)] = position
            elif not isinstance(example, torch.SymInt):
                raise ModelError(f"argument '{node.name}' is a {type(example).__name__}, no tensor")
        symbols = {
            Size(position, axis): str(length)
            for position in self.inputs.values()
            for axis, length in enumerate(self._lengths(position))
            if isinstance(length, torch.SymInt)
        }
        for position, example in enumerate(examples):
            if isinstance(example, torch.SymInt):
                self.sizes[position] = _found(str(example), symbols)
        self.batch = next((symbol for size, symbol in symbols.items() if size.axis == 0), "")
        if any(symbol == self.batch and size.axis != 0 for size, symbol in symbols.items()):
            self.batch = ""  # an image as high as there are images: told apart by no symbol
        self.batched = frozenset(size.position for size, symbol in symbols.items() if symbol == self.batch)
        self.varying = tuple(size for size, symbol in symbols.items() if symbol != self.batch)

    def _lengths(self, position: int) -> Sequence[int | torch.SymInt]:
        value = self.nodes[position].meta.get("example_value")
        return tuple(value.shape) if isinstance(value, torch.Tensor) else ()

    def opened(self, node: fx.Node) -> bool:
        """Whether the first axis of what `node` gives is the batch, by torch's own account."""
        value = node.meta.get("example_value")
        shape = tuple(value.shape) if isinstance(value, torch.Tensor) else ()
        return bool(self.batch) and [str(length) for length in shape[:1]] == [self.batch]

    def concrete(self, arguments: Sequence[Any]) -> list[Any]:
        """The arguments with numbers for sizes."""
        return [
            arguments[self.sizes[i].position].shape[self.sizes[i].axis] if i in self.sizes else argument
            for i, argument in enumerate(arguments)
        ]

    def tensors(self, arguments: Sequence[Any]) -> dict[str, torch.Tensor]:
        """The weights among the arguments of a call, and those of the graph's own, by name."""
        return {name: arguments[position] for name, position in self.weights.items()} | self.own


def _is_weight(example: torch.Tensor) -> bool:
    """Dynamo marks what is a module's: its address is not to change."""
    return isinstance(example, torch.nn.Parameter) or getattr(example, "_dynamo_static_input_type", None) is not None


def _found(symbol: str, symbols: Mapping[Size, str]) -> Size:
    for size, other in symbols.items():
        if other == symbol:
            return size
    raise ModelError(
        f"a number '{symbol}' comes with the tensors, and is the length of none",
        "make it a constant, and inputs .contiguous()",
    )


def readable(name: str) -> str:
    """'x' for l_x_, 'conv_weight' for l_self_modules_conv_parameters_weight_."""
    found = re.fullmatch(r"l_(\w+?)_*", name, re.IGNORECASE)
    inner = re.sub(r"(?<=_)(modules|parameters|buffers)_+", "", found[1] if found else name)
    return re.sub(r"^(self|module|given)_+(?=\w)", "", inner)


def unique(name: str, taken: set[str]) -> str:
    """A name that is not taken, which it is from now on."""
    fresh = next(n for n in (name, *(f"{name}_{i}" for i in range(1, len(taken) + 2))) if n not in taken)
    taken.add(fresh)
    return fresh
