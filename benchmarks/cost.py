"""What the cost model says of the three networks and ResNet-50, in fp16 and in int8. Predictions: no kernel runs.

    python -m benchmarks.cost [--only SUBSTRING]

For H100 and A100 all kernels are compiled and their machine code is asked; for the others tiles alone. For int8, on an
H100, networks of random weights are quantised as `optgraph quantize` does it, on one random picture: kernels are the
same whatever the grids. Writes benchmarks/results/cost.json (whole runs only).
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import onnx

import optgraph
from benchmarks import record
from optgraph.ahead.build import compile_all
from optgraph.ahead.machines import known
from optgraph.base.devices import PREDICTED, SM_80, SM_90
from optgraph.base.dtypes import INT8
from optgraph.cost.predict import Prediction, predict
from optgraph.cost.work import Cost, costs
from optgraph.int8.float_model import FloatModel
from optgraph.int8.ranges import ranges
from optgraph.int8.write import Writer
from optgraph.ir.graph import Graph
from optgraph.kernels.frame.demand import Range, multiplied
from optgraph.passes import pipeline
from optgraph.plan.buffers import dry_launches
from optgraph.plan.lowering import lower
from optgraph.plan.plan import Plan
from optgraph.plan.weights import Shapes
from optgraph.run.example import example

NETWORKS = (*record.NETWORKS, "resnet50")
BATCHES = (1, 8, 64, 128)
COMPILED = (SM_90, SM_80)
# For an H100, microseconds an image: what the model said when it knew no machine code (before commit 4e5d05b), and what
# is aimed at.
BEFORE = {
    ("inception_v3", 1): 221,
    ("xception", 1): 348,
    ("inception_resnet_v2", 1): 716,
    ("inception_v3", 128): 41,
    ("xception", 128): 79,
    ("inception_resnet_v2", 128): 88,
}
GOALS = {
    ("inception_v3", 1): 150,
    ("xception", 1): 150,
    ("inception_resnet_v2", 1): 450,
    ("inception_v3", 128): 37,
    ("xception", 128): 55,
    ("inception_resnet_v2", 128): 80,
}


def fused(network: str) -> Graph:
    """The network as torch exports it, fused; its weights are not needed."""
    graph = optgraph.read(record.GRAPHS / f"torch_{network}.onnx", allow_stripped=True)
    pipeline.apply(graph, pipeline.SIMPLIFY + pipeline.FUSE)
    return graph


def quantised(network: str) -> Graph:
    """The same on grids of 8 bits, which is what int8 needs."""
    path = record.model(network)
    net = optgraph.compile(path, backend="torch")
    found = FloatModel.of(net)
    writer = Writer(ranges(found.model, [example(net.inputs, 1, seed=0)], "minmax"), True, False, onnx.load(path))
    graph = optgraph.read(writer.write(found.model))
    pipeline.apply(graph, pipeline.SIMPLIFY + pipeline.FUSE)
    return graph


def asked(plan: Plan, weights: Shapes) -> Prediction:
    """The prediction of `plan`, by its machine code where its target is one of those compiled for."""
    if plan.target not in COMPILED:
        return predict(plan, weights)
    compile_all({launch.variant for launch in dry_launches(plan, weights) if launch}, plan.target)
    return predict(plan, weights, known=known(plan, weights, cached=True))


def measure(network: str, graph: Graph, batch: int) -> Iterator[dict[str, Any]]:
    """The rows of one network and batch size; figures by image, times in microseconds."""
    weights = Shapes(graph.constants)
    plans = {target: lower(graph, batch, "fp16", target) for target in PREDICTED}
    found = {target: asked(plan, weights) for target, plan in plans.items()}
    plan, launches = plans[SM_90], costs(plans[SM_90], weights)
    row = {"graph": f"torch_{network}", "batch": batch}
    counted = {"launches": len(plan.calls), "waves": plan.waves}
    yield {
        "table": "cost",
        **row,
        **counted,
        **moved(launches, batch),
        "gflop": sum(sum(launch.work.flops.values()) for launch in launches) / batch / 1e9,
        "predicted_us": {str(target): _us(p.overlapped, batch) for target, p in found.items()},
        "one_after_another_us": {str(target): _us(p.sequential, batch) for target, p in found.items()},
        "roofline_us": {str(target): p.roofline / batch * 1e6 for target, p in found.items()},
    }
    if (network, batch) in GOALS:
        yield {
            "table": "goals",
            **row,
            **counted,
            "before_us": BEFORE[network, batch],
            "now_us": _us(found[SM_90].overlapped, batch),
            "tiles_us": _us(predict(plan, weights).overlapped, batch),
            "goal_us": GOALS[network, batch],
        }
        yield from ({"table": "bounds", **row, **binding} for binding in bindings(found[SM_90]))


def measure_int8(network: str, graph: Graph, batch: int) -> Iterator[dict[str, Any]]:
    """The rows of a network on grids; beside those of `measure`, its launches whose products are of integers."""
    weights, plan = Shapes(graph.constants), lower(graph, batch, INT8, SM_90)
    launches, prediction = costs(plan, weights), asked(plan, weights)
    products = [cost.launch for cost in launches if cost.launch and cost.work.flops]
    row = {"graph": f"torch_{network}", "batch": batch}
    yield {
        "table": "int8",
        **row,
        "launches": len(plan.calls),
        "waves": plan.waves,
        "fallbacks": len(plan.fallbacks),
        "products": len(products),
        "int8_products": sum(multiplied(launch) == INT8 for launch in products),
        **moved(launches, batch),
        "predicted_us": {str(SM_90): _us(prediction.overlapped, batch)},
        "roofline_us": {str(SM_90): prediction.roofline / batch * 1e6},
    }
    yield from ({"table": "int8_bounds", **row, **binding} for binding in bindings(prediction))


def moved(launches: Sequence[Cost], batch: int) -> dict[str, Any]:
    """What all launches move: activations by image, weights once."""
    kinds: Counter[str] = Counter()
    for launch in launches:
        kinds[launch.call.name] += launch.work.moved
    return {
        "activation_mb": sum(kinds.values()) / batch / 1e6,
        "activation_mb_by_kernel": {kind: moved / batch / 1e6 for kind, moved in kinds.most_common()},
        "weight_mb_per_batch": sum(launch.work.weight_bytes for launch in launches) / 1e6,
    }


def bindings(prediction: Prediction) -> Iterator[dict[str, Any]]:
    """For each kernel, the longest first: its launches, what all of them take, and what binds how many. Of the whole
    batch."""
    kernels: dict[str, list[Any]] = {}
    for launch in prediction.launches:
        kernels.setdefault(launch.cost.call.name, []).append(launch)
    for kernel, found in sorted(kernels.items(), key=lambda item: -sum(launch.time.middle for launch in item[1])):
        time = Range(sum(launch.time.low for launch in found), sum(launch.time.high for launch in found))
        bounds = Counter(launch.bound for launch in found)
        yield {"kernel": kernel, "launches": len(found), "us": _us(time), "bounds": dict(bounds.most_common())}


def _us(time: Range, batch: int = 1) -> list[float]:
    return [end / batch * 1e6 for end in time]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="networks whose name contains this; writes nothing")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for network in NETWORKS:
        if options.only in network:
            for make, look in ((fused, measure), (quantised, measure_int8)):
                graph = make(network)
                for batch in BATCHES:
                    made = list(look(network, graph, batch))
                    rows += made
                    print(*made, sep="\n", flush=True)
    if not options.only:
        devices = {str(target): target.device.name for target in PREDICTED}
        print(record.write("cost", rows, prediction=True, devices=devices))


if __name__ == "__main__":
    main()
