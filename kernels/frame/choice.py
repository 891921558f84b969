"""The tile of a launch: the fastest where `optgraph tune` has measured it, else that of least estimated cost."""

from __future__ import annotations

from functools import lru_cache

from optgraph.base.devices import Target
from optgraph.kernels.frame import tuned
from optgraph.kernels.frame.tile import Problem, Tile


@lru_cache(maxsize=4096)
def choose(problem: Problem, target: Target) -> Tile:
    """The tile of a launch of `problem` on `target`."""
    found = problem.candidates(target)
    return tuned.fastest(problem, found, tuned.kept(target)) or found[0]
