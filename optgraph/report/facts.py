"""What the commands report, as plain dicts: a net or its results in figures. The JSON, and what the tables show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from optgraph.ahead.machines import known
from optgraph.base.devices import SM_90
from optgraph.cost.predict import Prediction, predict, predictable
from optgraph.cost.work import moved_per_image, weight_bytes
from optgraph.kernels.frame.demand import Range
from optgraph.kernels.frame.occupancy import blocks_per_sm
from optgraph.onnx.sizes import size_text
from optgraph.passes.pipeline import PassReport
from optgraph.plan.kept import regions
from optgraph.plan.plan import Plan

if TYPE_CHECKING:
    from optgraph.api.net import Net

Dict = dict[str, Any]


def net_dict(net: Net, batches: Sequence[int] = (1,)) -> Dict:
    """A compiled network in figures: operators, launches, bytes. Arena sizes are for each of `batches`.

    sizes: of its images, if the model leaves them open, and the bytes of the arena at each, for the first batch. The
    rest is of `size`, the first.
    """
    plans = {batch: net.plan(batch) for batch in batches}
    plan = plans[batches[0]]
    return {
        "model": net.source.name,
        "dtype": net.dtype,
        "nodes": net.source.nodes,
        "simplified_nodes": len(net.simplified),
        "fused_nodes": len(net.fused),
        "fused_ops": dict(sorted(Counter(node.op.kind for node in net.fused.nodes()).items())),
        "launches": len(plan.calls),
        "launches_by_kernel": plan.launches_by_kernel(),
        "kept_fp32": [{"region": n.name, "onnx_nodes": list(n.origin)} for n in regions(net.fused, net.plans.keep)],
        "fallbacks": [{"node": f.node, "op": f.op, "reason": f.reason} for f in plan.fallbacks],
        "bytes_per_image": {"before": net.source.bytes_per_image, "after": moved_per_image(plan, net.plans.shapes)},
        "arena_bytes": plan.arena_bytes,
        "arena_bytes_by_batch": {batch: p.arena_bytes for batch, p in plans.items()},
        "weight_bytes": weight_bytes(net.fused, net.dtype),
        "size": size_text(net.size) if net.size else None,
        "sizes": {size_text(size): net.at(*size).plan(batches[0]).arena_bytes for size in net.sizes},
        "predicted": _predicted(net),
        "cubins": dict(Counter(cubin.target for cubin in net.cubins)),
        "preprocessing": net.preprocessing.to_json() if net.preprocessing else None,
        "pictures": net.preprocessing.described() if net.preprocessing else None,
        "labels": len(net.labels),
    }


def _predicted(net: Net) -> Dict:
    """The cost model's time of the smallest batch on an H100."""
    plan = net.plan(1, SM_90)
    prediction = _prediction(net, plan)
    return {"device": SM_90.device.name, "batch": plan.batch, "us": _us(prediction.overlapped)}


def _prediction(net: Net, plan: Plan, cached: bool = False) -> Prediction:
    weights = net.plans.shapes
    return predict(plan, weights, known=known(plan, weights, net.cubins, cached))


def cost_dict(net: Net, batch: int, target: str, cached: bool = False) -> Dict:
    """Every launch of `net` for `batch` images, and what the cost model says of it on a GPU such as 'sm_90' or 'h100'.

    Nothing in it is measured. Times are in microseconds, from `low` to `high`; all figures are for the whole batch.
    Kernels that the net has compiled for that GPU are asked and, if `cached`, those compiled on this machine before:
    they count as `compiled`; of others the tile is reckoned with.
    Raises InputError for another target.
    """
    there = predictable(target)
    plan = net.plan(batch, there)
    prediction = _prediction(net, plan, cached)
    return {
        "device": prediction.device.name,
        "target": str(there),
        "batch": plan.batch,
        "waves": plan.waves,
        "predicted_us": _us(prediction.overlapped),
        "sequential_us": _us(prediction.sequential),
        "roofline_us": round(prediction.roofline * 1e6, 2),
        "launches": [
            {
                "wave": wave,
                "kernel": launch.cost.call.name,
                "node": launch.cost.call.node,
                "outputs": [list(view.shape) for view in launch.cost.call.written],
                "programs": launch.cost.programs,
                "read_bytes": launch.cost.work.read,
                "written_bytes": launch.cost.work.written,
                "weight_bytes": launch.cost.work.weight_bytes,
                "flops": sum(launch.cost.work.flops.values()),
                "us": _us(launch.time),
                "bound": launch.bound,
                "compiled": launch.compiled,
            }
            for wave, launch in zip(plan.schedule.wave, prediction.launches, strict=True)
        ],
    }


def _us(seconds: Range) -> dict[str, float]:
    return {"low": round(seconds.low * 1e6, 2), "high": round(seconds.high * 1e6, 2)}


def variants_dict(net: Net) -> list[Dict]:
    """The kernels that `compile` made for its targets, by Triton's and NVIDIA's own figures.

    launches: how many use it, by batch size. blocks, waves: of the largest of these launches, on a whole such GPU.
    reason: why it is in the place of another one, which did not compile; None if it is not.
    """
    rows = []
    for use, cubin in zip(net.uses, net.cubins, strict=True):
        resident = blocks_per_sm(cubin.registers, cubin.shared_bytes, cubin.num_warps, use.target.device)
        at_once = resident * use.target.device.sms
        rows.append(
            {
                "kernel": cubin.kernel,
                "variant": use.description,
                "target": cubin.target,
                "registers": cubin.registers,
                "spills": cubin.spill_bytes,
                "shared_bytes": cubin.shared_bytes,
                "mma": cubin.mma,
                "wgmma": cubin.wgmma,
                "tma": cubin.tma,
                "warps": cubin.num_warps,
                "stages": use.variant.num_stages,
                "launches": dict(use.launches),
                "code_bytes": len(cubin.code),
                "blocks_per_sm": resident,
                "blocks": use.blocks,
                "waves": round(use.blocks / at_once, 2) if at_once else None,
                "reason": use.reason or None,
            }
        )
    return rows


def passes_dict(reports: Iterable[PassReport]) -> list[Dict]:
    """What each pass did, in order; times in milliseconds."""
    return [
        {
            "name": r.name,
            "title": r.title,
            "rewrites": r.rewrites,
            "nodes_before": r.nodes_before,
            "nodes_after": r.nodes_after,
            "ms": round(r.seconds * 1e3, 3),
            "refusals": [{"rule": f.rule, "node": f.node, "reason": f.reason} for f in r.refusals],
        }
        for r in reports
    ]
