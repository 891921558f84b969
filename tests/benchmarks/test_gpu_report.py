"""What the GPU results say: the summary, the tables, the plot."""

from __future__ import annotations

import pytest

from benchmarks import peers, record, tables
from benchmarks.gpu import report
from optgraph.base.store import Store
from optgraph.plan import lowering as lowering


def rows() -> list[dict[str, object]]:
    def timed(ours: float, **others: float) -> dict[str, object]:
        ms = {"ours": ours} | others
        ratio = {name: value / ours for name, value in others.items()}
        return {"ms": {name: {"median": value} for name, value in ms.items()}, "ratio": ratio}

    network = {"kind": "network", "network": "xception", "batch": 1}
    layer = {"kind": "layer", "layer": "x", "kernel": "conv2d", "batch": 8, "peer": "cuDNN", "network": "xception"}
    return [
        network | {"peer": "torch.compile"} | timed(0.2, theirs=0.8),
        network | {"peer": "torch eager"} | timed(0.3, theirs=0.6),
        network | {"peer": "TensorRT", "skipped": "not here"},
        network | {"peer": "torch.compile", "batch": 128} | timed(10.0, theirs=15.0),
        layer | timed(1.0, theirs=4.0),
        layer | timed(1.0, theirs=1.0),
        layer | {"kernel": "pointwise"} | timed(1.0, theirs=1.0, separate=3.0),
        {"kind": "cold start", "network": "xception", "seconds": 1.25, "process": 4.0},
    ]


def test_the_summary_has_every_figure() -> None:
    text = "\n".join(report.summary(rows()))
    assert "xception, batch 1" in text and "   0.300 ms\n" in text
    assert "4.00 × torch.compile" in text and "2.00 × torch eager" in text and "1.50 × torch.compile" in text
    assert "2.00 × cuDNN, mean of 2, worst 1.00" in text and "3.00 × our kernels called one by one" in text
    assert "skipped: TensorRT: not here" in text


def test_targets_stand_beside_what_was_reached() -> None:
    found = {target.what: target for target in report.targets(rows())}
    assert len(found) == 6 + 6 + 2 + 3
    lines = {what: " ".join(str(target).split()) for what, target in found.items()}
    compiled = "× torch.compile max-autotune"
    assert lines[f"xception, batch 1, {compiled}"].endswith("≥ 3 4.00 yes")
    assert lines[f"xception, batch 128, {compiled}"].endswith("≥ 2 1.50 NO")
    assert lines[f"inception_v3, batch 128, {compiled}"].endswith("≥ 1.6 –")
    assert lines["xception, batch 1, µs an image"].endswith("≤ 150 300.00 NO")
    assert lines["xception, batch 128, µs an image"].endswith("≤ 55 78.12 NO")
    assert lines["separable, × cuDNN's pair, geometric mean of 0"].endswith("≥ 1.8 –")
    assert lines["convolutions, × cuDNN, geometric mean of 3"].endswith("≥ 1 1.59 yes")
    assert lines["xception, cold start, s"].endswith("≤ 1.5 1.25 yes")


def test_the_report_has_all_that_a_folder_has(tmp_path) -> None:
    assert "targets on an H100" in "\n".join(report.report(tmp_path))  # of which nothing is there yet
    us = {"fused": {"median": 20.0}, "separate": {"median": 10.0}}
    question = {"value": 20.0, "unit": "µs", "predicted": [25.0, 35.0], "within": False, "us": us}
    fused = {"kernel": "separable", "layer": "separable x 1×19×19×728", "batch": 1, "us": us, "ratio": 0.5}
    regions = [{"region": f"/stem/{i}", "op": "Conv", "ms": 0.02 - 0.001 * i} for i in range(9)]
    for name, key, row in (
        ("gpu_probe", "device", {"name": "NVIDIA H100", "free_gib": 78.123}),
        ("gpu_questions", "separable, batch 1", question),
        ("gpu_smoke", "pool", {"error": 1e-4, "bound": 4e-4}),
        ("gpu_smoke", "dense", {"error": 3e-4, "bound": 4e-4}),
        ("gpu_smoke", "memcheck", {"skipped": "compute-sanitizer is not here"}),
        (
            "tuned/sm_90",
            "k",
            {"layer": "dense x", "rejected": ["Tile(1): off by inf, bound 2e-03", "Tile(2): refused"]},
        ),
        ("gpu_fused", "a", fused),
        ("gpu_fused", "b", fused | {"ratio": 2.0}),
        ("gpu_profile", "inception_v3 1", {"ms": 0.5, "whole_ms": 0.3, "whole_over_parts": 0.6, "regions": regions}),
    ):
        Store(tmp_path / f"{name}.json", {}).add(key, row)
    text = "\n".join(report.report(tmp_path))
    assert "name NVIDIA H100; free_gib 78.1" in text
    assert "2 right, off by 0.75 of the bound at most: dense" in text
    assert "memcheck: skipped compute-sanitizer is not here" in text
    assert "dense x: Tile(1): off by inf, bound 2e-03" in text and "refused" not in text
    assert "20.00 µs, predicted 25 to 35" in text and "10.00 µs separate" in text
    assert "1.00 × separate launches, mean of 2; 1 gain" in text and "0.50 × separable x 1×19×19×728" in text
    assert "300.0 µs as one graph; 500.0 µs of launches by themselves, 0.60 of it" in text
    assert "16.0 µs Conv /stem/4" in text and "/stem/5" not in text


def test_the_tables_show_them(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    assert "Not measured yet: `make gpu`" in tables.table("gpu")
    store = Store(tmp_path / "gpu.json", {"gpu": "NVIDIA H100 80GB HBM3"}, record.environment("abc"))
    for i, row in enumerate(rows()):
        store.add(str(i), row)
    assert "| xception, batch 1 | 0.300 | 4.00 | 2.00 | – | – | – | – |\n" in tables.table("gpu")
    assert "NVIDIA H100 80GB HBM3" in tables.table("gpu")
    assert "| conv2d, batch 8 | 2 | 2.00 | 1.00 | – |\n" in tables.table("gpu_layers")
    assert "| pointwise, batch 8 | 1 | 1.00 | 1.00 | 3.00 |\n" in tables.table("gpu_layers")
    assert tuple(peers.PEERS) == report.PEERS


def test_the_plot_is_a_picture(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    report.plot(rows(), tmp_path / "gpu.png", "a GPU")
    assert (tmp_path / "gpu.png").read_bytes().startswith(b"\x89PNG")
