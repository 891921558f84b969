"""The passes in order, and what runs them: checked after every pass, timed, reported, dumped on request."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from optgraph.base import config, garbage
from optgraph.base.errors import GraphError
from optgraph.ir.graph import Graph
from optgraph.ir.text import graph_text
from optgraph.passes.fuse import (
    bottleneck,
    commute_average_pool,
    commute_rounding,
    epilogue,
    flatten,
    max_pool,
    merge_siblings,
    place_concat,
    prologue,
    round_input,
    rounding,
    separable,
)
from optgraph.passes.rewrite import Outcome, Refusal
from optgraph.passes.simplify import (
    batchnorm,
    canonical,
    common_subexpressions,
    fake_quantize,
    fold_affine,
    fold_constants,
    fold_shapes,
    layout,
    remove_noops,
)


@dataclass(frozen=True)
class Pass:
    """A named step.

    Attributes:
        name: of its file, and of what `OPTGRAPH_DUMP` writes.
        title: its line in the report.
        run: rewrites the graph in place, and says what it did.
    """

    name: str
    title: str
    run: Callable[[Graph], Outcome]


@dataclass(frozen=True)
class PassReport:
    """What one pass did to one graph. `seconds` is CPU time of the process."""

    name: str
    title: str
    rewrites: int
    nodes_before: int
    nodes_after: int
    seconds: float
    refusals: tuple[Refusal, ...]


READ = Pass("read", "as it was read", lambda graph: Outcome())  # none of the passes: what a watcher is shown first

SIMPLIFY: tuple[Pass, ...] = (
    # Casts and identities hide every pattern below, and are half of some exporters' graphs.
    Pass("remove_noops", "no-ops", remove_noops.run),
    Pass("fold_shapes", "shape arithmetic", fold_shapes.run),
    Pass("fold_constants", "constant folding", fold_constants.run),
    # Once scales are constants.
    Pass("fake_quantize", "quantise and dequantise", fake_quantize.run),
    # Before layout: a transpose that is there twice would count as two.
    Pass("common_subexpressions", "common subexpressions", common_subexpressions.run),
    # Transposes leave first, so that per-channel constants are [1, C, 1, 1] where the affine patterns look.
    Pass("layout", "layout", layout.run),
    Pass("canonical", "canonical forms", canonical.run),
    Pass("batchnorm", "batchnorm", batchnorm.run),
    # Needs every scale and shift as an Affine.
    Pass("fold_affine", "affine into convolutions", fold_affine.run),
    # What the passes above made superfluous: a pool over one pixel, an affine of ones and zeros.
    Pass("remove_leftovers", "no-ops left over", remove_noops.run),
)

FUSE: tuple[Pass, ...] = (
    # Before all else: a rounding between an operator and its activation hides both from each other.
    Pass("commute_rounding", "roundings to a grid, moved", commute_rounding.run),
    # Activations and residuals first: what is left raw is what more than one op needs.
    Pass("fuse_epilogue", "epilogues", epilogue.run),
    # After these, which come before the rounding.
    Pass("fuse_rounding", "roundings to a grid", rounding.run),
    Pass("fuse_rounded_residual", "residuals onto rounded numbers", epilogue.run_rounded),
    # Before the merge, which the moved 1×1 then joins.
    Pass("commute_average_pool", "1×1 bottlenecks: average pool commuted", commute_average_pool.run),
    Pass("fuse_separable", "depthwise + pointwise", separable.run),
    Pass("fuse_prologue", "prologues", prologue.run),
    Pass("merge_siblings", "1×1 bottlenecks: siblings merged", merge_siblings.run),
    # After the merge: a 1×1 with siblings reads its input together with them instead.
    Pass("fuse_bottleneck", "k×k + 1×1", bottleneck.run),
    # After the merge too: siblings that share a pooled image read it once, and it then has to be in memory.
    Pass("fuse_max_pool", "max pool + 1×1", max_pool.run),
    # After all that looks for a convolution to join, which does not ask whether it rounds what it reads.
    Pass("round_input", "roundings of what a stem reads", round_input.run),
    Pass("flatten", "dense layers of images", flatten.run),
    # Last: it asks who produces each part of a concat.
    Pass("place_concat", "concat in place", place_concat.run),
)


Watch = Callable[[Pass, Graph], None]  # is shown the graph after each pass, to look at and not to change


@garbage.paused()
def apply(
    graph: Graph, passes: Sequence[Pass], dump: Path | None = None, watch: Watch | None = None
) -> list[PassReport]:
    """Runs the passes in order, in place, verifying the graph after each; returns a report for each.

    dump: a directory for the graph's text after every pass (default: OPTGRAPH_DUMP).
    Raises GraphError, naming the pass, if one breaks the graph.
    """
    dump = dump or config.dump_directory()
    reports: list[PassReport] = []
    verified = -1
    for i, step in enumerate(passes):
        before, start = len(graph), time.process_time()
        outcome = step.run(graph)
        graph.prune()
        if graph.changes != verified:
            _verify(graph, step)
            verified = graph.changes
        seconds = time.process_time() - start
        reports.append(
            PassReport(step.name, step.title, outcome.rewrites, before, len(graph), seconds, tuple(outcome.refusals))
        )
        if watch is not None:
            watch(step, graph)
        if dump is not None:
            dump.mkdir(parents=True, exist_ok=True)
            (dump / f"{i:02}_{step.name}.txt").write_text(graph_text(graph))
        if config.debug():
            for refusal in outcome.refusals:
                print(f"{step.name}: {refusal.rule} refused at '{refusal.node}': {refusal.reason}", file=sys.stderr)
    return reports


def _verify(graph: Graph, step: Pass) -> None:
    try:
        graph.verify()
    except GraphError as error:
        raise GraphError(f"pass '{step.name}' broke the graph: {error}") from None
