"""What `profile` says: the regions by the time they took, as plain data, and a trace for Chrome's or Perfetto's viewer.

The trace is in Google's Trace Event Format: complete events with the ONNX nodes in their arguments, arrows for what one
stream waits for of another, and a counter of the memory in use.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from optgraph.api.net import Net
from optgraph.api.profile import Profile
from optgraph.report.anatomy import buffers
from optgraph.report.layout import plain

Dict = dict[str, Any]


def profile_dict(net: Net, profile: Profile) -> Dict:
    """The regions, the longest first, in milliseconds; `placed` is the share of all time that is of a region.

    On a GPU `ms` is the sum of launches timed one by one, `whole_ms` a run of the CUDA graph of them, and `host_bound`
    says that the GPU waited for the host between some.
    """
    nodes = {node.name: node for node in net.fused.nodes()}
    times = profile.by_region()
    total, whole = sum(times.values()) or 1.0, profile.whole
    return {
        "model": net.source.name,
        "backend": profile.backend,
        "batch": profile.batch,
        "runs": len(profile.runs),
        "ms": round(total * 1e3, 4),
        **({} if whole is None else {"whole_ms": round(whole * 1e3, 4), "host_bound": not profile.ahead}),
        "placed": round(1 - times.get("", 0.0) / total, 4),
        "regions": [
            {
                "region": name,
                "op": nodes[name].op.kind,
                "onnx_nodes": list(nodes[name].origin),
                "ms": round(seconds * 1e3, 4),
                "share": round(seconds / total, 4),
            }
            for name, seconds in times.items()
            if name
        ],
    }


def profile_table(data: Mapping[str, Any], top: int) -> Table:
    """The slowest regions of a `profile_dict`."""
    unit, scale, digits = ("µs", 1e3, 1) if "whole_ms" in data else ("ms", 1.0, 3)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, side in (("region", "left"), ("operator", "left"), ("ONNX nodes", "right"), (unit, "right")):
        table.add_column(column, justify=side)  # type: ignore[arg-type]
    table.add_column("share", justify="right")
    for region in data["regions"][:top]:
        took = f"{region['ms'] * scale:.{digits}f}"
        table.add_row(
            plain(region["region"]), region["op"], str(len(region["onnx_nodes"])), took, f"{region['share']:.1%}"
        )
    return table


def profile_line(data: Mapping[str, Any], top: int) -> str:
    """What all regions took, and how much of it is in the table."""
    shown = sum(region["share"] for region in data["regions"][:top])
    count = "one run" if data["runs"] == 1 else f"median of {data['runs']} runs"
    runs = f"{count} of batch {data['batch']} on {data['backend']}"
    if "whole_ms" in data:
        behind = "; the host was too slow, and some of its time is in these figures" if data["host_bound"] else ""
        return (
            f"{1e3 * data['ms']:.1f} µs, each launch by itself, {runs}; {shown:.0%} of it above\n"
            f"{1e3 * data['whole_ms']:.1f} µs as one CUDA graph, with branches at the same time{behind}"
        )
    return f"{data['ms']:.1f} ms, {runs}; {shown:.0%} of it above; {data['placed']:.1%} is of a region"


def trace_dict(net: Net, profile: Profile) -> Dict:
    """The typical run as a trace, a row for each stream, and one for the whole where that was timed, too. Times in
    microseconds."""
    origin = {node.name: list(node.origin) for node in net.fused.nodes()}
    spans = profile.typical()
    held = [span.held for span in spans] if profile.backend not in ("interpret", "triton") else _held(net, profile)
    events = [{"ph": "M", "name": "process_name", "args": {"name": net.source.name or "network"}, **_row(0)}]
    for stream in sorted({span.stream for span in spans}):
        name = f"{profile.backend}, stream {stream}"
        events.append({"ph": "M", "name": "thread_name", "args": {"name": name}, **_row(stream)})
    if profile.whole is not None:
        row = _row(1 + max(span.stream for span in spans))
        events.append({"ph": "M", "name": "thread_name", "args": {"name": "all, as one CUDA graph"}, **row})
        whole = {"ts": 0.0, "dur": _us(profile.whole), "args": {"launches": len(spans)}}
        events.append({"ph": "X", "name": "CUDA graph", "cat": "graph", **whole, **row})
    arrows = itertools.count(1)  # numbers: Perfetto drops an arrow by another name
    for i, span in enumerate(spans):
        start = _us(span.start)
        took = round(_us(span.start + span.seconds) - start, 3)  # so that it ends where the next begins, not behind
        args = {"region": span.region, "onnx_nodes": origin.get(span.region, [])}
        event = {"ph": "X", "name": span.name, "cat": span.kind, "ts": start, "dur": took, "args": args}
        events.append(event | _row(span.stream))
        if held[i] is not None:
            events.append({"ph": "C", "name": "memory", "ts": start, "args": {"bytes": held[i]}, **_row(0)})
        for j in span.waits:
            arrow = {"name": "waits", "cat": "waits", "id": next(arrows)}
            inside = _us(spans[j].start + spans[j].seconds / 2)  # an arrow begins in the piece that is there then
            events.append({"ph": "s", "ts": inside, **arrow, **_row(spans[j].stream)})
            events.append({"ph": "f", "bp": "e", "ts": start, **arrow, **_row(span.stream)})
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _us(seconds: float) -> float:
    return round(seconds * 1e6, 3)


def _row(stream: int) -> Dict:
    return {"pid": 1, "tid": stream + 1}


def _held(net: Net, profile: Profile) -> list[int]:
    """By launch, the bytes of the arena that hold data during it."""
    plan = net.plan(profile.batch)
    pieces = [(buffer["first"], buffer["last"], buffer["bytes"]) for buffer in buffers(plan)]
    return [sum(size for first, last, size in pieces if first <= i <= last) for i in range(len(plan.calls))]
