"""The kernels in Gluon: no interpreter runs them, so all of their samples are tried here."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch

from optgraph.base.devices import SM_90
from optgraph.ir.values import Act, Window
from optgraph.kernels import conv2d, pointwise, separable
from optgraph.kernels.conv2d import CONV2D
from optgraph.kernels.frame.launch import targeting
from optgraph.kernels.frame.tile import Tile
from optgraph.kernels.pointwise import POINTWISE
from optgraph.kernels.separable import SEPARABLE
from optgraph.run.driver import Bound
from optgraph.tune.layers import Layer
from tests.emulator.compiler import CompileError, compile_all
from tests.emulator.machine import Machine
from tests.emulator.schedule import HASTY, LATE, REVERSE, SCHEDULES

SAMPLES = [
    *(("separable_specialised", SEPARABLE, sample) for sample in separable.specialised_samples()),
    *(("conv2d_specialised", CONV2D, sample) for sample in conv2d.specialised_samples()),
    *(("conv2d_streamed", CONV2D, sample) for sample in conv2d.streamed_samples()),
    *(("conv2d_streamed", POINTWISE, sample) for sample in pointwise.streamed_samples()),
    *(("conv2d_specialised", CONV2D, sample) for sample in conv2d.specialised_integers()),
]
FIRST = {name: i for i, (name, *_) in reversed(list(enumerate(SAMPLES)))}
CASES = [(i, "fp16") for i, _ in enumerate(SAMPLES)] + [(i, "bf16") for i in FIRST.values()]


def layer_of(number: int, dtype: str) -> Layer:
    _, kernel, sample = SAMPLES[number]
    return Layer(kernel, sample.typed(dtype))


@pytest.fixture(scope="module")
def compiled() -> None:
    """All kernels, by one process. One that does not compile must not hide the others."""
    with suppress(CompileError):
        compile_all((layer_of(*case).dry(SM_90).variant, SM_90) for case in CASES)


@pytest.mark.parametrize(("number", "dtype"), CASES)
@pytest.mark.usefixtures("compiled")
def test_a_sample(number: int, dtype: str) -> None:
    name = SAMPLES[number][0]
    layer = layer_of(number, dtype)
    with targeting(SM_90):
        operands = layer.operands(torch.device("cpu"))
        launch = operands.launch()
    assert launch.code.name == name
    (cubin,) = compile_all([(launch.variant, SM_90)])
    assert cubin.waits and cubin.wgmma and cubin.tma
    machine = Machine(SM_90, [cubin])
    run, expected = machine.bind(launch), operands.expected()
    assert isinstance(run, Bound)
    machine.follow(launch)
    for schedule in SCHEDULES if dtype == "fp16" and number in FIRST.values() else (LATE, HASTY):
        machine.cuda.schedule = schedule
        assert operands.error(run.early if schedule in (REVERSE, HASTY) else run, expected) <= layer.bound
    assert machine.early() > 0 and machine.kernels.compiled == 0


def test_what_an_activation_makes_of_zeros_beyond_the_channels_harms_nothing() -> None:
    window, act, tile = Window((3, 3), pads=(1, 1, 1, 1)), Act("reciprocal"), Tile(64, 128, 64, 4, producers=4)
    x, depthwise, weight = (torch.rand(size).half() + 0.5 for size in ((1, 6, 8, 40), (3, 3, 40), (40, 24)))
    out = torch.full((1, 6, 8, 24), torch.nan, dtype=torch.float16)
    with targeting(SM_90):
        launch = separable.separable(x, depthwise, weight, out, window=window, mid=act, tile=tile)
    Machine(SM_90, compile_all([(launch.variant, SM_90)])).bind(launch)()
    expected = separable.reference(x, depthwise, weight, out, window=window, mid=act)
    torch.testing.assert_close(out.double(), expected, rtol=5e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_lies_beyond_a_row_or_an_image_is_not_seen(dtype: torch.dtype) -> None:
    window, tile = Window((3, 3), pads=(1, 1, 1, 1)), Tile(64, 128, 64, 4, producers=4)
    x, depthwise, weight = (torch.rand(size).to(dtype) + 0.5 for size in ((3, 5, 9, 8), (3, 3, 8), (8, 8)))
    x[1] = torch.nan
    x[0, 2, 8] = x[2, 1, 0] = torch.inf
    out = torch.full((3, 5, 9, 8), -1.0, dtype=dtype)
    with targeting(SM_90):
        launch = separable.separable(x, depthwise, weight, out, window=window, tile=tile)
    Machine(SM_90, compile_all([(launch.variant, SM_90)])).bind(launch)()
    expected = separable.reference(x, depthwise, weight, out, window=window)
    assert out[1].isnan().all() and not out[0].isnan().any() and not out[2].isnan().any()
    assert torch.equal(out.isinf(), expected.isinf()) and out.isinf().any()
