"""The warp-specialised separable convolution: no interpreter runs it, so all of its samples are tried here."""

from __future__ import annotations

import pytest
import torch

from optgraph.base.devices import SM_90
from optgraph.kernels.frame.launch import targeting
from optgraph.kernels.separable import SEPARABLE, specialised_samples
from optgraph.run.driver import Bound
from optgraph.tune.layers import Layer
from tests.emulator.compiler import compile_all
from tests.emulator.machine import Machine
from tests.emulator.schedule import HASTY, LATE, REVERSE, SCHEDULES

CASES = [(i, dtype) for i, _ in enumerate(specialised_samples()) for dtype in ("fp16", "bf16")]


@pytest.mark.parametrize(("number", "dtype"), CASES)
def test_a_sample(number: int, dtype: str) -> None:
    layer = Layer(SEPARABLE, list(specialised_samples())[number].typed(dtype))
    with targeting(SM_90):
        operands = layer.operands(torch.device("cpu"))
        launch = operands.launch()
    assert launch.code.name == "separable_specialised"
    (cubin,) = compile_all([(launch.variant, SM_90)])
    assert cubin.waits and cubin.wgmma and cubin.tma
    machine = Machine(SM_90, [cubin])
    run, expected = machine.bind(launch), operands.expected()
    assert isinstance(run, Bound)
    machine.follow(launch)
    for schedule in SCHEDULES if (number, dtype) == CASES[0] else (LATE, HASTY):
        machine.cuda.schedule = schedule
        assert operands.error(run.early if schedule in (REVERSE, HASTY) else run, expected) <= layer.bound
    assert machine.early() > 0 and machine.kernels.compiled == 0
