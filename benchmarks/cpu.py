"""The onnxruntime backend (the simplified graph) against ONNX Runtime on the original file: batch 1, two threads.

    python -m benchmarks.cpu [--only SUBSTRING]

Compile time is the wall time of `optgraph.compile`, from the file to a network that is ready to run. The graphs that
torch exported are quantised, too (`optgraph.quantize`, on random pictures: of random weights only speed is to be had),
and the simplified graph in float32 runs in turns with that in int8, in ONNX Runtime's integer kernels.
All fourteen three-network graphs at full size, with calibrated weights. Both sides are ONNX Runtime with its default
optimisations; runs alternate, and nothing is timed before the answers agree. Writes benchmarks/results/cpu.json (whole
runs only). Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import onnx

import optgraph
from benchmarks import record
from optgraph.compare.bench import bench, interleave
from optgraph.onnx import calibrate
from optgraph.onnx.sessions import session
from optgraph.onnx.write import to_onnx
from optgraph.run.example import example

THREADS = 2
REPEATS = 30
MIN_SECONDS = 10.0
WARM_UPS = 3
PICTURES = 4  # to quantise on
ANY = 1e9  # a tolerance that all meet


def measure(name: str, folder: Path) -> dict[str, Any]:
    """One graph's row."""
    path = folder / f"{name}.onnx"
    onnx.save(calibrate.calibrate(onnx.load(record.GRAPHS / f"{name}.onnx", load_external_data=False)), path)
    start = time.perf_counter()
    optgraph.compile(path, backend="onnxruntime")
    seconds = time.perf_counter() - start
    found = bench(path, backend="onnxruntime", threads=THREADS, repeats=REPEATS, min_seconds=MIN_SECONDS).to_json()
    in_int8 = integers(path) if name.startswith("torch_") and "_bn_" not in name else {}
    path.unlink()
    kept = ("ours_ms", "theirs_ms", "ratio", "ratio_of_medians", "repeats", "spread")
    return {"graph": name, "compile_seconds": seconds} | {key: found[key] for key in kept} | in_int8


def integers(path: Path) -> dict[str, Any]:
    """Of a float model: what int8 is worth, and how many convolutions are in integers."""
    net = optgraph.compile(path, backend="torch")
    pictures = example(net.inputs, PICTURES, seed=0)
    quantized = optgraph.quantize(path, pictures, tolerance=ANY, batch=1, look=1)
    feeds = example(net.inputs, 1, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        running = session(quantized.model.SerializeToString(), THREADS, profile=Path(folder) / "run", integers=True)
        running.run(None, feeds)
        ran = Counter(event.get("args", {}).get("op_name") for event in running.profile())
    assert ran["QLinearConv"] == sum(loss.op == "Conv" for loss in quantized.losses) and not ran["Conv"]
    fp32, int8 = (
        partial(session(model.SerializeToString(), THREADS, integers=True).run, None, feeds)
        for model in (to_onnx(net.simplified), quantized.model)
    )
    for run in (fp32, int8) * WARM_UPS:
        run()
    theirs, ours = interleave(fp32, int8, REPEATS, MIN_SECONDS)
    return {
        "fp32_ms": 1e3 * statistics.median(theirs),
        "int8_ms": 1e3 * statistics.median(ours),
        "int8_ratio": statistics.median(a / b for a, b in zip(theirs, ours, strict=True)),
        "int8_convolutions": ran["QLinearConv"],
    }


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
