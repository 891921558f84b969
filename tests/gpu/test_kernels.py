"""Every kernel on every distinct layer of the three networks, against float64, outputs poisoned with NaN.

The kernels are compiled and launched as the runtime does it: all cores at once, cubins through the driver.
"""

from __future__ import annotations

import itertools

import pytest
import torch

from benchmarks import record
from optgraph.base.dtypes import STORAGE
from optgraph.ir.graph import Graph
from optgraph.onnx import read
from optgraph.passes import pipeline
from optgraph.plan.lowering import lower
from optgraph.tune.layers import binder, layers, target_of
from tests.support.gpu_checks import wrong_layers

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", params=record.NETWORKS)
def graph(request: pytest.FixtureRequest) -> Graph:
    """The fused graph; layers get random operands, so that its stripped weights do."""
    graph = read.read(record.GRAPHS / f"torch_{request.param}.onnx", allow_stripped=True)
    pipeline.apply(graph, pipeline.SIMPLIFY + pipeline.FUSE)
    return graph


@pytest.mark.parametrize(("batch", "dtype"), [*itertools.product((1, 8), STORAGE), (64, "fp16")])
def test_every_layer(graph: Graph, batch: int, dtype: str) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    target = target_of(device)
    found = layers(lower(graph, batch, dtype, target), graph)
    assert len(found) > 20
    bind = binder([layer.dry(target) for layer in found], device)
    wrong = wrong_layers(found, device, bind)
    assert not wrong, f"{len(wrong)} of {len(found)} layers:\n" + "\n".join(wrong)
