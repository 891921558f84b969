"""Pieces of a graph: the same operators and numbers, and nothing else."""

import pytest
import torch

from optgraph.base.errors import InputError
from optgraph.ir.subgraph import extract
from optgraph.ops import Concat
from optgraph.run import reference
from tests.support.networks import inception_a, kinds


def test_a_cut_from_the_input_computes_the_inner_value() -> None:
    graph = inception_a()
    (concat,) = (n for n in graph.nodes() if isinstance(n.op, Concat))
    piece = extract(graph, {"features": concat.output})
    assert len(piece) == len(graph) - 2  # the convolution and ReLU after the concat
    x = torch.randn(2, 12, 9, 9)
    kept = reference.run(graph, {"x": x}, keep=[concat.output])[concat.output]
    assert torch.equal(reference.run(piece, {"x": x})["features"], kept)


def test_a_cut_in_the_middle_has_new_inputs_and_only_its_constants() -> None:
    graph = inception_a()
    (concat,) = (n for n in graph.nodes() if isinstance(n.op, Concat))
    piece = extract(graph, graph.outputs, [concat.output])
    assert piece.inputs == [concat.output]
    assert kinds(piece) == {"Conv": 1, "Activation": 1}
    assert len(piece.constants) == 2


def test_an_unknown_value_is_an_input_error() -> None:
    with pytest.raises(InputError, match="no value 'nowhere'"):
        extract(inception_a(), {"y": "nowhere"})
