"""Correctness and compile figures of the fourteen three-network graphs, at full size.

    python -m benchmarks.networks [--only SUBSTRING] [--interpret]

Each stripped graph gets calibrated weights; ONNX Runtime (optimisations off) on that file is the reference, on two
different images. Writes benchmarks/results/networks.json (whole runs only).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TRITON_INTERPRET", "1")

import numpy as np
import onnx

import optgraph
from benchmarks import record
from optgraph.base.images import images
from optgraph.cost import work
from optgraph.ir.values import channels_last
from optgraph.onnx import calibrate, write
from optgraph.onnx.sessions import session
from optgraph.passes import pipeline


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def measure(name: str, interpret: bool, folder: Path) -> dict[str, Any]:
    """One graph's row."""
    path = folder / f"{name}.onnx"
    model = calibrate.calibrate(onnx.load(record.GRAPHS / f"{name}.onnx", load_external_data=False))
    onnx.save(model, path)

    start = time.process_time()
    graph = optgraph.read(record.GRAPHS / f"{name}.onnx", allow_stripped=True)
    reports = pipeline.apply(graph, pipeline.SIMPLIFY + pipeline.FUSE)
    seconds = time.process_time() - start

    net = optgraph.compile(path, backend="torch")
    original = session(str(path), optimize=False)
    shape = [1 if isinstance(d, str) else d for d in next(iter(net.inputs.values())).shape]
    pictures = [images(seed, tuple(shape), channels_last(shape)) for seed in (1, 2)]
    answers = [original.run(None, {original.inputs[0]: image})[0] for image in pictures]
    plan = net.plan()
    half = optgraph.compile(path, backend="torch", dtype="fp16")
    row: dict[str, Any] = {
        "graph": name,
        "nodes": net.source.nodes,
        "simplified_nodes": len(net.simplified),
        "optimized_onnx_nodes": len(write.to_onnx(net.simplified).graph.node),
        "launches": sum(plan.launches_by_kernel().values()),
        "launches_by_kernel": plan.launches_by_kernel(),
        "fallbacks": len(plan.fallbacks),
        "mb_per_image_before_fp16": net.source.bytes_per_image / 2e6,
        "mb_per_image_after_fp16": work.moved_per_image(half.plan(), half.plans.shapes) / 1e6,
        "import_and_passes_cpu_seconds": seconds,
        "passes": {r.name: r.rewrites for r in reports},
        "input_sensitivity": relative(answers[1], answers[0]),
        "rel_l2": {"torch": [relative(net(i), a) for i, a in zip(pictures, answers, strict=True)]},
    }
    net = optgraph.compile(path, backend="onnxruntime")
    row["rel_l2"]["onnxruntime"] = [relative(net(i), a) for i, a in zip(pictures, answers, strict=True)]
    if interpret:
        net = optgraph.compile(path, backend="interpret")
        start = time.perf_counter()
        row["rel_l2"]["interpret"] = [relative(net(pictures[0]), answers[0])]
        row["interpret_seconds"] = time.perf_counter() - start
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="graphs whose name contains this; writes nothing")
    parser.add_argument("--interpret", action="store_true", help="also through the Triton kernels, interpreted")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in record.FILES:
            if options.only in name:
                rows.append(measure(name, options.interpret, Path(folder)))
                print({k: v for k, v in rows[-1].items() if k not in ("passes", "launches_by_kernel")}, flush=True)
    if not options.only:
        print(record.write("networks", rows, batch=1, dtype="fp32", reference="ONNX Runtime, optimisations off"))


if __name__ == "__main__":
    main()
