"""Every exporter's file of a network reaches the same fused graph, within the launches promised for it."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest

from optgraph import ops
from optgraph.ir.graph import Graph
from optgraph.onnx.read import read
from optgraph.passes import pipeline
from optgraph.plan.lowering import lower
from tests.support.paths import GRAPHS

LAUNCHES = {"inception_v3": 82, "xception": 48, "inception_resnet_v2": 200}
EXPORTERS = ("torch", "torch_bn", "dynamo", "keras_tf", "keras_torch")
FILES = sorted(f"{e}_{n}" for n in LAUNCHES for e in EXPORTERS if (e, n) != ("keras_torch", "xception"))


@cache
def fused(name: str) -> Graph:
    graph = read(GRAPHS / f"{name}.onnx", allow_stripped=True)
    pipeline.apply(graph, pipeline.SIMPLIFY)
    pipeline.apply(graph, pipeline.FUSE)
    return graph


def network(name: str) -> str:
    return next(n for n in LAUNCHES if name.endswith(n))


def signature(graph: Graph) -> Counter[tuple]:
    """Kernel, shapes, stride and activations of every fused op. Pads, counting of pads, biases that are zero and a
    final Softmax are where the exporters' networks truly differ."""
    found: Counter[tuple] = Counter()
    for node in graph.nodes():
        op = node.op
        if isinstance(op, ops.Softmax | ops.Reshape | ops.Transpose):
            continue
        acts = [getattr(op, field, None) for field in ("pre_act", "mid", "act", "post")]
        shapes = sorted(map(str, (graph.shape(v) for v in node.outputs)))
        segments = sorted(map(str, getattr(op, "segments", ())))
        residual = bool("residual" in op.slots and node.get("residual"))
        window = (getattr(op, "kernel", None), getattr(op, "stride", None), getattr(op, "mode", None))
        found[op.kind, graph.shape(node.inputs[0]), *shapes, *window, *acts, *segments, residual] += 1
    return found


def test_all_fourteen_files_are_here() -> None:
    assert len(FILES) == 14 and all((GRAPHS / f"{name}.onnx").is_file() for name in FILES)


@pytest.mark.parametrize("name", FILES)
def test_launches_and_nothing_left_standalone(name: str) -> None:
    graph = fused(name)
    plan = lower(graph)
    assert plan.fallbacks == ()
    assert sum(plan.launches_by_kernel().values()) <= LAUNCHES[network(name)]
    kinds = Counter(node.op.kind for node in graph.nodes())
    assert not kinds.keys() & {"BatchNorm", "Affine", "Activation", "Binary", "Cast", "Identity", "Opaque", "Reduce"}
    assert kinds["Transpose"] == name.startswith("keras")
    for node in graph.nodes():
        if isinstance(node.op, ops.Concat):
            assert all(node.op.in_place), f"{node.name} copies"
        if isinstance(node.op, ops.Transpose):
            assert node.inputs[0] in graph.inputs
    assert "elementwise" not in plan.launches_by_kernel()


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("torch_") or "_bn_" in name])
def test_the_fused_graph_does_not_depend_on_the_exporter(name: str) -> None:
    reference = signature(fused(f"torch_{network(name)}"))
    assert sum(reference.values()) > 40
    assert signature(fused(name)) == reference


@pytest.mark.parametrize("name", FILES)
def test_regions_know_their_onnx_nodes(name: str) -> None:
    graph = fused(name)
    assert all(node.origin for node in graph.nodes())


@pytest.mark.parametrize("name, mean_pool_siblings", [("torch_inception_v3", 9), ("keras_tf_inception_v3", 9)])
def test_every_average_pool_of_inception_moved_behind_its_1x1(name: str, mean_pool_siblings: int) -> None:
    graph = fused(name)
    pools = [n for n in graph.nodes() if isinstance(n.op, ops.Pool) and n.op.mode == "average"]
    assert len(pools) == mean_pool_siblings
    assert all(isinstance(graph.producer(n.inputs[0]).op, ops.MergedPointwise) for n in pools)
