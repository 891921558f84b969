"""What the GPU results say: the answers, the targets and what was reached, the plot, and the rows of the tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.record import NETWORKS
from optgraph.base import store

Row = dict[str, Any]

PEERS = ("torch.compile", "torch eager", "optgraph, in turn", "JAX", "ONNX Runtime CUDA", "TensorRT")

# What was set out to be reached on an H100. Shown beside the figures, never asserted.
TIMES_COMPILED = {
    1: dict.fromkeys(NETWORKS, 3.0),
    128: {"xception": 2.0, "inception_v3": 1.6, "inception_resnet_v2": 1.6},
}
IMAGE_US = {
    1: {"inception_v3": 150.0, "xception": 150.0, "inception_resnet_v2": 450.0},
    128: {"inception_v3": 37.0, "xception": 55.0, "inception_resnet_v2": 80.0},
}
TIMES_PAIR = 1.8  # separable against cuDNN's depthwise and pointwise, geometric mean
TIMES_CUDNN = 1.0  # all other convolutions, geometric mean
CONVOLUTIONS = ("conv2d", "pointwise", "bottleneck")
COLD_START = 1.5  # seconds
LONGEST = 5  # regions of a profile that are named


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


class Target(NamedTuple):
    """what: is measured. wanted: at least, or at most. reached: None where nothing was measured."""

    what: str
    wanted: float
    most: bool
    reached: float | None

    def __str__(self) -> str:
        sign, reached = "≤" if self.most else "≥", "–"
        if self.reached is not None:
            met = self.reached <= self.wanted if self.most else self.reached >= self.wanted
            reached = f"{self.reached:.2f}  {'yes' if met else 'NO'}"
        return f"{self.what:58} {sign} {self.wanted:<6g} {reached}"


def targets(rows: list[Row]) -> list[Target]:
    """All that have been set, with what was reached."""
    found: list[Target] = []
    measured = {(row["network"], row["batch"]): row for row in networks(rows)}
    for batch, wanted in TIMES_COMPILED.items():
        for name, times in wanted.items():
            ratio = measured.get((name, batch), {}).get("ratio", {}).get("torch.compile")
            found.append(Target(f"{name}, batch {batch}, × torch.compile max-autotune", times, False, ratio))
    for batch, most in IMAGE_US.items():
        for name, us in most.items():
            ms = measured.get((name, batch), {}).get("ms")
            found.append(Target(f"{name}, batch {batch}, µs an image", us, True, ms and 1e3 * ms / batch))
    of_kernel: dict[str, list[float]] = {}
    for row in layers(rows):
        of_kernel.setdefault(row["kernel"], []).extend(row["cudnn"])
    pairs, others = of_kernel.get("separable", []), [r for name in CONVOLUTIONS for r in of_kernel.get(name, [])]
    what = f"separable, × cuDNN's pair, geometric mean of {len(pairs)}"
    found.append(Target(what, TIMES_PAIR, False, geomean(pairs) if pairs else None))
    what = f"convolutions, × cuDNN, geometric mean of {len(others)}"
    found.append(Target(what, TIMES_CUDNN, False, geomean(others) if others else None))
    for name in NETWORKS:
        own = (row for row in rows if (row["kind"], row["network"]) == ("cold start", name))
        cold = [row["seconds"] for row in own if "seconds" in row]
        found.append(Target(f"{name}, cold start, s", COLD_START, True, cold[0] if cold else None))
    return found


def summary(rows: list[Row]) -> list[str]:
    """Every figure of the race; then what was skipped and why."""
    lines = []
    for row in networks(rows):
        lines.append(f"{row['graph']:31} {row['ms']:8.3f} ms")
        lines += [f"{'':31} {ratio:8.2f} × {peer}" for peer, ratio in row["ratio"].items()]
    for row in layers(rows):
        count, worst = len(row["cudnn"]), min(row["cudnn"])
        lines.append(f"{row['graph']:31} {geomean(row['cudnn']):8.2f} × cuDNN, mean of {count}, worst {worst:.2f}")
        if row["separate"]:
            lines.append(f"{'':31} {geomean(row['separate']):8.2f} × our kernels called one by one")
    skipped = {f"skipped: {row.get('peer', row['kind'])}: {row['skipped']}" for row in rows if "skipped" in row}
    return [*lines, *sorted(skipped)]


def smoked(records: Mapping[str, Row]) -> list[str]:
    """How near to float64 the kernels are, and what the sanitizer did."""
    errors = {key: row["error"] / row["bound"] for key, row in records.items() if "bound" in row}
    worst = max(errors, key=lambda key: errors[key], default="")
    lines = [f"{len(errors)} right, off by {errors[worst]:.2f} of the bound at most: {worst}"] if errors else []
    return lines + [f"{key}: {_short(row)}" for key, row in records.items() if key not in errors]


def answers(records: Mapping[str, Row]) -> list[str]:
    """The six questions: measured beside predicted."""
    lines = []
    for key, row in records.items():
        low, high = row["predicted"]
        lines.append(f"{key:31} {row['value']:8.2f} {row['unit']}, predicted {low:g} to {high:g}")
        extras = row["us"] if isinstance(next(iter(row["us"].values())), dict) else {}
        lines += [f"{'':31} {times['median']:8.2f} µs {name}" for name, times in extras.items()]
    return lines


def fusions(records: Mapping[str, Row]) -> list[str]:
    """Where one launch loses to several, and by kernel and batch how many win."""
    groups: dict[str, list[Row]] = {}
    for row in records.values():
        groups.setdefault(f"{row['kernel']}, batch {row['batch']}", []).append(row)
    lines = []
    for name, rows in sorted(groups.items()):
        ratios = [row["ratio"] for row in rows]
        wins = sum(ratio > 1 for ratio in ratios)
        lines.append(f"{name:31} {geomean(ratios):8.2f} × separate launches, mean of {len(rows)}; {wins} gain")
        lines += [f"{'':31} {row['ratio']:8.2f} × {row['layer']}" for row in rows if row["ratio"] < 1]
    return lines


def profiles(records: Mapping[str, Row]) -> list[str]:
    """The graph of a network beside its launches one by one, and the regions that take longest."""
    lines = []
    for name, row in records.items():
        parts = f"{1e3 * row['ms']:.1f} µs of launches by themselves"
        lines.append(
            f"{name:31} {1e3 * row['whole_ms']:8.1f} µs as one graph; {parts}, {row['whole_over_parts']:.2f} of it"
        )
        for region in row["regions"][:LONGEST]:
            lines.append(f"{'':31} {1e3 * region['ms']:8.1f} µs {region['op']} {region['region']}")
    return lines


def report(out: Path) -> list[str]:
    """All of a folder's results, as far as there are some."""
    lines: list[str] = []

    def chapter(title: str, body: Iterable[str]) -> None:
        lines.extend(["", f"== {title}", *body])

    def kept(name: str) -> Mapping[str, Row]:
        return store.read(out / name).get("records", {})

    chapter("probe", [f"{key:20} {_short(row)}" for key, row in kept("gpu_probe.json").items()])
    chapter("smoke", smoked(kept("gpu_smoke.json")))
    chapter("questions", answers(kept("gpu_questions.json")))
    chapter("one launch against several", fusions(kept("gpu_fused.json")))
    tuned = [row for path in sorted((out / "tuned").glob("*.json")) for row in kept(f"tuned/{path.name}").values()]
    wrong = [f"{row['layer']}: {text}" for row in tuned for text in row["rejected"] if "off by" in text]
    chapter("tiles that are not right", wrong)
    chapter("where a network's time goes", profiles(kept("gpu_profile.json")))
    rows = list(kept("gpu.json").values())
    chapter("race", summary(rows))
    chapter("targets on an H100, and what was reached", map(str, targets(rows)))
    return lines[1:]


def _short(row: Row) -> str:
    values = (f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())
    return "; ".join(" ".join(value.split())[-160:] for value in values)


def plot_file(out: Path) -> None:
    """gpu.png beside gpu.json, if that has a network. Raises ImportError without matplotlib."""
    found = store.read(out / "gpu.json")
    rows = list(found.get("records", {}).values())
    if networks(rows):
        plot(rows, out / "gpu.png", str(found.get("identity", {}).get("gpu", "")))


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
