"""What the cost model says of the three networks and ResNet-50, in fp16. Predictions: nothing runs.

    python -m benchmarks.cost [--only SUBSTRING]

Writes benchmarks/results/cost.json (whole runs only).
"""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

import optgraph
from benchmarks import record
from optgraph.base.devices import PREDICTED
from optgraph.cost.predict import LATENCY, predict
from optgraph.cost.work import costs
from optgraph.ir.graph import Graph
from optgraph.passes import pipeline
from optgraph.plan.lowering import lower
from optgraph.plan.weights import Shapes

NETWORKS = (*record.NETWORKS, "resnet50")
BATCHES = (1, 8, 64, 128)


def fused(network: str) -> Graph:
    """The network as torch exports it, fused; its weights are not needed."""
    graph = optgraph.read(record.GRAPHS / f"torch_{network}.onnx", allow_stripped=True)
    pipeline.apply(graph, pipeline.SIMPLIFY + pipeline.FUSE)
    return graph


def measure(network: str, graph: Graph, batch: int) -> dict[str, Any]:
    """The row of one network and batch size; figures by image, times in microseconds."""
    weights = Shapes(graph.constants)
    plans = {str(target): lower(graph, batch, "fp16", target) for target in PREDICTED}
    plan = plans["sm_90"]
    launches = costs(plan, weights)
    kinds: Counter[str] = Counter()
    for launch in launches:
        kinds[launch.call.name] += launch.work.moved
    found = {target: predict(plan, weights) for target, plan in plans.items()}
    return {
        "graph": f"torch_{network}",
        "batch": batch,
        "launches": len(plan.calls),
        "waves": plan.waves,
        "activation_mb": sum(kinds.values()) / batch / 1e6,
        "activation_mb_by_kernel": {kind: moved / batch / 1e6 for kind, moved in kinds.most_common()},
        "weight_mb_per_batch": sum(launch.work.weight_bytes for launch in launches) / 1e6,
        "gflop": sum(sum(launch.work.flops.values()) for launch in launches) / batch / 1e9,
        "predicted_us": {target: p.overlapped / batch * 1e6 for target, p in found.items()},
        "one_after_another_us": {target: p.sequential / batch * 1e6 for target, p in found.items()},
        "roofline_us": {target: p.roofline / batch * 1e6 for target, p in found.items()},
        "bounds": {target: dict(Counter(launch.bound for launch in p.launches)) for target, p in found.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="networks whose name contains this; writes nothing")
    options = parser.parse_args()
    rows = []
    for network in NETWORKS:
        if options.only in network:
            graph = fused(network)
            rows += [measure(network, graph, batch) for batch in BATCHES]
            print(*rows[-len(BATCHES) :], sep="\n", flush=True)
    if not options.only:
        devices = {str(target): target.device.name for target in PREDICTED}
        print(record.write("cost", rows, prediction=True, dtype="fp16", devices=devices, latency_us=LATENCY * 1e6))


if __name__ == "__main__":
    main()
