"""The networks around the three: what each compiles to, and which backends agree with ONNX Runtime, at full size.

    python -m benchmarks.family [--only SUBSTRING]

Writes benchmarks/results/family.json (whole runs only). Verification is `optgraph verify`'s, batch 1, fp32.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TRITON_INTERPRET", "1")

import onnx

import optgraph
from benchmarks import record
from optgraph.compare.verify import verify_net
from tests.support import family

BACKENDS = ("torch", "onnxruntime", "interpret")


def measure(network: str, exporter: str, build: Callable[[], onnx.ModelProto], folder: Path) -> dict[str, Any]:
    """One model's row."""
    path = folder / "model.onnx"
    onnx.save(family.filled(build()), path)
    row: dict[str, Any] = {"graph": network, "exporter": exporter}
    for backend in BACKENDS:
        net = optgraph.compile(path, backend=backend)
        if backend == BACKENDS[0]:
            plan = net.plan()
            row["nodes"] = net.source.nodes
            row["launches"] = sum(plan.launches_by_kernel().values())
            row["launches_by_kernel"] = plan.launches_by_kernel()
            row["fallbacks"] = dict(Counter(f.op for f in plan.fallbacks))
            row["verified"], row["failed"] = {}, {}
        found = verify_net(net, path)
        row["bound"], row["input_sensitivity"] = found.bound, found.input_sensitivity
        if found.ok:
            row["verified"][backend] = max(output.rel_l2 for output in found.outputs)
        else:
            row["failed"][backend] = found.reason
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="networks whose name contains this; writes nothing")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for network, models in family.NETWORKS.items():
            for exporter, build in models if options.only in network else ():
                rows.append(measure(network, exporter, build, Path(folder)))
                print({k: v for k, v in rows[-1].items() if k != "launches_by_kernel"}, flush=True)
    if not options.only:
        print(record.write("family", rows, batch=1, dtype="fp32", reference="ONNX Runtime, optimisations off"))


if __name__ == "__main__":
    main()
