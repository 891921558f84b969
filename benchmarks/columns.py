"""The columns of each table, and which rows of which results they are of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.gpu import report

Row = dict[str, Any]


def _number(name: str, form: str = "") -> Callable[[Row], str]:
    """What a row has of this name."""
    return lambda row: format(row[name], form)


def _named(*names: str) -> dict[str, Callable[[Row], str]]:
    """Columns that are called what rows call it."""
    return {name: _number(name) for name in names}


def _pixels(row: Row) -> str:
    return f"{row['size']}²"


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
            "ONNX nodes": _number("nodes"),
            "as simplified ONNX": _number("optimized_onnx_nodes"),
            **_named("launches", "fallbacks"),
            "MB before": _number("mb_per_image_before_fp16", ".1f"),
            "MB after": _number("mb_per_image_after_fp16", ".1f"),
            "import and passes, s": _number("import_and_passes_cpu_seconds", ".2f"),
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
            "two images apart": _number("input_sensitivity", ".2f"),
        },
    ),
    "family": (
        "family",
        "python -m benchmarks.family",
        {
            **_named("exporter"),
            "ONNX nodes": _number("nodes"),
            **_named("launches"),
            "fallbacks": _fallbacks,
            "verified by": lambda row: ", ".join(row["verified"]) or "none",
            "worst of them": lambda row: f"{max(row['verified'].values(), default=float('nan')):.1e}",
            "two images apart": _number("input_sensitivity", ".2f"),
        },
    ),
    "cost": (
        "cost",
        "python -m benchmarks.cost",
        {
            **_named("batch", "launches", "waves"),
            "MB": _number("activation_mb", ".1f"),
            "GFLOP": _number("gflop", ".1f"),
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
            **_named("batch", "launches"),
            "on the longest chain": _number("waves"),
            "said before, µs": _number("before_us", ".0f"),
            "predicted now, µs": lambda row: _span(row["now_us"]),
            "by tiles alone, µs": lambda row: _span(row["tiles_us"]),
            "goal, µs": _number("goal_us"),
            "goal": _goal,
        },
    ),
    "bounds": (
        "cost",
        "python -m benchmarks.cost",
        {
            **_named("batch", "kernel", "launches"),
            "all of them, µs": lambda row: _span(row["us"]),
            "what binds them": _bounds,
        },
    ),
    "int8": (
        "cost",
        "python -m benchmarks.cost",
        {
            **_named("batch", "launches", "fallbacks", "products"),
            "in int8": _number("int8_products"),
            "MB": _number("activation_mb", ".1f"),
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
            "pixels": _pixels,
            **_named("batch", "target", "launches"),
            "with TMA": _number("tma"),
            **_named("split"),
            "relative L2": _number("rel_l2", ".2e"),
            "with the interpreter's tiles": _number("rel_l2_own_tiles", ".2e"),
        },
    ),
    "paper": (
        "paper",
        PAPER,
        {
            "pixels": _pixels,
            **_named("batch", "target", "dtype", "cubins", "launches"),
            "with TMA": _number("tma"),
            **_named("split"),
            "relative L2": _number("rel_l2", ".2e"),
            "bound": _number("bound", ".2e"),
        },
    ),
    "paper_kernels": (
        "paper",
        PAPER,
        {
            **_named("target", "dtype", "samples"),
            "worst error, of its bound": _number("of_bound", ".0%"),
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
            "pixels": _pixels,
            **_named("batch", "target", "dtype", "launches", "different"),
            "GB of activations": _number("gigabytes", ".3g"),
        },
    ),
    "nnsmith": (
        "nnsmith",
        "python -m benchmarks.nnsmith",
        {
            **_named("backend", "models"),
            "agree": _number("agrees"),
            "as rounding may": _number("rounding"),
            **_named("undefined"),
            "differ": _number("differs"),
            **_named("refused", "failed"),
            "worst that agrees": _number("worst_rel_l2", ".1e"),
        },
    ),
    "launchers": (
        "launchers",
        "python -m benchmarks.launchers",
        {
            **_named("target", "kernels", "launches"),
            "tensor maps": _number("maps"),
            "differences": lambda row: f"{len(row['differences'])}",
        },
    ),
    "torch_compile": (
        "torch_compile",
        "python -m benchmarks.torch_compile",
        {
            "pixels": _pixels,
            **_named("graphs", "recompiles", "launches", "fallbacks"),
            "onnxruntime": _worst("onnxruntime"),
            "interpret": _worst("interpret"),
            "torch to float64": _number("torch_to_float64", ".1e"),
            "two images apart": _number("input_sensitivity", ".2f"),
        },
    ),
    "cubins": (
        "cubins",
        "python -m benchmarks.cubins",
        {
            **_named("target", "kernels"),
            "at batch 1": _number("kernels_at_batch_1"),
            "with wgmma": _number("wgmma"),
            "with TMA": _number("tma"),
            "most registers": _number("most_registers"),
            "bytes spilled": _number("spill_bytes"),
            "MB": _number("code_mb", ".1f"),
            "cold, s": _number("cold_seconds", ".0f"),
            "warm, s": _number("warm_seconds", ".1f"),
        },
    ),
    "loops": (
        "loops",
        "python -m benchmarks.loops",
        {
            **_named("tile", "warps", "registers"),
            "bytes spilled": _number("spill_bytes"),
            "blocks an SM": _number("blocks_per_sm"),
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
        {"optgraph, ms": _number("ms", ".3f")} | {f"× {peer}": _peer(peer) for peer in report.PEERS},
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
            "ONNX nodes": _number("nodes"),
            "optgraph optimize": _left("optgraph"),
            "onnxsim": _left("onnxsim"),
            "ONNX Runtime, basic": _left("onnxruntime"),
        },
    ),
    "cpu": (
        "cpu",
        "python -m benchmarks.cpu",
        {
            "optgraph, ms": _number("ours_ms", ".1f"),
            "ONNX Runtime, ms": _number("theirs_ms", ".1f"),
            "ratio": _number("ratio", ".2f"),
            "compile, s": _number("compile_seconds", ".1f"),
            "interquartile ranges, ms": _quartiles,
            "int8, ms": _int8,
        },
    ),
}
