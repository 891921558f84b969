"""Canonical forms: what exporters spell in several ways is written in one. Each form has a file of its own."""

from __future__ import annotations

from optgraph.ir.graph import Graph
from optgraph.passes.rewrite import Outcome
from optgraph.passes.simplify import (
    combine_activations,
    fold_pad,
    gemm,
    global_pool,
    layout_ends,
    merge_chains,
    spelled_activations,
    spelled_prelu,
)

STEPS = (
    gemm.run,
    # Looks for flattened images in front of a Gemm.
    layout_ends.run,
    global_pool.run,
    # Reshapes come from global pools, too.
    merge_chains.run,
    combine_activations.run,
    # Of clips merged.
    spelled_activations.run,
    spelled_prelu.run,
    # Asks which activation came before.
    fold_pad.run,
)


def run(graph: Graph) -> Outcome:
    outcome = Outcome()
    for step in STEPS:
        outcome += step(graph)
    return outcome
