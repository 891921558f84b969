"""What the commands report: plain dicts, which are the JSON, and the tables that show them to people.

A `..._dict` function looks at a net or at results, a `..._table` function only at such a dict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table
from rich.text import Text

from optgraph.cost import weight_bytes
from optgraph.pipeline import PassReport
from optgraph.terminal import printable

if TYPE_CHECKING:
    from optgraph.net import Net

Dict = dict[str, Any]
TOP = 5


# ---- dicts


def net_dict(net: Net, batches: Sequence[int] = (1,)) -> Dict:
    """A compiled network in figures: operators, launches, bytes. Arena sizes are for each of `batches`."""
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
        "fallbacks": [{"node": f.node, "op": f.op, "reason": f.reason} for f in plan.fallbacks],
        "bytes_per_image": {"before": net.source.bytes_per_image, "after": plan.bytes_moved() // plan.batch},
        "arena_bytes": plan.arena_bytes,
        "arena_bytes_by_batch": {batch: p.arena_bytes for batch, p in plans.items()},
        "weight_bytes": weight_bytes(net.fused, net.dtype),
    }


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


def results_dict(results: Mapping[str, np.ndarray]) -> Dict:
    """Shape and dtype of each output, and the best classes of each image where it is N×classes."""
    return {name: {"shape": list(a.shape), "dtype": str(a.dtype), "top": _top(a)} for name, a in results.items()}


def _top(array: np.ndarray) -> list[list[Dict]] | None:
    """For each image the highest scores, best first; None if the array does not look like scores of classes."""
    if array.ndim != 2 or array.shape[1] < 2 or array.dtype.kind != "f":
        return None
    best = np.argsort(-array, axis=1, kind="stable")[:, :TOP]
    return [
        [{"class": int(c), "score": float(row[c])} for c in classes] for row, classes in zip(array, best, strict=True)
    ]


# ---- tables


def net_table(data: Mapping[str, Any]) -> Table:
    """The table of a `net_dict`."""
    before, after = data["bytes_per_image"]["before"], data["bytes_per_image"]["after"]
    change = f" ({(after - before) / before:+.0%})" if before else ""
    arenas = data["arena_bytes_by_batch"].items()
    rows = {
        "network": f"{data['model'] or 'unnamed'}, {data['dtype']}",
        "operators": f"{data['nodes']}, simplified to {data['simplified_nodes']}, fused to {data['fused_nodes']}",
        "fused ops": counts(data["fused_ops"]),
        "launches": f"{data['launches']}: {counts(data['launches_by_kernel'])}",
        "bytes per image": f"{size(before)} -> {size(after)}{change}",
        "arena": ", ".join(f"{size(arena)} at batch {batch}" for batch, arena in arenas),
        "weights": size(data["weight_bytes"]),
        "placement": placement(data),
    }
    table = _facts(rows)
    for fallback in data["fallbacks"]:
        table.add_row("", plain(f"{fallback['node']} ({fallback['op']}): {fallback['reason']}"))
    return table


def placement(data: Mapping[str, Any]) -> str:
    """Where the regions of a `net_dict` run, such as '92 of 94 regions Triton, 2 fallback: LRN ×2 (no kernel)'."""
    fallbacks, regions = data["fallbacks"], data["fused_nodes"]
    line = f"{regions - len(fallbacks)} of {regions} regions Triton"
    if not fallbacks:
        return line
    groups = Counter((f["op"], f["reason"]) for f in fallbacks).items()
    return f"{line}, {len(fallbacks)} fallback: {', '.join(f'{op} ×{n} ({reason})' for (op, reason), n in groups)}"


def passes_table(passes: Iterable[Mapping[str, Any]]) -> Table:
    """The table of a `passes_dict`."""
    table = _table("pass", "rewrites", "nodes after", "ms")
    for p in passes:
        table.add_row(p["title"], str(p["rewrites"]), str(p["nodes_after"]), f"{p['ms']:.1f}")
    return table


def results_table(results: Mapping[str, Any]) -> Table:
    """The table of a `results_dict`."""
    table = _table("output", "shape", "image", f"top {TOP}: class (score)")
    for name, result in results.items():
        shape = "×".join(map(str, result["shape"])) or "scalar"
        if result["top"] is None:
            table.add_row(plain(name), shape, "", "")
        for image, classes in enumerate(result["top"] or ()):
            best = ", ".join(f"{c['class']} ({c['score']:.4g})" for c in classes)
            table.add_row(plain(name), shape, str(image), best)
    return table


def verification_table(data: Mapping[str, Any]) -> Table:
    """The table of `Verification.to_json()`."""
    rows = {
        "answer": "ok" if data["ok"] else f"not ok: {data['reason']}",
        "compared": f"{data['backend']} ({data['dtype']}) with {data['reference']}, batch {data['batch']}",
        "bound": f"{number(data['bound'])} relative L2; rounding alone makes {number(data['noise'])}",
        "outputs": "\n".join(
            f"{o['name']}: {number(o['rel_l2'])} relative L2, {number(o['max_abs'])} largest difference"
            for o in data["outputs"]
        ),
        "regions": f"{data['regions_compared']} of {data['regions_total']} compared",
        "two inputs": f"{number(data['input_sensitivity'])} relative L2 apart in the reference's answers",
    }
    if data["first_bad_region"]:
        bad = data["first_bad_region"]
        nodes = ", ".join(bad["onnx_nodes"])
        rows["first wrong"] = f"{bad['region']} ({bad['op']}): {number(bad['rel_l2'])}; ONNX nodes {nodes}"
    return _facts(rows)


def unsupported_table(unsupported: Iterable[Mapping[str, Any]]) -> Table:
    """The table of the unsupported nodes of `Compatibility.to_json()`."""
    table = Table("node", "operator", "attribute", "not supported because", "what to do", box=None, pad_edge=False)
    for u in unsupported:
        table.add_row(*(plain(u[key]) for key in ("node", "op", "attribute", "reason", "remedy")))
    return table


def compatibility_table(data: Mapping[str, Any]) -> Table:
    """The other facts of `Compatibility.to_json()`."""
    unsupported, unjudged = len(data["unsupported"]), data["unjudged"]
    rows = {
        "answer": "ok" if data["ok"] else f"not ok: {unsupported} of {data['nodes']} nodes cannot be compiled",
        "placement": placement(data),
    }
    if unjudged:
        what = "node comes" if len(unjudged) == 1 else "nodes come"
        rows["not judged"] = f"{len(unjudged)} {what} after those: check again once they are gone"
    table = _facts(rows)
    for fallback in data["fallbacks"]:
        table.add_row("", plain(f"{', '.join(fallback['nodes'])} ({fallback['op']}): {fallback['reason']}"))
    return table


def comparison_table(data: Mapping[str, Any]) -> Table:
    """The table of `Comparison.to_json()`."""
    ours, theirs = data["spread"]["ours"], data["spread"]["theirs"]
    rows = {
        "optgraph": f"{data['ours_ms']:.2f} ms ({_spread(ours)})",
        data["against"]: f"{data['theirs_ms']:.2f} ms ({_spread(theirs)})",
        "speed-up": f"{data['ratio']:.2f}× by pairs, {data['ratio_of_medians']:.2f}× by medians",
        "measured": f"{data['model']}, batch {data['batch']}, {data['repeats']} pairs of runs",
        "ours on": f"{data['backend']} {data['dtype']}, {data['device']}",
        "CPU threads": str(data["threads"]),
        "versions": ", ".join(f"{name} {version}" for name, version in data["versions"].items()),
    }
    return _facts(rows)


def _spread(spread: Mapping[str, float]) -> str:
    return f"{spread['min']:.2f} to {spread['max']:.2f}, IQR {spread['iqr']:.2f}"


def _facts(rows: Mapping[str, str]) -> Table:
    """A table of one name and one text a row."""
    table = Table.grid("", "", padding=(0, 2))
    for key, value in rows.items():
        table.add_row(Text(key, style="bold"), plain(value))
    return table


def _table(*columns: str) -> Table:
    """A table whose first column is text and whose others, but for a last 'top' one, are numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 or column.startswith("top") else "right")
    return table


def counts(numbers: Mapping[str, int]) -> str:
    """'conv2d 12, pool 3', the most frequent first."""
    return ", ".join(f"{name} {n}" for name, n in sorted(numbers.items(), key=lambda item: (-item[1], item[0])))


def number(value: float | None) -> str:
    """Three digits; None is what JSON has for NaN and infinity."""
    return "not finite" if value is None else f"{value:.3g}"


def size(count: float) -> str:
    """A number of bytes for people, in decimal units."""
    for unit in ("bytes", "KB", "MB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def plain(text: str) -> Text:
    """Text from a file, shown as it is: no markup, and nothing that a terminal would obey."""
    return Text(printable(text), overflow="fold")
