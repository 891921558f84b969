"""The JSON of a graph stays as it is: files written before still load, and are written the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from optgraph.api.graph_json import graph_from_json, graph_to_json
from optgraph.ir.op import Op
from optgraph.ops import Opaque
from optgraph.ops.registry import OURS

# Written by 0.1.0; the name of a constant ends in its shape.
EVERY_OPERATOR = Path(__file__).with_name("every_operator.json").read_text()


def shaped(name: str) -> np.ndarray:
    return np.zeros([int(size) for size in name.partition(": ")[2].split("x")], np.float32)


def test_every_operator_is_written_as_ever() -> None:
    data = json.loads(EVERY_OPERATOR)
    graph = graph_from_json(data, {name: shaped(name) for name in data["constants"]})
    kinds: set[type[Op]] = {type(node.op) for node in graph.nodes()}
    assert kinds == set(OURS.ops)
    # As text, for the order of fields is part of it.
    assert json.dumps(graph_to_json(graph)) == json.dumps(data)
    (opaque,) = (node.op for node in graph.nodes() if isinstance(node.op, Opaque))
    assert (opaque.op_type, opaque.values[0].shape) == ("Elu", ("N", 4, 9, 9))
