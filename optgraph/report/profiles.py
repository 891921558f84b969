"""What `profile` says: the regions by the time they took, as plain data, and a trace for Chrome's or Perfetto's viewer.

The trace is in Google's Trace Event Format: complete events with the ONNX nodes in their arguments, arrows for what one
stream waits for of another, and a counter of the memory in use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from optgraph.api.net import Net
from optgraph.api.profile import Profile
from optgraph.report.anatomy import buffers
from optgraph.report.layout import plain

Dict = dict[str, Any]


def profile_dict(net: Net, profile: Profile) -> Dict:
    """The regions, the longest first, in milliseconds; `placed` is the share of all time that is of a region."""
    nodes = {node.name: node for node in net.fused.nodes()}
    times = profile.by_region()
    total = sum(times.values()) or 1.0
    return {
        "model": net.source.name,
        "backend": profile.backend,
        "batch": profile.batch,
        "runs": len(profile.runs),
        "ms": round(total * 1e3, 3),
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
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, side in (("region", "left"), ("operator", "left"), ("ONNX nodes", "right"), ("ms", "right")):
        table.add_column(column, justify=side)  # type: ignore[arg-type]
    table.add_column("share", justify="right")
    for region in data["regions"][:top]:
        numbers = str(len(region["onnx_nodes"])), f"{region['ms']:.3f}", f"{region['share']:.1%}"
        table.add_row(plain(region["region"]), region["op"], *numbers)
    return table


def profile_line(data: Mapping[str, Any], top: int) -> str:
    """What all regions took, and how much of it is in the table."""
    shown = sum(region["share"] for region in data["regions"][:top])
    count = "one run" if data["runs"] == 1 else f"median of {data['runs']} runs"
    runs = f"{count} of batch {data['batch']} on {data['backend']}"
    return f"{data['ms']:.1f} ms, {runs}; {shown:.0%} of it above; {data['placed']:.1%} is of a region"


def trace_dict(net: Net, profile: Profile) -> Dict:
    """The typical run as a trace, a row for each stream. Times in microseconds."""
    origin = {node.name: list(node.origin) for node in net.fused.nodes()}
    spans = profile.typical()
    held = [span.held for span in spans] if profile.backend != "interpret" else _held(net, profile)
    events = [{"ph": "M", "name": "process_name", "args": {"name": net.source.name or "network"}, **_row(0)}]
    for stream in sorted({span.stream for span in spans}):
        name = f"{profile.backend}, stream {stream}"
        events.append({"ph": "M", "name": "thread_name", "args": {"name": name}, **_row(stream)})
    for i, span in enumerate(spans):
        start, took = _us(span.start), _us(span.seconds)
        args = {"region": span.region, "onnx_nodes": origin.get(span.region, [])}
        event = {"ph": "X", "name": span.name, "cat": span.kind, "ts": start, "dur": took, "args": args}
        events.append(event | _row(span.stream))
        if held[i] is not None:
            events.append({"ph": "C", "name": "memory", "ts": start, "args": {"bytes": held[i]}, **_row(0)})
        for j in span.waits:
            arrow = {"name": "waits", "cat": "waits", "id": f"{j} {i}"}
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
