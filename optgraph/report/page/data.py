"""What the page shows, as plain data: the facts that `inspect --json` has, and what is drawn of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optgraph.api.net import Net
from optgraph.base.devices import BANDWIDTH_REACHED, FLOPS_REACHED, PREDICTED, SM_90
from optgraph.cost.predict import predictable
from optgraph.report import facts
from optgraph.report.anatomy import graph_dict, schedule_dict, starts
from optgraph.report.hints import hints
from optgraph.report.page.steps import Steps, steps_dict
from optgraph.report.tables import size
from optgraph.run.backends import kernel_target

Dict = dict[str, Any]


def page_dict(
    net: Net,
    batch: int,
    target: str,
    steps: Steps | None = None,
    out_of_range: Sequence[Dict] = (),
    measured: Mapping[str, Any] | None = None,
    cached: bool = False,
) -> Dict:
    """Of a network for `batch` images, predicted for the GPU `target`.

    steps: what watched it compile; without, the graphs before and after fusion are all there is to see.
    out_of_range: its regions that leave fp16, as `Leaving.to_json` has them.
    measured: how long its regions took somewhere, a `profile_dict`.
    cached: whether to ask the kernels that were compiled on this machine before, too.
    Raises InputError for a target without a prediction.
    """
    gpu = predictable(target)
    schedule, cost = schedule_dict(net, batch, gpu), facts.cost_dict(net, batch, target, cached)
    times = [(launch["us"]["low"] + launch["us"]["high"]) / 2 for launch in cost["launches"]]
    for launch, costing, start in zip(schedule["launches"], cost["launches"], starts(schedule, times), strict=True):
        launch |= costing | {"start": round(start, 2)}
    device = gpu.device
    found = {
        "net": facts.net_dict(net, (batch,)),
        "device": device.name,
        "batch": schedule["batch"],
        "cost": {key: value for key, value in cost.items() if key != "launches"},
        "graph": graph_dict(net.fused),
        "schedule": schedule,
        "variants": facts.variants_dict(net),
        "passes": facts.passes_dict(net.reports),
        "out_of_range": list(out_of_range),
        "measured": measured,
        "rates": {
            "bytes": device.memory,
            "flops": device.flops[net.dtype],
            "reached": {"bytes": BANDWIDTH_REACHED, "flops": FLOPS_REACHED},
        },
    }
    found["hints"] = hints(found, times, device.sms)
    found["steps"] = steps_dict(steps or Steps.of(net.simplified, net.fused), _notes(schedule, measured))
    return found


def _notes(schedule: Dict, measured: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """What a box says beside its shape, by node: its time, its bytes, its kernels, what it took."""
    by_node: dict[str, list[Dict]] = {}
    for launch in schedule["launches"]:
        by_node.setdefault(launch["node"], []).append(launch)
    notes = {
        node: [
            "-".join(_digits(sum(launch["us"][end] for launch in launches)) for end in ("low", "high")) + " µs",
            size(sum(launch["read_bytes"] + launch["written_bytes"] for launch in launches)),
            ", ".join(dict.fromkeys(launch["kernel"] for launch in launches)),
        ]
        for node, launches in by_node.items()
    }
    for region in measured["regions"] if measured else ():
        notes.setdefault(region["region"], []).append(_measured(region["ms"]))
    return notes


def _digits(number: float) -> str:
    """As the page writes times."""
    return f"{number:.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def _measured(ms: float) -> str:
    return f"{_digits(ms)} ms" if ms >= 1 else f"{_digits(1e3 * ms)} µs"


def seen_on(net: Net) -> str:
    """The GPU it runs on, or the first its kernels are compiled for, that there is a prediction of; else an H100."""
    here = [kernel_target(net.backend)] if net.backend == "triton" else []
    found = (target for target in (*here, *(use.target for use in net.uses)) if target in PREDICTED)
    return str(next(found, SM_90))
