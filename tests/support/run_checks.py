"""A graph through its kernels, in the interpreter, against the reference in float64."""

from __future__ import annotations

import math

import numpy as np
import torch

from optgraph.ir.graph import Graph
from optgraph.plan.plan import Plan
from optgraph.plan.plans import Plans
from optgraph.run import reference
from optgraph.run.engine import Engine


def feeds_for(graph: Graph, batch: int, positive: bool = False) -> dict[str, np.ndarray]:
    """Random inputs; `positive`: of numbers above a half."""
    rng, feeds = np.random.default_rng(7), {}
    for name in graph.inputs:
        shape = [batch if isinstance(d, str) else d for d in graph.shape(name)]
        array = np.asarray(rng.standard_normal(shape))
        feeds[name] = np.asarray(np.abs(array) + 0.5 if positive else array, np.float32)
    return feeds


def kernels_agree(graph: Graph, batch: int = 2, dtype: str = "fp32", positive: bool = False) -> Plan:
    """Asserts that nothing falls back, and that every output is what the reference makes of it. Returns the plan.

    batch: where an input has an open one.
    """
    batch = batch if any("N" in graph.shape(name) for name in graph.inputs) else 1
    feeds = feeds_for(graph, batch, positive)
    expected = reference.run(graph, feeds, torch.float64)
    engine = Engine(Plans(graph, dtype), torch.device("cpu"))
    plan = engine.plan(batch)
    assert not plan.fallbacks, plan.fallbacks
    found = engine({name: torch.from_numpy(array) for name, array in feeds.items()}, batch)
    bound = {"fp32": 2e-6, "fp16": 3e-3, "bf16": 2e-2}[dtype]
    for name, wanted in expected.items():
        assert found[name].shape == wanted.shape
        error = (found[name].double() - wanted).norm() / wanted.norm()
        assert math.isfinite(error) and error <= bound, f"'{name}' is off by {error:.1e}"
    return plan
