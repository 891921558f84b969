"""`torch.compile(module, backend="optgraph")` against the module itself: eight small ones, and the three networks.

    python -m benchmarks.torch_compile [--only SUBSTRING]

A module is called with batches of 2, 3 and 5, by ONNX Runtime and by the interpreted kernels; a network, in there, with
one image of 299 pixels. Writes benchmarks/results/torch_compile.json (whole runs only). It times nothing.
"""

from __future__ import annotations

import argparse
import copy
import os
import warnings
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TRITON_INTERPRET", "1")

import torch
from torch._dynamo.utils import counters
from torch.utils._pytree import tree_leaves

from benchmarks import record
from optgraph.adapters.torch_compile import EagerWarning, backend
from optgraph.api.net import Net
from optgraph.base.images import images
from tests.support.torch_modules import MODULES, settled
from tests.support.torch_networks import NETWORKS

BATCHES = (2, 3, 5)
SMALL, FULL = 32, 299  # pixels


def image(batch: int, size: int) -> torch.Tensor:
    return torch.from_numpy(images(batch, (batch, 3, size, size)))


def of_unit_scale(module: torch.nn.Module, x: torch.Tensor) -> torch.nn.Module:
    """The module with batchnorms that know `x`: else activations of many layers grow without end."""
    for inner in module.modules():
        if isinstance(inner, torch.nn.BatchNorm2d):
            inner.momentum = 1.0
            inner.train()
    with torch.no_grad():
        module(x)
    return module.eval()


def relative(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    """Of all tensors, the largest relative L2."""
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if isinstance(b, torch.Tensor)]
    return max(float((a.double() - b.double()).norm() / b.double().norm()) for a, b in pairs)


def compiled(module: torch.nn.Module, runs: str, inputs: Sequence[torch.Tensor]) -> dict[str, Any]:
    """What came of calls with these inputs. Raises EagerWarning if one ran as torch runs it."""
    torch._dynamo.reset()
    counters.clear()
    nets: list[Net] = []
    function = torch.compile(module, backend=backend, options={"backend": runs, "made": nets.append})
    off, graphs = [], []
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", EagerWarning)
        for x in inputs:
            off.append(relative(tree_leaves(function(x)), tree_leaves(module(x))))
            graphs.append(counters["stats"]["unique_graphs"])
    plans = [net.plan() for net in nets]
    return {
        "rel_l2": off,
        "graphs": graphs[0],
        "recompiles": graphs[-1] - graphs[0],
        "launches": sum(sum(plan.launches_by_kernel().values()) for plan in plans[: graphs[0]]),
        "fallbacks": sum(len(plan.fallbacks) for plan in plans),
    }


def measure(name: str) -> dict[str, Any]:
    """A module's row."""
    size = FULL if name in NETWORKS else SMALL
    module = settled({**MODULES, **NETWORKS}[name]())
    if name in NETWORKS:
        module = of_unit_scale(module, image(4, size))
    inputs = [image(batch, size) for batch in BATCHES]
    with torch.no_grad():
        exact = tree_leaves(copy.deepcopy(module).double()(inputs[0].double()))
        rounded = relative(tree_leaves(module(inputs[0])), exact)
        answers = [tree_leaves(module(image(1, size) * sign)) for sign in (1, -1)]
    apart = relative(answers[1][:1], answers[0][:1])
    row = {"graph": name, "size": size, "input_sensitivity": apart, "torch_to_float64": rounded}
    row |= compiled(module, "onnxruntime", inputs)
    kernels = compiled(module, "interpret", [image(1, size)] if name in NETWORKS else inputs)
    return row | {"rel_l2": {"onnxruntime": row["rel_l2"], "interpret": kernels["rel_l2"]}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="modules whose name contains this; writes nothing")
    options = parser.parse_args()
    rows = []
    for name in (*MODULES, *NETWORKS):
        if options.only in name:
            rows.append(measure(name))
            print(rows[-1], flush=True)
    if not options.only:
        print(record.write("torch_compile", rows, batches=BATCHES, dtype="fp32", reference="torch, eager"))


if __name__ == "__main__":
    main()
