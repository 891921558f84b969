"""What an output ends with: the numbers that a softmax or a sigmoid made probabilities of, or an ArgMax a class of.

A trained network is sure of most answers, so that two images may have the same probabilities and two wrong networks
too: whether an answer depends on the input shows at the logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

PROBABILITIES = ("Softmax", "Sigmoid", "HardSigmoid")
_ENDS = (*PROBABILITIES, "ArgMax", "LogSoftmax", "TopK")
# What only moves numbers, or writes them in another type.
_MOVES = {"Cast", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}


@dataclass(frozen=True)
class Tail:
    """Of an output: the value whose spread says whether it depends on the input, and what was made of it.

    judged: the logits, or the output itself. kind: the operator that reads them, or ''.
    axis: that of the classes, where the output is what a softmax gave; None where it is not known.
    """

    judged: str
    kind: str = ""
    axis: int | None = None

    @property
    def bounded(self) -> bool:
        """Whether each number lies between 0 and 1 by itself."""
        return self.kind in ("Sigmoid", "HardSigmoid")


def tail(graph: onnx.GraphProto, output: str) -> Tail:
    """How `output`, the name of a tensor in `graph`, came about."""
    producers = {name: node for node in graph.node for name in node.output if name}
    name, moved = output, False
    while name in producers:
        node = producers[name]
        if node.op_type in _ENDS:
            axes = [attribute.i for attribute in node.attribute if attribute.name == "axis"]
            known = node.op_type in ("Softmax", "LogSoftmax") and not moved
            return Tail(node.input[0], node.op_type, (axes[0] if axes else -1) if known else None)
        if node.op_type not in _MOVES:
            break
        name, moved = node.input[0], True
    return Tail(output)
