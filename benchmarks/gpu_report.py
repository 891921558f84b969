"""What the GPU results say: the summary beside the targets, the plot, and the rows of the tables."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.record import NETWORKS

Row = dict[str, Any]

PEERS = ("torch.compile", "torch eager", "JAX", "ONNX Runtime CUDA", "TensorRT")

# What was set out to be reached on an H100. Shown beside the figures, never asserted.
MILLISECONDS = {"inception_v3": 0.25, "xception": 0.22}  # at batch 1
TIMES_COMPILED = {
    1: dict.fromkeys(NETWORKS, 3.0),
    128: {"xception": 2.0, "inception_v3": 1.6, "inception_resnet_v2": 1.6},
}
TIMES_CUDNN = {"conv2d": 1.0, "pointwise": 1.0, "bottleneck": 1.0, "separable": 1.8}  # geometric mean
TIMES_CUDNN_EACH = 0.85
TIMES_SEPARATE = 1.5
COLD_START = 1.5  # seconds


def geomean(ratios: Iterable[float]) -> float:
    logs = [math.log(ratio) for ratio in ratios]
    return math.exp(sum(logs) / len(logs))


def networks(rows: Iterable[Row]) -> list[Row]:
    """A row for each network and batch: our milliseconds (the median over the races), and every peer's ratio."""
    found: dict[tuple[str, int], Row] = {}
    for row in (row for row in rows if row["kind"] == "network" and "ms" in row):
        name, batch = row["network"], row["batch"]
        one = found.setdefault((name, batch), {"graph": f"{name}, batch {batch}", "network": name, "batch": batch})
        one.setdefault("ms", []).append(row["ms"]["ours"]["median"])
        one.setdefault("ratio", {})[row["peer"]] = row["ratio"]["theirs"]
    return [found[key] | {"ms": sorted(found[key]["ms"])[len(found[key]["ms"]) // 2]} for key in sorted(found)]


def layers(rows: Iterable[Row]) -> list[Row]:
    """A row for each kernel and batch: ratios to cuDNN and, of what is fused, to separate calls."""
    found: dict[tuple[str, int], Row] = {}
    for row in (row for row in rows if row["kind"] == "layer" and "ms" in row):
        kernel, batch = row["kernel"], row["batch"]
        one = found.setdefault((kernel, batch), {"graph": f"{kernel}, batch {batch}", "kernel": kernel, "batch": batch})
        one.setdefault("cudnn", []).append(row["ratio"]["theirs"])
        one.setdefault("separate", []).extend([row["ratio"]["separate"]] if "separate" in row["ratio"] else [])
    return [found[key] for key in sorted(found)]


def summary(rows: list[Row]) -> list[str]:
    """Every figure that has a target, beside it; then what was skipped and why."""
    lines = []
    for row in networks(rows):
        name, batch = row["network"], row["batch"]
        limit = MILLISECONDS.get(name) if batch == 1 else None
        lines.append(f"{row['graph']:31} {row['ms']:8.3f} ms{_target(limit)}")
        for peer, ratio in row["ratio"].items():
            wanted = TIMES_COMPILED.get(batch, {}).get(name) if peer == "torch.compile" else None
            lines.append(f"{'':31} {ratio:8.2f} × {peer}{_target(wanted)}")
    for row in layers(rows):
        wanted = _target(TIMES_CUDNN.get(row["kernel"]))
        lines.append(f"{row['graph']:31} {geomean(row['cudnn']):8.2f} × cuDNN, mean of {len(row['cudnn'])}{wanted}")
        lines.append(f"{'':31} {min(row['cudnn']):8.2f} × cuDNN, worst{_target(TIMES_CUDNN_EACH)}")
        if row["separate"]:
            mean = geomean(row["separate"])
            wanted = _target(TIMES_SEPARATE if row["kernel"] == "pointwise" else None)
            lines.append(f"{'':31} {mean:8.2f} × our kernels called one by one{wanted}")
    for row in (row for row in rows if row["kind"] == "cold start" and "seconds" in row):
        lines.append(f"{row['network'] + ', cold start':31} {row['seconds']:8.2f} s{_target(COLD_START)}")
    skipped = {f"skipped: {row.get('peer', row['kind'])}: {row['skipped']}" for row in rows if "skipped" in row}
    return [*lines, *sorted(skipped)]


def _target(wanted: float | None) -> str:
    return "" if wanted is None else f" (target {wanted})"


def plot(rows: list[Row], path: Path, device: str) -> None:
    """Images a second over the batch, a panel a network. Raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(NETWORKS), figsize=(13, 4), constrained_layout=True)
    for panel, name in zip(panels, NETWORKS, strict=True):
        speeds: dict[str, list[tuple[int, float]]] = {}
        for row in (row for row in networks(rows) if row["network"] == name):
            ours = 1e3 * row["batch"] / row["ms"]
            speeds.setdefault("optgraph", []).append((row["batch"], ours))
            for peer, ratio in row["ratio"].items():
                speeds.setdefault(peer, []).append((row["batch"], ours / ratio))
        for side, points in speeds.items():
            panel.loglog(*zip(*points, strict=True), marker="o", label=side)
        panel.set(title=name, xlabel="batch", ylabel="images a second")
        if speeds:
            panel.legend()
    figure.suptitle(f"fp16, {device}")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
