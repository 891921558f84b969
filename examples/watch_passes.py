"""See a graph before and after every pass: how many operators of each kind, and what became of one region.

    python examples/watch_passes.py [MODEL.onnx PREFIX]

A region is the operators that stand for the ONNX nodes whose names start with PREFIX: every operator remembers the
nodes it came from. Without arguments: the first middle block of an Xception that torch exported with its batchnorms.

To get the whole graph after every pass of any command as text files: OPTGRAPH_DUMP=folder optgraph compile ...
"""

from __future__ import annotations

import difflib
import sys
import tempfile
from collections import Counter
from pathlib import Path

import optgraph
from optgraph.ir.text import node_text
from optgraph.passes import pipeline

XCEPTION = Path(__file__).parent / "graphs" / "torch_bn_xception.onnx"


def counts(graph: optgraph.Graph) -> str:
    """'Conv 74, Activation 35, ...'"""
    kinds = Counter(node.op.kind for node in graph.nodes())
    return ", ".join(f"{kind} {n}" for kind, n in kinds.most_common())


def region(graph: optgraph.Graph, prefix: str) -> list[str]:
    """The text of the operators that come from ONNX nodes whose names start with `prefix`."""
    nodes = (node for node in graph.nodes() if any(name.startswith(prefix) for name in node.origin))
    return [node_text(graph, node) for node in nodes]


def main() -> None:
    model, prefix = sys.argv[1:] if len(sys.argv) > 1 else (XCEPTION, "/block4/")
    passes = pipeline.SIMPLIFY + pipeline.FUSE

    graph = optgraph.read(model, allow_stripped=True)  # structure only: weights may be missing
    imported, before = len(graph), region(graph, prefix)
    print(f"as imported: {counts(graph)}")
    print(*before, sep="\n")
    for step in passes:
        (report,) = pipeline.apply(graph, [step])
        print(f"\n== {step.name}: {report.rewrites} rewrites, {len(report.refusals)} refused")
        if not report.rewrites:
            continue
        print(counts(graph))
        after = region(graph, prefix)
        for line in difflib.unified_diff(before, after, n=0, lineterm=""):
            if not line.startswith(("---", "+++", "@@")):
                print(line)
        before = after

    print(f"\nthe region at the end, {len(before)} operators:")
    print(*before, sep="\n")
    assert len(graph) < imported

    # The same as files, one a pass.
    with tempfile.TemporaryDirectory() as folder:
        pipeline.apply(optgraph.read(model, allow_stripped=True), passes, dump=Path(folder))
        files = sorted(Path(folder).iterdir())
        print(f"\ndumped {len(files)} files, {files[0].name} to {files[-1].name}")
        assert len(files) == len(passes)


if __name__ == "__main__":
    main()
