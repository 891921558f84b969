"""A compiled network part by part, as plain data: its graph, and what its plan runs when and on which bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optgraph.api.net import Net
from optgraph.base.devices import Target
from optgraph.cost.work import costs
from optgraph.ir.graph import Graph
from optgraph.ir.words import op_text
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.view import View
from optgraph.plan.buffers import dry_launches
from optgraph.plan.plan import Plan
from optgraph.plan.schedule import Footprint

Dict = dict[str, Any]


def graph_dict(graph: Graph) -> Dict:
    """Its operators in a topological order, with the ONNX nodes that each stands for, and who reads what of whom."""
    return {
        "inputs": [{"name": name, **_value(graph, name)} for name in graph.inputs],
        "outputs": [
            {"name": public, "value": value, **_value(graph, value)} for public, value in graph.outputs.items()
        ],
        "nodes": [
            {
                "name": node.name,
                "op": node.op.kind,
                "text": op_text(node.op),
                "onnx_nodes": list(node.origin),
                "outputs": [{"value": value, **_value(graph, value)} for value in node.outputs],
            }
            for node in graph.nodes()
        ],
        "edges": [
            {"from": source.name if (source := graph.producer(value)) else None, "to": node.name, "value": value}
            for node in graph.nodes()
            for value in dict.fromkeys(node.inputs)
            if value and value not in graph.constants
        ],
    }


def _value(graph: Graph, name: str) -> Dict:
    value = graph.values[name]
    return {"shape": list(value.shape), "dtype": value.dtype}


def schedule_dict(net: Net, batch: int, target: Target) -> Dict:
    """What the plan for `batch` images on `target` runs: its launches, and the buffers of its arena.

    Of a launch: `waits` are the launches on other streams that it begins after, `reads` and `writes` buffers or inputs;
    `padded` is how often its tiles multiply what the product needs, None where tiles do not say; `variant` its place
    among the kernels compiled ahead, if it is one of them. Of a buffer: from which launch to which it holds data.
    """
    plan = net.plan(batch, target)
    nodes = {node.name: node for node in net.fused.nodes()}
    compiled = {use.variant: i for i, use in enumerate(net.uses) if use.target == target}
    schedule = plan.schedule
    launches = []
    for i, (cost, launch) in enumerate(
        zip(costs(plan, net.plans.shapes), dry_launches(plan, net.plans.shapes), strict=True)
    ):
        call, flops = cost.call, sum(cost.work.flops.values())
        program = cost.work.program
        launches.append(
            {
                "kernel": call.name,
                "node": call.node,
                "onnx_nodes": list(nodes[call.node].origin),
                "wave": schedule.wave[i],
                "stream": schedule.stream[i],
                "waits": list(schedule.waits[i]),
                "inputs": {path: list(view.shape) for path, view in call.reads.items()},
                "outputs": [list(view.shape) for view in call.written],
                "reads": list(dict.fromkeys(view.base for view in call.reads.values())),
                "writes": list(dict.fromkeys(view.base for view in call.written)),
                "programs": cost.programs,
                "padded": round(cost.programs * program.product / flops, 3) if program and flops else None,
                **(_tile(launch) if launch else {}),
                "variant": compiled.get(launch.variant) if launch and compiled else None,
            }
        )
    return {"batch": plan.batch, "target": str(target), "launches": launches, "buffers": buffers(plan)}


def _tile(launch: Launch) -> Dict:
    tile = launch.tile
    said = {"splits": tile.splits, "accumulators": tile.accumulators, "producers": tile.producers, "rows": tile.rows}
    return {
        "grid": list(launch.grid),
        "tile": [tile.block_m, tile.block_n, tile.block_k],
        "warps": tile.num_warps,
        "stages": tile.num_stages,
        **({"box": list(tile.box)} if tile.box else {}),
        **{name: value for name, value in said.items() if value > 1},
    }


def buffers(plan: Plan) -> list[Dict]:
    """Each buffer of the arena: where it is, and from which launch to which it holds data; as they begin."""
    found: dict[str, Dict] = {}
    for i, call in enumerate(plan.calls):
        for view in call.views():
            if view.base in plan.offsets:
                new = {"name": view.base, "offset": plan.offsets[view.base], "bytes": 0, "first": i, "last": i}
                buffer = found.setdefault(view.base, new)
                buffer["bytes"] = max(buffer["bytes"], Footprint.of(view).end)
                buffer["last"] = i
    for place in plan.outputs.values():
        if isinstance(place, View) and place.base in found:
            found[place.base]["last"] = len(plan.calls) - 1
    return list(found.values())


def starts(schedule: Mapping[str, Any], times: list[float]) -> list[float]:
    """When each launch begins, if each takes its time and waits for its stream and the others it has to."""
    ends: list[float] = []
    free: dict[int, float] = {}  # by stream
    begun = []
    for launch, time in zip(schedule["launches"], times, strict=True):
        start = max([free.get(launch["stream"], 0.0), *(ends[other] for other in launch["waits"])])
        begun.append(start)
        ends.append(start + time)
        free[launch["stream"]] = ends[-1]
    return begun
