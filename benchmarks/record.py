"""Where a benchmark's figures go: one JSON file a run kind, with what is needed to judge them later."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
GRAPHS = ROOT / "examples" / "graphs"
NETWORKS = ("inception_v3", "inception_resnet_v2", "xception")
FILES = tuple(
    f"{exporter}_{network}"
    for network in NETWORKS
    for exporter in ("torch", "torch_bn", "dynamo", "keras_tf", "keras_torch")
    if (exporter, network) != ("keras_torch", "xception")
)


def environment() -> dict[str, Any]:
    """Device, versions, commit and date."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    packages = ("torch", "triton", "onnx", "onnxruntime", "networkx", "numpy")
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "device": _processor(),
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in packages},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def write(name: str, rows: list[dict[str, Any]], **about: Any) -> Path:
    """Writes benchmarks/results/<name>.json and returns its path."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(environment() | about | {"rows": rows}, indent=1) + "\n")
    return path
