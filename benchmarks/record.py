"""Where a benchmark's figures go: one JSON file a run kind, with what is needed to judge them later."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MODELS = Path(tempfile.gettempdir()) / "optgraph-models"  # calibrated networks, kept from one process to the next
GRAPHS = ROOT / "examples" / "graphs"
NETWORKS = ("inception_v3", "inception_resnet_v2", "xception")
FILES = tuple(
    f"{exporter}_{network}"
    for network in NETWORKS
    for exporter in ("torch", "torch_bn", "dynamo", "keras_tf", "keras_torch")
    if (exporter, network) != ("keras_torch", "xception")
)


def environment(commit: str = "") -> dict[str, Any]:
    """Device, versions, commit and date. commit: what to say where there is no git to ask."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": _commit() or commit,
        "device": _processor(),
        "cores": os.cpu_count(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    packages = ("torch", "triton", "onnx", "onnxruntime", "networkx", "numpy")
    return {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in packages}


def identity() -> dict[str, Any]:
    """What figures taken on the GPU depend on: the chip, the versions, the code."""
    import torch

    gpu = torch.cuda.get_device_properties(0)
    cuda = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return {"gpu": gpu.name, "multiprocessors": gpu.multi_processor_count, "sources": sources()} | versions() | cuda


def sources() -> str:
    """A digest of the code that figures depend on: the package, and the tiles it ships."""
    folders = (ROOT / "optgraph", ROOT / "kernels", ROOT / "passes")
    return digest(path for folder in folders for pattern in ("*.py", "tuned/*.json") for path in folder.rglob(pattern))


def digest(files: Iterable[Path]) -> str:
    """Of the names and contents of files, in any order."""
    whole = hashlib.sha256()
    for path in sorted(files):
        whole.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()[:16]


def model(network: str, folder: Path = MODELS) -> Path:
    """The network as torch exports it, with calibrated weights, in an ONNX file in `folder`."""
    import onnx

    from optgraph.base.files import replacing
    from optgraph.onnx import calibrate

    path = folder / f"{network}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        stripped = onnx.load(GRAPHS / f"torch_{network}.onnx", load_external_data=False)
        with replacing(path) as file:  # at once, for several processes may ask for it
            file.write(calibrate.calibrate(stripped).SerializeToString())
    return path


def _commit() -> str:
    try:
        asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return asked.stdout.strip()


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
