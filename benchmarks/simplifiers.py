"""How many nodes are left of a network after `optgraph optimize`, onnxsim, and ONNX Runtime's basic optimisations.

    python -m benchmarks.simplifiers [--only SUBSTRING]

All three write standard ONNX, of the same file: a graph of examples/graphs with calibrated weights. onnxsim is fetched
by pip into build/. A simplified file counts if ONNX Runtime, optimisations off, gets the original's answer out of it.
Writes benchmarks/results/simplifiers.json (whole runs only).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

import optgraph
from benchmarks import record
from optgraph.base.images import images
from optgraph.ir.values import channels_last
from optgraph.onnx import calibrate, write
from optgraph.onnx.sessions import session

ONNXSIM = "0.8.1"
BUILD = record.ROOT / "build" / f"onnxsim-{ONNXSIM}"
BOUND = 1e-4  # relative L2 of the answers, in float32


def optgraph_optimize(source: Path, to: Path) -> None:
    onnx.save(write.to_onnx(optgraph.simplify(optgraph.read(source))), to)


def onnxsim(source: Path, to: Path) -> None:
    if not BUILD.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(BUILD)]
        subprocess.run([*pip, f"onnxsim=={ONNXSIM}"], check=True)
    code = "import sys; sys.path.append(sys.argv[1]); from onnxsim import main; sys.argv[1:] = sys.argv[2:]; main()"
    command = [sys.executable, "-c", code, str(BUILD), str(source), str(to)]
    subprocess.run(command, check=True, capture_output=True)


def onnxruntime_basic(source: Path, to: Path) -> None:
    """What it writes for any provider; the levels above make operators of its own."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(to)
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


SIMPLIFIERS: dict[str, Callable[[Path, Path], None]] = {
    "optgraph": optgraph_optimize,
    "onnxsim": onnxsim,
    "onnxruntime": onnxruntime_basic,
}


def measure(name: str, folder: Path) -> dict[str, Any]:
    """One graph's row."""
    source = folder / f"{name}.onnx"
    onnx.save(calibrate.calibrate(onnx.load(record.GRAPHS / f"{name}.onnx", load_external_data=False)), source)
    row: dict[str, Any] = {"graph": name, "nodes": nodes(source), "left": {}, "rel_l2": {}}
    expected = answer(source)
    for tool, simplify in SIMPLIFIERS.items():
        to = folder / f"{name}-{tool}.onnx"
        simplify(source, to)
        row["left"][tool] = nodes(to)
        row["rel_l2"][tool] = float(np.linalg.norm(answer(to) - expected) / np.linalg.norm(expected))
        to.unlink()
    assert max(row["rel_l2"].values()) <= BOUND, row
    return row


def nodes(path: Path) -> int:
    """How many there are, constants not counted."""
    return sum(node.op_type != "Constant" for node in onnx.load(path).graph.node)


def answer(path: Path) -> np.ndarray:
    """To one image, by ONNX Runtime with its optimisations off."""
    opened = session(str(path), optimize=False)
    (given,) = onnx.load(path).graph.input
    shape = [d.dim_value or 1 for d in given.type.tensor_type.shape.dim]
    return opened.run(None, {opened.inputs[0]: images(1, tuple(shape), channels_last(shape))})[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="graphs whose name contains this; writes nothing")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in record.FILES:
            if options.only in name:
                rows.append(measure(name, Path(folder)))
                print(rows[-1], flush=True)
    if not options.only:
        print(record.write("simplifiers", rows, onnxsim=ONNXSIM, bound=BOUND))


if __name__ == "__main__":
    main()
