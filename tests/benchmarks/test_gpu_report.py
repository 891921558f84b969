"""What the GPU results say: the summary, the tables, the plot."""

from __future__ import annotations

import pytest

from benchmarks import gpu_report, peers, record, tables
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


def test_the_summary_puts_figures_beside_targets() -> None:
    text = "\n".join(gpu_report.summary(rows()))
    assert "xception, batch 1" in text and "0.300 ms (target 0.22)" in text
    assert "4.00 × torch.compile (target 3.0)" in text and "2.00 × torch eager\n" in text
    assert "1.50 × torch.compile (target 2.0)" in text
    assert "2.00 × cuDNN, mean of 2 (target 1.0)" in text and "1.00 × cuDNN, worst (target 0.85)" in text
    assert "3.00 × our kernels called one by one (target 1.5)" in text
    assert "1.25 s (target 1.5)" in text and "skipped: TensorRT: not here" in text


def test_the_tables_show_them(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    assert "Not measured yet: `make gpu`" in tables.table("gpu")
    store = Store(tmp_path / "gpu.json", {"gpu": "NVIDIA H100 80GB HBM3"}, record.environment("abc"))
    for i, row in enumerate(rows()):
        store.add(str(i), row)
    assert "| xception, batch 1 | 0.300 | 4.00 | 2.00 | – | – | – |\n" in tables.table("gpu")
    assert "NVIDIA H100 80GB HBM3" in tables.table("gpu")
    assert "| conv2d, batch 8 | 2 | 2.00 | 1.00 | – |\n" in tables.table("gpu_layers")
    assert "| pointwise, batch 8 | 1 | 1.00 | 1.00 | 3.00 |\n" in tables.table("gpu_layers")
    assert tuple(peers.PEERS) == gpu_report.PEERS


def test_the_plot_is_a_picture(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    gpu_report.plot(rows(), tmp_path / "gpu.png", "a GPU")
    assert (tmp_path / "gpu.png").read_bytes().startswith(b"\x89PNG")
