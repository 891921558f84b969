"""Floats to int8 by the instructions that a GPU has for it, which the interpreter does not run."""

from __future__ import annotations

import math

import pytest
import torch

from optgraph.base.devices import SM_80, SM_90, Target
from optgraph.ir.quant import LOWEST, Quant
from optgraph.kernels.elementwise import elementwise
from optgraph.kernels.frame.launch import targeting
from optgraph.run.driver import Bound
from tests.emulator.compiler import compile_all
from tests.emulator.machine import Machine


@pytest.mark.parametrize("target", [SM_80, SM_90])
@pytest.mark.parametrize("quant", [Quant(0.5, 0), Quant(0.25, -128), Quant(0.1, 7), Quant(1e-30, 127)])
def test_ties_go_to_the_even_and_what_is_too_large_to_the_ends(quant: Quant, target: Target) -> None:
    steps = torch.arange(-600, 600).float() / 4
    far = torch.tensor([math.inf, -math.inf, 3e38, -3e38, 1e12, -1e12, 0.0, -0.0, math.nan])
    x = torch.cat([steps * quant.scale, far])[None, None, :, None]
    out = torch.full(x.shape, 99, dtype=torch.int8)
    with targeting(target):
        launch = elementwise(x, out, quants=(quant,))
    machine = Machine(target, compile_all([(launch.variant, target)]))
    run = machine.bind(launch)
    assert isinstance(run, Bound)
    machine.follow(launch)
    run()
    assert torch.equal(out.float(), quant.integers(x).nan_to_num(LOWEST))
