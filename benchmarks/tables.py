"""Fills the tables of README.md and docs/results.md from benchmarks/results/*.json.

    python -m benchmarks.tables

A table stands between `<!-- table:NAME -->` and `<!-- end -->`; everything between them is replaced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.gpu import report

DOCUMENTS = (record.ROOT / "README.md", record.ROOT / "docs" / "results.md")
MARKED = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

Row = dict[str, Any]


def fill(text: str) -> str:
    """`text` with every marked table made anew. Raises KeyError for a table nobody knows."""
    return MARKED.sub(lambda match: match[1] + table(match[2]) + match[3], text)


def table(name: str) -> str:
    """The named table as Markdown, with a line on when and where it was measured."""
    source, command, columns = TABLES[name]
    path = record.RESULTS / f"{source}.json"
    if not path.exists():
        return f"\nNot measured yet: `{command}`.\n\n"
    found = json.loads(path.read_text())
    header = "| graph | " + " | ".join(columns) + " |\n|---|" + "---:|" * len(columns) + "\n"
    rows = (
        f"| {row['graph']} | " + " | ".join(column(row) for column in columns.values()) + " |\n"
        for row in _rows(name, found)
    )
    return f"\n{header}{''.join(rows)}\n{_where(found, command)}\n\n"


def _rows(name: str, found: Row) -> list[Row]:
    if name in GPU:
        return GPU[name](found["records"].values())
    rows = [row for row in found["rows"] if row.get("table", name) == name]
    if name == "int8":  # beside the same in fp16
        fp16 = {(row["graph"], row["batch"]): row for row in found["rows"] if row["table"] == "cost"}
        rows = [row | {"fp16": fp16[row["graph"], row["batch"]]} for row in rows]
    return rows


def _where(found: Row, command: str) -> str:
    if found.get("prediction"):
        return f"Predicted by `{command}` on {found['date']}; no GPU was used."
    versions = found["versions"]
    shown = ", ".join(f"{p} {versions[p]}" for p in ("python", "torch", "triton", "onnxruntime"))
    return f"`{command}` on {found['date']}, {_device(found)}, {found['cores']} cores; {shown}."


def _device(found: Row) -> str:
    """The GPU, or else the processor."""
    return str(found.get("identity", {}).get("gpu", found["device"]))


def _peer(name: str) -> Callable[[Row], str]:
    """How many times ours a peer takes, '–' where it could not run."""
    return lambda row: f"{row['ratio'][name]:.2f}" if name in row["ratio"] else "–"


def _separate(row: Row) -> str:
    return f"{report.geomean(row['separate']):.2f}" if row["separate"] else "–"


def _worst(backend: str) -> Callable[[Row], str]:
    """The larger relative L2 of the images, '–' where the backend was not run."""
    return lambda row: f"{max(row['rel_l2'][backend]):.1e}" if backend in row["rel_l2"] else "–"


def _seconds(row: Row) -> str:
    return f"{row['interpret_seconds']:.0f}" if "interpret_seconds" in row else "–"


def _fallbacks(row: Row) -> str:
    return ", ".join(f"{count} {op}" for op, count in row["fallbacks"].items()) or "–"


def _outcome(schedule: int) -> Callable[[Row], str]:
    """What became of a broken kernel: right, wrong, or a fault."""
    return lambda row: row["outcomes"][schedule]


def _steps(kind: str) -> Callable[[Row], str]:
    """Of a call, before → now; '–' where it could not be done before."""
    return lambda row: " → ".join(f"{row[side][kind]:.0f}" if side in row else "–" for side in ("before", "now"))


def _us(target: str) -> Callable[[Row], str]:
    return lambda row: _span(row["predicted_us"][target])


def _goal(row: Row) -> str:
    """Where a goal stands in what is predicted."""
    low, high = row["now_us"]
    return "met" if high <= row["goal_us"] else "within" if low <= row["goal_us"] else "missed"


def _range(known: str) -> Callable[[Row], str]:
    """What a launch is predicted to take, by its machine code or its tile; '–' where that tells nothing."""
    return lambda row: _span(row["us"][known]) if known in row["us"] else "–"


def _span(ends: Sequence[float]) -> str:
    digits = 0 if ends[1] >= 20 else 1
    return "-".join(f"{end:.{digits}f}" for end in ends)


def _bounds(row: Row) -> str:
    """What binds the launches, most of them first."""
    return ", ".join(f"{bound} {count}" for bound, count in row["bounds"].items())


def _int8(row: Row) -> str:
    """How long it takes in int8, and how many times as long in float32, where that was measured."""
    return f"{row['int8_ms']:.1f} ({row['int8_ratio']:.2f}×)" if "int8_ms" in row else "–"


def _quartiles(row: Row) -> str:
    return " / ".join(f"{row['spread'][side]['iqr']:.1f}" for side in ("ours", "theirs"))


def _left(tool: str) -> Callable[[Row], str]:
    """Nodes that a simplifier leaves."""
    return lambda row: f"{row['left'][tool]}"


NETWORKS = "python -m benchmarks.networks --interpret"
RACE = "make gpu"
PAPER = "make paper"
# What the rows of a table are, where the results are records in the order they were taken.
GPU = {"gpu": report.networks, "gpu_layers": report.layers}
# name -> (results file, the command that makes it, the columns)
TABLES: dict[str, tuple[str, str, dict[str, Callable[[Row], str]]]] = {
    "networks": (
        "networks",
        NETWORKS,
        {
            "ONNX nodes": lambda row: f"{row['nodes']}",
            "as simplified ONNX": lambda row: f"{row['optimized_onnx_nodes']}",
            "launches": lambda row: f"{row['launches']}",
            "fallbacks": lambda row: f"{row['fallbacks']}",
            "MB before": lambda row: f"{row['mb_per_image_before_fp16']:.1f}",
            "MB after": lambda row: f"{row['mb_per_image_after_fp16']:.1f}",
            "import and passes, s": lambda row: f"{row['import_and_passes_cpu_seconds']:.2f}",
        },
    ),
    "accuracy": (
        "networks",
        NETWORKS,
        {
            "torch": _worst("torch"),
            "onnxruntime": _worst("onnxruntime"),
            "interpret": _worst("interpret"),
            "interpret, s": _seconds,
            "two images apart": lambda row: f"{row['input_sensitivity']:.2f}",
        },
    ),
    "family": (
        "family",
        "python -m benchmarks.family",
        {
            "exporter": lambda row: row["exporter"],
            "ONNX nodes": lambda row: f"{row['nodes']}",
            "launches": lambda row: f"{row['launches']}",
            "fallbacks": _fallbacks,
            "verified by": lambda row: ", ".join(row["verified"]) or "none",
            "worst of them": lambda row: f"{max(row['verified'].values(), default=float('nan')):.1e}",
            "two images apart": lambda row: f"{row['input_sensitivity']:.2f}",
        },
    ),
    "cost": (
        "cost",
        "python -m benchmarks.cost",
        {
            "batch": lambda row: f"{row['batch']}",
            "launches": lambda row: f"{row['launches']}",
            "waves": lambda row: f"{row['waves']}",
            "MB": lambda row: f"{row['activation_mb']:.1f}",
            "GFLOP": lambda row: f"{row['gflop']:.1f}",
            "H100, µs": _us("sm_90"),
            "A100, µs": _us("sm_80"),
            "RTX 4090, µs": _us("sm_89"),
            "A40, µs": _us("sm_86"),
            "H100 roofline, µs": lambda row: f"{row['roofline_us']['sm_90']:.0f}",
        },
    ),
    "goals": (
        "cost",
        "python -m benchmarks.cost",
        {
            "batch": lambda row: f"{row['batch']}",
            "launches": lambda row: f"{row['launches']}",
            "on the longest chain": lambda row: f"{row['waves']}",
            "said before, µs": lambda row: f"{row['before_us']:.0f}",
            "predicted now, µs": lambda row: _span(row["now_us"]),
            "by tiles alone, µs": lambda row: _span(row["tiles_us"]),
            "goal, µs": lambda row: f"{row['goal_us']}",
            "goal": _goal,
        },
    ),
    "bounds": (
        "cost",
        "python -m benchmarks.cost",
        {
            "batch": lambda row: f"{row['batch']}",
            "kernel": lambda row: row["kernel"],
            "launches": lambda row: f"{row['launches']}",
            "all of them, µs": lambda row: _span(row["us"]),
            "what binds them": _bounds,
        },
    ),
    "int8": (
        "cost",
        "python -m benchmarks.cost",
        {
            "batch": lambda row: f"{row['batch']}",
            "launches": lambda row: f"{row['launches']}",
            "fallbacks": lambda row: f"{row['fallbacks']}",
            "products": lambda row: f"{row['products']}",
            "in int8": lambda row: f"{row['int8_products']}",
            "MB": lambda row: f"{row['activation_mb']:.1f}",
            "MB in fp16": lambda row: f"{row['fp16']['activation_mb']:.1f}",
            "H100, µs": _us("sm_90"),
            "in fp16, µs": lambda row: _us("sm_90")(row["fp16"]),
            "roofline, µs": lambda row: f"{row['roofline_us']['sm_90']:.0f}",
        },
    ),
    "targets": (
        "targets",
        "python -m benchmarks.targets",
        {
            "pixels": lambda row: f"{row['size']}²",
            "batch": lambda row: f"{row['batch']}",
            "target": lambda row: row["target"],
            "launches": lambda row: f"{row['launches']}",
            "with TMA": lambda row: f"{row['tma']}",
            "split": lambda row: f"{row['split']}",
            "relative L2": lambda row: f"{row['rel_l2']:.2e}",
            "with the interpreter's tiles": lambda row: f"{row['rel_l2_own_tiles']:.2e}",
        },
    ),
    "paper": (
        "paper",
        PAPER,
        {
            "pixels": lambda row: f"{row['size']}²",
            "batch": lambda row: f"{row['batch']}",
            "target": lambda row: row["target"],
            "dtype": lambda row: row["dtype"],
            "cubins": lambda row: row["cubins"],
            "launches": lambda row: f"{row['launches']}",
            "with TMA": lambda row: f"{row['tma']}",
            "split": lambda row: f"{row['split']}",
            "relative L2": lambda row: f"{row['rel_l2']:.2e}",
            "bound": lambda row: f"{row['bound']:.2e}",
        },
    ),
    "paper_kernels": (
        "paper",
        PAPER,
        {
            "target": lambda row: row["target"],
            "dtype": lambda row: row["dtype"],
            "samples": lambda row: f"{row['samples']}",
            "worst error, of its bound": lambda row: f"{row['of_bound']:.0%}",
        },
    ),
    "paper_mutations": (
        "paper",
        PAPER,
        {name: _outcome(i) for i, name in enumerate(("early", "late", "mixed", "reverse"))},
    ),
    "paper_addresses": (
        "paper",
        PAPER,
        {
            "pixels": lambda row: f"{row['size']}²",
            "batch": lambda row: f"{row['batch']}",
            "target": lambda row: row["target"],
            "dtype": lambda row: row["dtype"],
            "launches": lambda row: f"{row['launches']}",
            "different": lambda row: f"{row['different']}",
            "GB of activations": lambda row: f"{row['gigabytes']:.3g}",
        },
    ),
    "nnsmith": (
        "nnsmith",
        "python -m benchmarks.nnsmith",
        {
            "backend": lambda row: row["backend"],
            "models": lambda row: f"{row['models']}",
            "agree": lambda row: f"{row['agrees']}",
            "as rounding may": lambda row: f"{row['rounding']}",
            "undefined": lambda row: f"{row['undefined']}",
            "differ": lambda row: f"{row['differs']}",
            "refused": lambda row: f"{row['refused']}",
            "failed": lambda row: f"{row['failed']}",
            "worst that agrees": lambda row: f"{row['worst_rel_l2']:.1e}",
        },
    ),
    "launchers": (
        "launchers",
        "python -m benchmarks.launchers",
        {
            "target": lambda row: row["target"],
            "kernels": lambda row: f"{row['kernels']}",
            "launches": lambda row: f"{row['launches']}",
            "tensor maps": lambda row: f"{row['maps']}",
            "differences": lambda row: f"{len(row['differences'])}",
        },
    ),
    "torch_compile": (
        "torch_compile",
        "python -m benchmarks.torch_compile",
        {
            "pixels": lambda row: f"{row['size']}²",
            "graphs": lambda row: f"{row['graphs']}",
            "recompiles": lambda row: f"{row['recompiles']}",
            "launches": lambda row: f"{row['launches']}",
            "fallbacks": lambda row: f"{row['fallbacks']}",
            "onnxruntime": _worst("onnxruntime"),
            "interpret": _worst("interpret"),
            "torch to float64": lambda row: f"{row['torch_to_float64']:.1e}",
            "two images apart": lambda row: f"{row['input_sensitivity']:.2f}",
        },
    ),
    "cubins": (
        "cubins",
        "python -m benchmarks.cubins",
        {
            "target": lambda row: row["target"],
            "kernels": lambda row: f"{row['kernels']}",
            "at batch 1": lambda row: f"{row['kernels_at_batch_1']}",
            "with wgmma": lambda row: f"{row['wgmma']}",
            "with TMA": lambda row: f"{row['tma']}",
            "most registers": lambda row: f"{row['most_registers']}",
            "bytes spilled": lambda row: f"{row['spill_bytes']}",
            "MB": lambda row: f"{row['code_mb']:.1f}",
            "cold, s": lambda row: f"{row['cold_seconds']:.0f}",
            "warm, s": lambda row: f"{row['warm_seconds']:.1f}",
        },
    ),
    "loops": (
        "loops",
        "python -m benchmarks.loops",
        {
            "tile": lambda row: row["tile"],
            "warps": lambda row: f"{row['warps']}",
            "registers": lambda row: f"{row['registers']}",
            "bytes spilled": lambda row: f"{row['spill_bytes']}",
            "blocks an SM": lambda row: f"{row['blocks_per_sm']}",
            "instructions a step": lambda row: f"{row.get('step', '–')}",
            "in all": lambda row: f"{row.get('instructions', '–')}",
            "predicted by it, µs": _range("code"),
            "by the tile, µs": _range("tile"),
            "bound": lambda row: row["bound"].get("code", row["bound"]["tile"]),
        },
    ),
    "host": (
        "host",
        "python -m benchmarks.host",
        {
            "Python functions": _steps("python"),
            "functions in C": _steps("c"),
            "torch operators": _steps("torch"),
            "µs on this processor": _steps("us"),
        },
    ),
    "gpu": (
        "gpu",
        RACE,
        {"optgraph, ms": lambda row: f"{row['ms']:.3f}"} | {f"× {peer}": _peer(peer) for peer in report.PEERS},
    ),
    "gpu_layers": (
        "gpu",
        RACE,
        {
            "layers": lambda row: f"{len(row['cudnn'])}",
            "× cuDNN": lambda row: f"{report.geomean(row['cudnn']):.2f}",
            "worst of them": lambda row: f"{min(row['cudnn']):.2f}",
            "× separate calls": _separate,
        },
    ),
    "simplifiers": (
        "simplifiers",
        "python -m benchmarks.simplifiers",
        {
            "ONNX nodes": lambda row: f"{row['nodes']}",
            "optgraph optimize": _left("optgraph"),
            "onnxsim": _left("onnxsim"),
            "ONNX Runtime, basic": _left("onnxruntime"),
        },
    ),
    "cpu": (
        "cpu",
        "python -m benchmarks.cpu",
        {
            "optgraph, ms": lambda row: f"{row['ours_ms']:.1f}",
            "ONNX Runtime, ms": lambda row: f"{row['theirs_ms']:.1f}",
            "ratio": lambda row: f"{row['ratio']:.2f}",
            "compile, s": lambda row: f"{row['compile_seconds']:.1f}",
            "interquartile ranges, ms": _quartiles,
            "int8, ms": _int8,
        },
    ),
}


def names(document: Path) -> Sequence[str]:
    """The tables that a document has, in order."""
    return [match[2] for match in MARKED.finditer(document.read_text())]


def main() -> None:
    for document in DOCUMENTS:
        document.write_text(fill(document.read_text()))
        print(f"filled {', '.join(names(document))} in {document}")


if __name__ == "__main__":
    main()
