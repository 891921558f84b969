"""What people see of a report: each table looks at a dict, of `facts` or of a result, and at nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from optgraph.compare.regions import how_far
from optgraph.report.layout import Listing, plain
from optgraph.report.layout import facts_table as _facts
from optgraph.report.layout import listing as _table


def net_table(data: Mapping[str, Any]) -> Table:
    """The table of a `net_dict`."""
    before, after = data["bytes_per_image"]["before"], data["bytes_per_image"]["after"]
    change = f" ({(after - before) / before:+.0%})" if before else ""
    arenas, predicted = data["arena_bytes_by_batch"].items(), data["predicted"]
    rows = {
        "network": f"{data['model'] or 'unnamed'}, {data['dtype']}",
        "operators": f"{data['nodes']}, simplified to {data['simplified_nodes']}, fused to {data['fused_nodes']}",
        "fused ops": counts(data["fused_ops"]),
        "launches": f"{data['launches']}: {counts(data['launches_by_kernel'])}",
        "bytes per image": f"{size(before)} -> {size(after)}{change}",
        "arena": ", ".join(f"{size(arena)} at batch {batch}" for batch, arena in arenas),
        **_sizes(data),
        "weights": size(data["weight_bytes"]),
        "predicted": f"{span(predicted['us'])} at batch {predicted['batch']} on an {predicted['device']}; not measured",
        "machine code": ", ".join(f"{n} kernels for {target}" for target, n in data["cubins"].items()) or "none",
        "placement": placement(data),
    }
    if data["pictures"]:
        rows["pictures"] = data["pictures"]
    if data["labels"]:
        rows["classes"] = f"{data['labels']}, with names"
    if data["kept_fp32"]:
        rows["kept in fp32"] = ", ".join(region["region"] for region in data["kept_fp32"])
    table = _facts(rows)
    for fallback in data["fallbacks"]:
        table.add_row("", plain(f"{fallback['node']} ({fallback['op']}): {fallback['reason']}"))
    return table


def _sizes(data: Mapping[str, Any]) -> dict[str, str]:
    """The row on the sizes of images in a `net_dict`, if it has any."""
    if not data["sizes"]:
        return {}
    batch = next(iter(data["arena_bytes_by_batch"]))
    arenas = ", ".join(f"{at} (arena {size(arena)} at batch {batch})" for at, arena in data["sizes"].items())
    return {"sizes": arenas + (f"; the rest is of {data['size']}" if len(data["sizes"]) > 1 else "")}


def cost_table(data: Mapping[str, Any]) -> Table:
    """The launches of a `cost_dict`."""
    table = _table("node", "wave", "kernel", "output", "blocks", "MB", "weights", "GFLOP", "µs", "bound")
    for launch in data["launches"]:
        moved, flops = launch["read_bytes"] + launch["written_bytes"], launch["flops"]
        numbers, us = (moved / 1e6, launch["weight_bytes"] / 1e6, flops / 1e9), launch["us"]
        table.add_row(
            plain(launch["node"]),
            str(launch["wave"]),
            launch["kernel"],
            _shapes(launch["outputs"]),
            str(launch["programs"]),
            *(f"{number:.2f}" for number in numbers),
            f"{us['low']:.1f}-{us['high']:.1f}",
            launch["bound"],
        )
    return table


def _shapes(shapes: Sequence[Sequence[int]]) -> str:
    """'1×35×35×64', and '1×35×35×64+48' of outputs that differ in their channels."""
    first = "×".join(map(str, shapes[0]))
    return "+".join([first, *(str(shape[-1]) for shape in shapes[1:])])


def prediction_table(data: Mapping[str, Any]) -> Table:
    """The totals of a `cost_dict`."""
    launches = data["launches"]
    bounds = Counter(launch["bound"] for launch in launches)
    compiled = sum(launch["compiled"] for launch in launches)
    moved = sum(launch["read_bytes"] + launch["written_bytes"] for launch in launches)
    weights = sum(launch["weight_bytes"] for launch in launches)
    rows = {
        "predicted": f"{span(data['predicted_us'])} on an {data['device']} at batch {data['batch']}; not measured",
        "waves": f"{data['waves']}; one launch after another: {span(data['sequential_us'])}",
        "roofline": f"{data['roofline_us'] / 1e3:.2f} ms, launch by launch, without latency, padding or idle SMs",
        "bound by": counts(bounds),
        "known from": f"machine code {compiled}, tiles {len(launches) - compiled}",
        "bytes": f"{size(moved)} of activations, {size(weights)} of weights",
        "FLOPs": f"{sum(launch['flops'] for launch in launches) / 1e9:.2f} G",
    }
    return _facts(rows)


def span(us: Mapping[str, float]) -> str:
    """'180-260 µs' or '1.8-2.6 ms', of microseconds."""
    low, high, unit = (us["low"], us["high"], "µs") if us["high"] < 1000 else (us["low"] / 1e3, us["high"] / 1e3, "ms")
    digits = 0 if high >= 20 else 1
    return f"{low:.{digits}f}-{high:.{digits}f} {unit}"


def variants_table(variants: Sequence[Mapping[str, Any]]) -> Table:
    """The table of a `variants_dict`."""
    launches = "launches at " + "/".join(map(str, variants[0]["launches"]))
    resources = ("registers", "spills", "shared", "tensor cores", "TMA", "blocks per SM", "waves")
    table = _table("kernel and variant", "target", launches, *resources)
    for v in variants:
        table.add_row(
            f"{v['kernel']} {v['variant']}",
            v["target"],
            "/".join(map(str, v["launches"].values())),
            str(v["registers"]),
            str(v["spills"]),
            size(v["shared_bytes"]),
            "wgmma" if v["wgmma"] else "mma" if v["mma"] else "–",
            "yes" if v["tma"] else "–",
            str(v["blocks_per_sm"]),
            "–" if v["waves"] is None else f"{v['waves']:.2f}",
        )
    return table


def variants_line(variants: Sequence[Mapping[str, Any]]) -> str:
    """'46 kernels of 1.9 MB; none spills registers'; and how many are in the place of others, and why."""
    spilling = sum(v["spills"] > 0 for v in variants)
    spills = f"{spilling} of them spill registers" if spilling else "none spills registers"
    reasons = [v["reason"] for v in variants if v["reason"]]
    replaced = f"; {len(reasons)} in the place of others that do not compile: {reasons[0]}" if reasons else ""
    return f"{len(variants)} kernels of {size(sum(v['code_bytes'] for v in variants))}; {spills}{replaced}"


def placement(data: Mapping[str, Any]) -> str:
    """Where the regions of a `net_dict` run, such as '92 of 94 regions Triton, 2 fallback: LRN ×2 (no kernel)'."""
    fallbacks, regions = data["fallbacks"], data["fused_nodes"]
    line = f"{regions - len(fallbacks)} of {regions} regions Triton"
    if not fallbacks:
        return line
    groups = Counter((f["op"], f["reason"]) for f in fallbacks).items()
    return f"{line}, {len(fallbacks)} fallback: {', '.join(f'{op} ×{n} ({reason})' for (op, reason), n in groups)}"


def passes_table(passes: Sequence[Mapping[str, Any]], every: bool = False) -> Table:
    """The table of a `passes_dict`. every: those that changed nothing have rows of their own, not one for them all."""
    table = _table("pass", "rewrites", "nodes after", "ms")
    idle = [] if every else [p for p in passes if not p["rewrites"]]
    for p in passes:
        if p not in idle:
            table.add_row(p["title"], str(p["rewrites"]), str(p["nodes_after"]), f"{p['ms']:.1f}")
    if idle:
        others = f"{len(idle)} others" if len(idle) > 1 else idle[0]["title"]
        table.add_row(others, "0", str(passes[-1]["nodes_after"]), f"{sum(p['ms'] for p in idle):.1f}")
    return table


def refusals_text(passes: Iterable[Mapping[str, Any]]) -> str:
    """What the passes of a `passes_dict` left alone, and why, a line each; '' for nothing."""
    return "\n".join(
        f"{p['title']}: {refusal['rule']} refused at '{refusal['node']}': {refusal['reason']}"
        for p in passes
        for refusal in p["refusals"]
    )


def verification_table(data: Mapping[str, Any]) -> Table:
    """The table of `Verification.to_json()`."""
    rows: dict[str, str | Sequence[str]] = {
        "answer": "ok" if data["ok"] else f"not ok: {data['reason']}",
        "compared": f"{data['backend']} ({data['dtype']}) with {data['reference']}, {_compared(data)}",
        "bound": f"{number(data['bound'])} relative L2; rounding alone makes {number(data['noise'])}",
        "outputs": list(map(_off, data["outputs"])),
        "regions": f"{data['regions_compared']} of {data['regions_total']} compared",
        "two inputs": f"{number(data['input_sensitivity'])} relative L2 apart in the reference's answers",
    }
    if data["notes"]:
        rows["note"] = data["notes"]
    if data["out_of_range"]:
        rows["leaves fp16"] = list(map(leaving, data["out_of_range"]))
    if data["kept_fp32"]:
        rows["kept in fp32"] = ", ".join(data["kept_fp32"])
    if data["first_bad_region"]:
        bad = data["first_bad_region"]
        nodes = ", ".join(bad["onnx_nodes"])
        rows["first wrong"] = f"{bad['region']} ({bad['op']}): {how_far(bad)}; ONNX nodes {nodes}"
    return _facts(rows)


def _compared(data: Mapping[str, Any]) -> str:
    batch = f"batch {data['batch']}"
    return batch if data["inputs"] == 1 else f"{data['inputs']} inputs, {batch}"


def _off(output: Mapping[str, Any]) -> str:
    """How far an output is off, in all the terms that it has."""
    parts = [f"{number(output['rel_l2'])} relative L2", f"{number(output['max_abs'])} largest difference"]
    if output["probability"] is not None:
        parts[1] += " of a probability"
    if output["top1"] is not None:
        parts.append(f"top-1 agrees on {output['top1']:.1%}")
    if output["top5"] is not None:
        parts.append(f"top-5 on {output['top5']:.1%}")
    return f"{output['name']}: {', '.join(parts)}"


def leaving(region: Mapping[str, Any]) -> str:
    """Where a region leaves the range of fp16, and by what names it is kept in float32."""
    nodes = f"ONNX nodes {', '.join(region['onnx_nodes'])}"
    if region["end"] == "large":
        return f"{region['region']} gives up to {number(region['value'])}, over 65504; {nodes}"
    return f"{region['region']} gives down to {number(region['value'])}, which {region['reader']} reads; {nodes}"


def unsupported_table(unsupported: Iterable[Mapping[str, Any]]) -> Table:
    """The table of the unsupported nodes of `Compatibility.to_json()`."""
    names = "node", "operator", "attribute", "not supported because", "what to do"
    table = Listing(*names, box=None, pad_edge=False)
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


def times_table(data: Mapping[str, Any]) -> Table:
    """The times in `Comparison.to_json()`, in milliseconds."""
    table = _table("ms", "median", "p90", "p99", "min", "max", "IQR", "images/s")
    for name, side in (("optgraph", "ours"), (data["against"], "theirs")):
        spread = data["spread"][side]
        times = [data[f"{side}_ms"], *(spread[key] for key in ("p90", "p99", "min", "max", "iqr"))]
        table.add_row(name, *(f"{time:.2f}" for time in times), f"{data['images_per_second'][side]:.4g}")
    return table


def comparison_table(data: Mapping[str, Any]) -> Table:
    """The rest of `Comparison.to_json()`."""
    rows = {
        "speed-up": f"{data['ratio']:.2f}× by pairs, {data['ratio_of_medians']:.2f}× by medians",
        "measured": f"{data['model']}, batch {data['batch']}, {data['repeats']} pairs of runs after {data['warm_up']}",
        "ours on": f"{data['backend']} {data['dtype']}, {data['device']}",
        "CPU threads": str(data["threads"]),
        "versions": ", ".join(f"{name} {version}" for name, version in data["versions"].items()),
    }
    return _facts(rows)


def tuning_table(data: Mapping[str, Any]) -> Table:
    """The table of `tune.summary()`."""
    fusions = data["fusions"]
    one = sum(fusion["one_launch"] for fusion in fusions)
    rows = {
        "problems": f"{data['problems']} measured, {data['changed']} get another tile than the predicted one",
        "fusions": f"{len(fusions)} measured: {one} in one launch, {len(fusions) - one} in several",
        "gain": f"{data['gain']:.1%} of their time in all",
        "rejected": f"{data['rejected']} tiles and launches, wrong or refused",
        "kept in": data["output"],
    }
    return _facts(rows | {f"{i}. {fusion['layer']}": _way(fusion) for i, fusion in enumerate(fusions, 1)})


def _way(fusion: Mapping[str, Any]) -> str:
    """How one fusion runs from now on, and whether that was predicted."""
    way, us, default = "one launch" if fusion["one_launch"] else "several launches", fusion["us"], fusion["default_us"]
    if default is None:
        return f"{way}, {us:.1f} µs; what was predicted is wrong or refused"
    return f"{way}, {us:.1f} µs" + (f", not {default:.1f} as predicted" if us < default else ", as predicted")


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
