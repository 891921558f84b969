"""What leaves float16, and who is told of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from optgraph.api import compiling
from optgraph.ir.graph import Graph
from optgraph.ir.values import Act, Value
from optgraph.ops import Activation, Binary, Conv, Reshape
from optgraph.passes import pipeline
from optgraph.plan.plans import Plans
from optgraph.run.engine import Engine
from optgraph.run.example import examples
from optgraph.run.fp16_range import LARGEST, SMALLEST, Leaving, leaving
from tests.support.out_of_fp16 import overflowing, overflowing_inside, underflowing


def found(graph: Graph, x: np.ndarray, dtype: str = "fp16") -> list[Leaving]:
    return leaving(graph, graph, dtype, [{"x": x.astype(np.float32)}])


def chain(*ops: tuple, shape: tuple = (1, 2, 3, 3)) -> Graph:
    """Operators in a row, each with its constants."""
    graph = Graph()
    value = graph.add_input("x", Value(shape))
    for i, (op, *arrays) in enumerate(ops):
        names = [graph.add_constant(np.asarray(array, np.float32)) for array in arrays]
        value = graph.add(op, [value, *names], name=f"node{i}", origin=[f"onnx{i}"]).output
    graph.outputs = {"y": value}
    return graph


NEG, LOG, SQRT, RELU = (Activation(act=Act(kind)) for kind in ("neg", "log", "sqrt", "relu"))
ONES = np.ones((1, 2, 3, 3))


def test_large_numbers():
    graph = chain((NEG,), (NEG,))
    assert found(graph, ONES * LARGEST) == []
    large = found(graph, ONES * 7e4)
    assert [(one.region, one.onnx_nodes, one.end, one.value) for one in large] == [
        ("node0", ("onnx0",), "large", 7e4),
        ("node1", ("onnx1",), "large", 7e4),
    ]
    assert found(graph, ONES * 7e4, "bf16") == found(graph, ONES * 7e4, "fp32") == []


def test_small_numbers_matter_to_a_logarithm_a_root_and_a_quotient():
    tiny = ONES * 1e-6
    assert found(chain((NEG,), (NEG,)), tiny) == []
    for reader in (LOG, SQRT, Activation(act=Act("reciprocal")), Activation(act=Act("power", 0.3))):
        (one,) = (one for one in found(chain((RELU,), (reader,)), tiny) if one.end == "small")
        assert (one.region, one.end, one.reader) == ("node0", "small", "node1")
        assert one.value == pytest.approx(1e-6)
        assert found(chain((RELU,), (reader,)), ONES * SMALLEST) == []
    assert found(chain((RELU,), (Activation(act=Act("power", 2.0)),)), tiny) == []
    for exponent, count in ((0.5, 1), (2.0, 0)):
        assert len(found(chain((RELU,), (Binary(fn="pow"), exponent)), tiny)) == count
    graph = chain((RELU,))
    graph.outputs = {"y": graph.add(Binary(fn="div"), ["x", graph.nodes()[0].output], name="ratio").output}
    assert [one.reader for one in found(graph, tiny)] == ["ratio"]


def test_small_numbers_on_their_way_and_no_further_than_a_sum():
    conv = (Conv(kernel=(1, 1)), np.full((2, 2, 1, 1), 0.5))
    graph = chain((RELU,), conv, (RELU,), (Reshape(shape=(1, 18)),), (LOG,))
    assert [one.region for one in found(graph, ONES * 1e-6)] == ["node1", "node2", "node3"]


def test_what_lies_inside_a_region():
    made = compiling.compile(overflowing_inside(), "torch")
    (region,) = made.fused.nodes()
    assert region.op.kind == "Separable"
    (one,) = leaving(made.simplified, made.fused, "fp16", examples(made.inputs))
    assert (one.region, one.end) == (region.name, "large") and one.value > LARGEST
    assert set(one.onnx_nodes) == {"depthwise", "pointwise", "relu"}


@pytest.mark.parametrize("behind", [(), ((Conv(kernel=(1, 1)), np.full((2, 2, 1, 1), 0.1)),)])
def test_sums_that_a_kernel_makes_in_float16(behind: tuple):
    """A row of taps takes from another what it gave: only their difference is stored."""
    taps = np.zeros((2, 1, 3, 3))
    taps[:, :, 0], taps[:, :, 2] = 4.0, -4.0
    filters = Conv(kernel=(3, 3), groups=2)
    graph = chain((Conv(kernel=(1, 1)), np.eye(2)[:, :, None, None]), (filters, taps), *behind)
    pipeline.apply(graph, pipeline.FUSE)
    kind = "Separable" if behind else "Conv"
    assert [node.op.kind for node in graph.nodes()][-1] == kind
    engine = Engine(Plans(graph, "fp16"), torch.device("cpu"))

    def infinite(x: np.ndarray) -> bool:
        return not engine({"x": torch.from_numpy(x.astype(np.float32))}, 1)["y"].isfinite().all()

    assert not infinite(ONES * 5e3) and found(graph, ONES * 5e3) == []  # 4 * 3 * 5e3 is 6e4
    assert infinite(ONES * 8e3)
    (one,) = found(graph, ONES * 8e3)
    assert one.end == "large" and one.value == pytest.approx(96e3) and "onnx1" in one.onnx_nodes
    assert leaving(graph, graph, "fp16", [{"x": np.float32(ONES * 8e3)}], keep=["onnx1"]) == []
    kept = Engine(Plans(graph, "fp16", keep=["onnx1"]), torch.device("cpu"))
    assert kept({"x": torch.full((1, 2, 3, 3), 8e3)}, 1)["y"].abs().max() <= 1.0


@pytest.mark.parametrize("weight", [7e4, 1e-6])
def test_weights_out_of_range(weight):
    graph = chain((Conv(kernel=(1, 1)), np.full((2, 2, 1, 1), weight)))
    (one,) = found(graph, ONES / weight)
    assert (one.region, one.reader, one.end) == ("node0", "node0", "large" if weight > 1 else "small")
    assert one.value == pytest.approx(weight)


def test_networks():
    for model, names in ((overflowing(), ("grow", "join")), (underflowing(), ("filter", "square"))):
        made = compiling.compile(model, "torch")
        regions = leaving(made.simplified, made.fused, "fp16", examples(made.inputs))
        assert {name for one in regions for name in one.onnx_nodes} >= set(names)
        assert "last" not in {name for one in regions for name in one.onnx_nodes}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_not_finite_or_zero_is_no_end():
    x = np.array([0.0, np.inf, -np.inf, np.nan, 3.0, -1e-6]).reshape(1, 1, 2, 3)
    graph = chain((NEG,), (LOG,), shape=x.shape)
    (one,) = found(graph, x)
    assert (one.region, one.end, one.reader) == ("node0", "small", "node1") and one.value == pytest.approx(1e-6)
    assert found(graph, np.zeros(x.shape)) == found(graph, np.full(x.shape, np.nan)) == []


def test_integers_have_no_range():
    graph = Graph()
    graph.add_input("x", Value((2, 3), "int64"))
    two = graph.add_constant(np.array(2))
    double = graph.add(Binary(fn="mul"), ["x", two], name="double").output
    graph.outputs = {"y": graph.add(Binary(fn="div"), ["x", double], name="ratio").output}
    assert leaving(graph, graph, "fp16", [{"x": np.arange(1, 7).reshape(2, 3)}]) == []
