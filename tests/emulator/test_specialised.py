"""The warp-specialised separable convolution: no interpreter runs it, so all of its samples are tried here."""

from __future__ import annotations

import pytest
import torch

from optgraph.base.devices import SM_90
from optgraph.ir.values import Act, Window
from optgraph.kernels.frame.launch import targeting
from optgraph.kernels.frame.tile import Tile
from optgraph.kernels.separable import SEPARABLE, reference, separable, specialised_samples
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


def test_what_an_activation_makes_of_zeros_beyond_the_channels_harms_nothing() -> None:
    window, act, tile = Window((3, 3)), Act("reciprocal"), Tile(64, 128, 32, 4, 2, producers=8)
    x, depthwise, weight = (torch.rand(size).half() + 0.5 for size in ((1, 6, 7, 40), (3, 3, 40), (40, 24)))
    out = torch.full((1, 4, 5, 24), torch.nan, dtype=torch.float16)
    with targeting(SM_90):
        launch = separable(x, depthwise, weight, out, window=window, mid=act, tile=tile)
    Machine(SM_90, compile_all([(launch.variant, SM_90)])).bind(launch)()
    expected = reference(x, depthwise, weight, out, window=window, mid=act)
    torch.testing.assert_close(out.double(), expected, rtol=5e-3, atol=0)
