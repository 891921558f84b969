"""The Graph: operators and their tensors.

Graph inputs and constants have no producer. Constants are named, immutable arrays that several operators may share:
change one by adding another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from optgraph.base.budget import Budget
from optgraph.base.errors import GraphError, ModelError, printable
from optgraph.ir import html
from optgraph.ir.op import Node, Op
from optgraph.ir.quant import Grid
from optgraph.ir.values import Value
from optgraph.ir.wiring import Wiring
from optgraph.ir.words import op_text, type_text

__all__ = ["Graph", "Node", "Source"]


@dataclass(frozen=True)
class Source:
    """A value of the ONNX model; with a `perm`, that value transposed by it."""

    name: str
    perm: tuple[int, ...] = ()


class Graph(Wiring):
    """A mutable operator graph, which `read` gives.

    Attributes:
        nx: the networkx.MultiDiGraph; node attribute `node` is the `Node`.
        inputs: names of the input values, in order.
        outputs: public output name -> value; the public name stays when a rewrite changes the value.
        values: name -> `Value` (shape, dtype) of every input, constant and produced value.
        constants: name -> read-only array.
        grids: constant -> the `Grid` that it lies on, of those that were integers in the model.
        changes: how often nodes or edges were changed; equal counts mean an unchanged graph.
        sources: value -> the `Source` it equals, where there is one: what `verify` compares with.
        opset: of the ONNX model this came from.
        domains: the versions of all its domains.
        source_nodes: how many nodes it had.
        budget: what this model may ask for.
    """

    def __init__(self, name: str = "graph") -> None:
        super().__init__()
        self.name = name
        self.inputs: list[str] = []
        self.outputs: dict[str, str] = {}
        self.values: dict[str, Value] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.grids: dict[str, Grid] = {}
        self.sources: dict[str, Source] = {}
        self.opset = 17
        self.domains: dict[str, int] = {}
        self.source_nodes = 0
        self.budget = Budget()
        self._serial = 0

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of a pickle or a copy, whose arrays anybody could write to."""
        self.__dict__.update(state)
        for array in self.constants.values():
            array.flags.writeable = False

    # ---- looking

    def __repr__(self) -> str:
        inputs, outputs = (", ".join(names) for names in (self.inputs, self.outputs))
        return printable(f"<Graph {self.name}: {len(self)} operators, {inputs} -> {outputs}>")

    def _repr_html_(self) -> str:
        """Its picture in a notebook; of a large one, a table of its operators."""
        boxes = [html.Box(name, type_text(self.values[name]), f"input {name}", True) for name in self.inputs]
        made, edges = {name: i for i, name in enumerate(self.inputs)}, []
        for node in self.nodes():
            shapes = ", ".join(type_text(self.values[value]) for value in node.outputs)
            edges += [(box, len(boxes)) for box in dict.fromkeys(made[v] for v in node.inputs if v in made)]
            made.update(dict.fromkeys(node.outputs, len(boxes)))
            boxes.append(html.Box(op_text(node.op), shapes, f"{node.name}: {op_text(node.op)}"))
        for public, value in self.outputs.items():
            edges += [(made[value], len(boxes))] if value in made else []
            boxes.append(html.Box(public, type_text(self.values[value]), f"output {public}", True))
        return f"<p>{html.text(repr(self))}</p>{html.graph(boxes, edges)}"

    # ---- reading

    def is_output(self, value: str) -> bool:
        """Whether the graph answers with `value`."""
        return value in self.outputs.values()

    def sole_user(self, value: str) -> Node | None:
        """The one node that reads `value`, if one use is all there is and `value` is no graph output."""
        uses = self._uses.get(value, {})
        if len(uses) != 1 or self.is_output(value):
            return None
        return self.node(next(iter(uses))[0])

    def shape(self, value: str) -> tuple[int | str, ...]:
        """N×C×H×W of an image: numbers, and 'N' or '9*N' for what depends on the batch."""
        return self.values[value].shape

    def constant(self, value: str) -> np.ndarray | None:
        """The array of a constant, None for anything else."""
        return self.constants.get(value)

    # ---- building

    def fresh(self, hint: str) -> str:
        """A name, like `hint`, that no value and no node has."""
        name = hint
        while name in self.values or name in self.nx:
            self._serial += 1
            name = f"{hint}.{self._serial}"
        return name

    def add_input(self, name: str, value: Value) -> str:
        """Adds an input, last in order; returns its name. Raises ModelError if there is such a value."""
        if name in self.values:
            raise ModelError(f"value '{name}' is defined twice")
        self.inputs.append(name)
        self.values[name] = value
        return name

    def add_constant(self, array: np.ndarray, hint: str = "const", grid: Grid | None = None) -> str:
        """Stores a read-only view of `array` under a fresh name like `hint` and returns the name. grid: it lies on."""
        name = self.fresh(hint)
        array = array.view()
        array.flags.writeable = False
        self.constants[name] = array
        if grid is not None:
            self.grids[name] = grid
        self.values[name] = Value(tuple(int(d) for d in array.shape), str(array.dtype))
        return name

    def add(
        self,
        op: Op,
        inputs: Sequence[str],
        outputs: Sequence[str] | None = None,
        name: str = "",
        origin: Iterable[str] = (),
    ) -> Node:
        """Adds an operator on existing values; the shapes of its outputs are inferred.

        Args:
            op: the operator.
            inputs: names of values, in the order of its slots; '' for an absent one.
            outputs: names for the outputs, fresh ones if None.
            name: the node's name, made unique.
            origin: the ONNX nodes that it stands for.

        Raises:
            ModelError: the operator cannot take these inputs, or a name is taken.
        """
        name = self.fresh(name or op.kind.lower())
        for value in inputs:
            if value and value not in self.values:
                raise ModelError(f"node '{name}' ({op.kind}) reads '{value}', which nothing defines")
        try:
            inferred = op.infer([self.values[v] if v else None for v in inputs])
        except ModelError as error:
            raise error.at(f"node '{name}' ({op.kind})") from None
        if outputs is None:
            outputs = [self.fresh(f"{name}:{i}" if i else f"{name}:out") for i in range(len(inferred))]
        for value, info in zip(outputs, inferred, strict=True):
            if value in self.values:
                raise ModelError(f"value '{value}' is defined twice")
            self.values[value] = info
        node = Node(name, op, tuple(inputs), tuple(outputs), tuple(dict.fromkeys(origin)))
        self._insert(node)
        return node

    # ---- rewriting

    def update(
        self,
        node: Node,
        op: Op | None = None,
        inputs: Sequence[str] | None = None,
        origin: Iterable[str] = (),
        same_value: bool = False,
    ) -> Node:
        """Replaces a node's operator and/or inputs in place, its outputs staying.

        Args:
            node: what to change.
            op: its new operator, if another.
            inputs: its new inputs, if others.
            origin: further ONNX nodes that it now stands for.
            same_value: the outputs hold the same numbers as before, so what they are called in the ONNX model still
                applies; otherwise that is forgotten until a `rewire` says what they equal now.

        Returns:
            The node that is there now.

        Raises:
            GraphError: an output's shape would change.
        """
        changed = replace(
            node,
            op=op or node.op,
            inputs=node.inputs if inputs is None else tuple(inputs),
            origin=tuple(dict.fromkeys((*node.origin, *origin))),
        )
        inferred = changed.op.infer([self.values[v] if v else None for v in changed.inputs])
        for value, info in zip(changed.outputs, inferred, strict=True):
            if info != self.values[value]:
                raise GraphError(f"'{node.name}' would change '{value}' from {self.values[value]} to {info}")
        if not same_value:
            for value in changed.outputs:
                self.sources.pop(value, None)
        for slot, value in enumerate(node.inputs):
            self._unlink(node.name, slot, value)
        self._put(changed)
        for slot, value in enumerate(changed.inputs):
            self._link(node.name, slot, value)
        self._touch()
        return changed

    def rewire(self, old: str, new: str) -> None:
        """Every reader of `old`, graph outputs included, reads `new`, which holds the same numbers, instead."""
        if old in self.sources:
            self.sources[new] = self.sources[old]
        for name, slot in list(self._uses.get(old, ())):
            node = self.node(name)
            self._unlink(name, slot, old)
            inputs = (*node.inputs[:slot], new, *node.inputs[slot + 1 :])
            self._put(replace(node, inputs=inputs))
            self._link(name, slot, new)
        self.outputs = {public: new if value == old else value for public, value in self.outputs.items()}
        self._touch()

    def remove(self, node: Node) -> None:
        """Removes a node whose outputs nobody reads, and the constants that only it read.

        Raises:
            GraphError: somebody reads one.
        """
        for value in node.outputs:
            if self._uses.get(value) or self.is_output(value):
                raise GraphError(f"'{node.name}' cannot be removed: '{value}' is still used")
        self._drop(node)
        for value in node.outputs:
            del self.values[value]
            self.sources.pop(value, None)
        for value in set(node.inputs):
            if value in self.constants and not self._uses.get(value) and not self.is_output(value):
                self._forget(value)

    def replace_node(self, node: Node, op: Op, inputs: Sequence[str], origin: Iterable[str] = ()) -> Node:
        """Puts a new operator where `node` was: its readers read the new outputs. The old node goes.

        Args:
            node: what goes.
            op: the new operator.
            inputs: of the new one, in the order of its slots.
            origin: further ONNX nodes that the new one stands for, beside those of the old one.

        Returns:
            The new node.
        """
        new = self.add(op, inputs, name=node.name, origin=(*node.origin, *origin))
        for old_value, new_value in zip(node.outputs, new.outputs, strict=True):
            self.rewire(old_value, new_value)
        self.remove(self.node(node.name))
        return new

    def prune(self) -> int:
        """Removes nodes and constants that no output depends on; returns how many nodes went."""
        removed = 0
        pending = [name for name, node in self._nodes.items() if self._is_dead(node)]
        while pending:
            node = self._nodes.get(pending.pop())
            if node is None or not self._is_dead(node):
                continue
            above = [self._producer[value][0] for value in node.inputs if value in self._producer]
            self.remove(node)
            removed += 1
            pending += above
        for name in [c for c in self.constants if not self._uses.get(c) and not self.is_output(c)]:
            self._forget(name)
        return removed

    def _forget(self, constant: str) -> None:
        del self.constants[constant], self.values[constant]
        self.grids.pop(constant, None)
        self._uses.pop(constant, None)

    def _is_dead(self, node: Node) -> bool:
        return not any(self._uses.get(v) or self.is_output(v) for v in node.outputs)

    def copy(self) -> Graph:
        """A graph of its own; nodes, values and arrays are immutable and shared."""
        other = Graph(self.name)
        other.inputs = list(self.inputs)
        other.outputs = dict(self.outputs)
        other.values = dict(self.values)
        other.constants = dict(self.constants)
        other.grids = dict(self.grids)
        other.sources = dict(self.sources)
        other.opset = self.opset
        other.domains = dict(self.domains)
        other.source_nodes = self.source_nodes
        other.budget = self.budget
        other._serial = self._serial
        for node in self.nodes():
            other._insert(node)
        return other

    # ---- checking

    def verify(self) -> None:
        """Checks all invariants: no cycle, every input defined, edges and slots agreeing with the nodes, shapes as the
        operators infer them, outputs present.

        Raises:
            GraphError: one is broken.
        """
        self._check_wires()
        for node in self.nodes():
            for value in filter(None, node.inputs):
                if value not in self.values:
                    raise GraphError(f"node '{node.name}' reads '{value}', which nothing defines")
                if value not in self._producer and value not in self.constants and value not in self.inputs:
                    raise GraphError(f"'{value}' has neither a producer nor a constant")
            inferred = node.op.infer([self.values[v] if v else None for v in node.inputs])
            if inferred != tuple(self.values[v] for v in node.outputs):
                raise GraphError(f"node '{node.name}' ({node.op.kind}) infers {inferred}, the graph says otherwise")
        for public, value in self.outputs.items():
            if value not in self.values:
                raise GraphError(f"output '{public}' ('{value}') is not defined")
