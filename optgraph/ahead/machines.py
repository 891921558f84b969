"""The machine code of a plan's launches, for predictions: out of cubins at hand, or compiled on this machine before."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.util import find_spec

from optgraph.ahead import cubins
from optgraph.ahead.cubins import Cubin
from optgraph.base.devices import Target
from optgraph.cost.machine_code import disassembled
from optgraph.cost.predict import Known
from optgraph.cost.walk import Machine
from optgraph.kernels.frame.occupancy import blocks_per_sm
from optgraph.kernels.frame.variant import Variant
from optgraph.plan.buffers import dry_launches
from optgraph.plan.plan import Plan
from optgraph.plan.weights import Shapes


def known(plan: Plan, weights: Shapes, at_hand: Iterable[Cubin] = (), cached: bool = False) -> Known:
    """What gives the machine code of a launch of `plan`, if it is among the cubins `at_hand` or, if `cached`, in the
    cache on disk. weights: of the plan's graph. Nothing is compiled; where Triton is not installed, none is known."""
    by_key = {cubin.key: cubin for cubin in at_hand if cubin.target == str(plan.target)}
    found: dict[Variant, Cubin] = {}
    if find_spec("triton") is not None and (by_key or cached):
        for variant in {launch.variant for launch in dry_launches(plan, weights) if launch}:
            key = cubins.key(variant, plan.target)
            cubin = by_key.get(key) or (cubins.cached(key) if cached else None)
            if cubin is not None:
                found[variant] = cubin
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        machines = dict(zip(found, pool.map(machine, found.values()), strict=True))
    return lambda launch: machines.get(launch.variant)


@lru_cache(maxsize=512)
def machine(cubin: Cubin) -> Machine | None:
    """What can be read of it; None where nothing can read machine code."""
    code, target = disassembled(cubin.code), Target.parse(cubin.target)
    resident = blocks_per_sm(cubin.registers, cubin.shared_bytes, cubin.num_warps, target.device)
    return Machine(code, cubin.num_warps, max(1, resident)) if code else None
