"""What compiling the kernels ahead makes, and how long it takes: the three networks in fp16 for A100 and H100, no GPU.

    python -m benchmarks.cubins [--only SUBSTRING]

Writes benchmarks/results/cubins.json (whole runs only).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from typing import Any

from benchmarks import record
from benchmarks.cost import fused
from optgraph.ahead.build import build, find_uses
from optgraph.base.devices import SM_80, SM_90, Target
from optgraph.ir.graph import Graph
from optgraph.plan.plans import Plans

TARGETS = (SM_80, SM_90)


def measure(network: str, graph: Graph, target: Target) -> dict[str, Any]:
    """The row of one network and target: first with an empty cache, then with what that left in it."""
    seconds, cpu = [], []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRITON_CACHE_DIR"] = folder
        for _ in range(2):
            start, cpu_start = time.perf_counter(), _cpu_seconds()
            uses = find_uses(Plans(graph, "fp16"), [1], [target])
            cubins = build(uses)
            seconds.append(time.perf_counter() - start)
            cpu.append(_cpu_seconds() - cpu_start)
    return {
        "graph": f"torch_{network}",
        "target": str(target),
        "kernels": len(cubins),
        "kernels_at_batch_1": sum(use.launches[1] > 0 for use in uses),
        "wgmma": sum(cubin.wgmma for cubin in cubins),
        "tma": sum(cubin.tma for cubin in cubins),
        "most_registers": max(cubin.registers for cubin in cubins),
        "spill_bytes": sum(cubin.spill_bytes for cubin in cubins),
        "code_mb": sum(len(cubin.code) for cubin in cubins) / 1e6,
        "cold_seconds": seconds[0],
        "cold_cpu_seconds": cpu[0],
        "warm_seconds": seconds[1],
    }


def _cpu_seconds() -> float:
    """Of this process and those it has waited for."""
    own = os.times()
    return own.user + own.system + own.children_user + own.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="networks whose name contains this; writes nothing")
    options = parser.parse_args()
    rows = []
    for network in record.NETWORKS:
        if options.only in network:
            graph = fused(network)
            for target in TARGETS:
                rows.append(measure(network, graph, target))
                print(rows[-1], flush=True)
    if not options.only:
        print(record.write("cubins", rows, dtype="fp16"))


if __name__ == "__main__":
    main()
