"""A Net pickled and copied, as workers of a data loader need it: on every backend, into a process that is new."""

from __future__ import annotations

import copy
import multiprocessing
import pickle

import numpy as np
import pytest

import optgraph
from tests.support.cli_models import classifier
from tests.support.open_sizes import detector

X = np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype(np.float32)


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "interpret"])
def test_a_copy_answers_the_same(backend: str) -> None:
    net = optgraph.compile(classifier(), backend, "fp16" if backend == "interpret" else "fp32", keep_fp32=())
    wanted = net(X)
    for other in (copy.copy(net), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        np.testing.assert_array_equal(other(X), wanted)
        assert repr(other) == repr(net) and other.reports == net.reports and other.source == net.source
        assert not any(array.flags.writeable for array in other.fused.constants.values())
        shared = set(other.fused.constants) & set(other.simplified.constants)
        assert shared and all(other.fused.constants[n] is other.simplified.constants[n] for n in shared)


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "interpret"])
def test_in_another_process(backend: str) -> None:
    net = optgraph.compile(classifier(), backend)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_allclose(pool.apply(net, (X,)), net(X), rtol=1e-6)


def test_what_is_known_of_pictures_and_classes_goes_along() -> None:
    net = optgraph.compile(classifier(), "torch", preprocess="caffe", labels=[f"class {i}" for i in range(10)])
    for other in (copy.copy(net), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert (other.preprocessing, other.labels) == (net.preprocessing, net.labels)
        assert other.labels[3] == "class 3"


def test_what_stays_in_float32_stays_so() -> None:
    net = optgraph.compile(classifier(), "torch", "fp16", keep_fp32="/stem/Conv")
    other = pickle.loads(pickle.dumps(net))
    assert other.plans.keep == net.plans.keep == ("/stem/Conv",)
    assert other.plan(2) == net.plan(2)


def test_a_net_of_several_sizes() -> None:
    net = optgraph.compile(detector(), "torch", sizes=[(16, 16), (12, 20)])
    for made in (net, net.at(12, 20), net.at(8, 24)):
        other = pickle.loads(pickle.dumps(made))
        assert other.size == made.size and other.sizes == net.sizes
        for height, width in [(16, 16), (12, 20), (8, 24), (20, 12)]:
            x = np.random.default_rng(height).standard_normal((1, 3, height, width)).astype(np.float32)
            got, wanted = other(x), net(x)
            for a, b in zip(*(r.values() if isinstance(r, dict) else [r] for r in (got, wanted)), strict=True):
                np.testing.assert_array_equal(a, b)


def test_a_graph() -> None:
    graph = optgraph.read(classifier())
    for other in (copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
        other.verify()
        assert [node.name for node in other.nodes()] == [node.name for node in graph.nodes()]
        assert not any(array.flags.writeable for array in other.constants.values())
        optgraph.simplify(other)
