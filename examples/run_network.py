"""Compile a network and run it from Python: numpy and torch in, several batch sizes, one file to keep.

    python examples/run_network.py [MODEL.onnx]

Without a model: Inception V3 as torch exported it with its batchnorms, and calibrated random weights.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch

import optgraph
from optgraph.onnx import calibrate

INCEPTION = Path(__file__).parent / "graphs" / "torch_bn_inception_v3.onnx"


def main() -> None:
    if len(sys.argv) > 1:
        net = optgraph.compile(sys.argv[1])
    else:
        stripped = onnx.load(INCEPTION, load_external_data=False)
        net = optgraph.compile(calibrate.calibrate(stripped))

    # What it takes and gives. 'N' is the batch: any size.
    for name, value in (net.inputs | net.outputs).items():
        print(f"{name}: {value.dtype} {list(value.shape)}")
    print("runs on", net.backend)

    # numpy in, numpy out; torch in, torch out.
    shape = next(iter(net.inputs.values())).shape[1:]
    images = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    y = net(images)
    assert isinstance(y, np.ndarray)
    t = net(torch.from_numpy(images))
    assert isinstance(t, torch.Tensor)
    assert np.array_equal(t.numpy(), y)

    # A batch is the same as its images one by one.
    singles = np.concatenate([net(images[i : i + 1]) for i in range(3)])
    apart = relative(singles, y)
    print(f"a batch of 3 against 3 single images: relative difference {apart:.1e}")
    assert apart < 1e-5

    # One file holds it all; loading it compiles nothing.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.optgraph"
        net.save(path)
        loaded = optgraph.load(path)
        print(f"saved {path.stat().st_size / 1e6:.1f} MB, loaded for {loaded.backend}")
        assert relative(loaded(images), y) < 1e-5

    # What the compiler did, and what the kernels would run, GPU or not.
    for report in net.reports:
        print(f"{report.title:40} {report.rewrites:4} rewrites, {report.nodes_after:4} operators after")
    for batch in (1, 8):
        plan = net.plan(batch)
        print(f"batch {batch}: {plan.launches_by_kernel()}, arena of {plan.arena_bytes / 1e6:.1f} MB")
    for call in net.plan().calls[:3]:
        print("one of the first launches:", call.name, {slot: view.shape for slot, view in call.reads.items()})


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    """Relative L2 distance."""
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


if __name__ == "__main__":
    main()
