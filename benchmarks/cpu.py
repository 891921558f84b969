"""The onnxruntime backend (the simplified graph) against ONNX Runtime on the original file: batch 1, two threads.

    python -m benchmarks.cpu [--only SUBSTRING]

Compile time is the wall time of `optgraph.compile`, from the file to a network that is ready to run.
All fourteen three-network graphs at full size, with calibrated weights. Both sides are ONNX Runtime with its default
optimisations; runs alternate, and nothing is timed before the answers agree. Writes benchmarks/results/cpu.json (whole
runs only). Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx

import optgraph
from benchmarks import record
from optgraph.compare.bench import bench
from optgraph.onnx import calibrate

THREADS = 2
REPEATS = 30
MIN_SECONDS = 10.0


def measure(name: str, folder: Path) -> dict[str, Any]:
    """One graph's row."""
    path = folder / f"{name}.onnx"
    onnx.save(calibrate.calibrate(onnx.load(record.GRAPHS / f"{name}.onnx", load_external_data=False)), path)
    start = time.perf_counter()
    optgraph.compile(path, backend="onnxruntime")
    seconds = time.perf_counter() - start
    found = bench(path, backend="onnxruntime", threads=THREADS, repeats=REPEATS, min_seconds=MIN_SECONDS).to_json()
    path.unlink()
    kept = ("ours_ms", "theirs_ms", "ratio", "ratio_of_medians", "repeats", "spread")
    return {"graph": name, "compile_seconds": seconds} | {key: found[key] for key in kept}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="graphs whose name contains this; writes nothing")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in record.FILES:
            if options.only in name:
                rows.append(measure(name, Path(folder)))
                print({k: v for k, v in rows[-1].items() if k != "spread"}, flush=True)
    if not options.only:
        print(record.write("cpu", rows, batch=1, threads=THREADS, dtype="fp32"))


if __name__ == "__main__":
    main()
