"""The very launches that a GPU would get - tiles, copy-engine boxes, split depths - in Triton's interpreter.

    python -m benchmarks.targets [--only SUBSTRING]

`interpret` by itself takes tiles of its own, which are quicker there. Here launchers are told the target, in fp16, on
images as small as the networks allow. The reference is ONNX Runtime, fp32, on the original file.
Writes benchmarks/results/targets.json (whole runs only).
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
import torch

import optgraph
from benchmarks import record
from optgraph.base.devices import Target
from optgraph.compare.oracle import distance
from optgraph.onnx.sessions import session
from optgraph.run.engine import Engine
from tests.emulator.networks import counts
from tests.support import family

# network, height and width, what to run: (batch, target)
CASES = (
    ("inception_v3", 75, ((1, "sm_80"), (1, "sm_90"), (8, "sm_90"))),
    ("inception_resnet_v2", 75, ((1, "sm_90"),)),
    ("xception", 71, ((1, "sm_90"),)),
)


def measure(network: str, path: Path, size: int, batch: int, target: str) -> dict[str, Any]:
    """One row: how many launches of which kind, and how far the answer is from ONNX Runtime's."""
    x = np.random.default_rng(0).standard_normal((batch, 3, size, size)).astype(np.float32)
    original = session(str(path), optimize=False)
    expected = original.run(None, {original.inputs[0]: x})[0]
    own = np.asarray(optgraph.compile(path, backend="interpret", dtype="fp16")(x))
    net = optgraph.compile(path, backend="interpret", dtype="fp16")
    there = Target.parse(target)
    engine = Engine(net.plans, torch.device("cpu"), target=there)
    start = time.perf_counter()
    (found,) = engine({name: torch.from_numpy(x) for name in net.inputs}, batch).values()
    seconds = time.perf_counter() - start
    return {
        "graph": f"torch_{network}",
        "size": size,
        "batch": batch,
        "target": target,
        **counts(net.plans, batch, there),
        "rel_l2": distance(found, expected)[0],
        "rel_l2_own_tiles": distance(own, expected)[0],
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="networks whose name contains this; writes nothing")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for network, size, runs in CASES:
            if options.only not in network:
                continue
            path = Path(folder) / f"{network}.onnx"
            onnx.save(family.filled(family.resized(family.exported(f"torch_{network}"), size)), path)
            for batch, target in runs:
                rows.append(measure(network, path, size, batch, target))
                print(rows[-1], flush=True)
    if not options.only:
        print(record.write("targets", rows))


if __name__ == "__main__":
    main()
