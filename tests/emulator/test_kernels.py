"""Every kernel, compiled for both targets and launched by the runtime's driver code, against its float64 reference.

Of the samples that a kernel declares, the first and the last, one whose warps are specialised, one that the copy engine
fetches, one that splits its sums, one of several rows a program and one with a slope a channel in its middle; and of
those in int8 one of each sort, on sm_80 one. Outputs are NaN before, and what surrounds them is to stay so. On sm_90
the second launch begins before the first has ended, as far as the driver is told.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import pytest
import torch

from optgraph.base.devices import SM_80, SM_90, Target
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch, targeting
from optgraph.kernels.frame.sample import Operands, Sample
from optgraph.kernels.frame.tile import Tile
from optgraph.run.driver import Bound
from optgraph.tune.layers import Layer
from tests.emulator.compiler import CompileError, compile_all
from tests.emulator.machine import Machine
from tests.emulator.schedule import LATE, MIXED
from tests.support.kernel_checks import KERNELS

CPU = torch.device("cpu")
TARGETS = (SM_80, SM_90)


def tile_of(sample: Sample) -> Tile:
    return sample.arguments.get("tile") or Tile(1, 1, 1)


def runs(sample: Sample, target: Target) -> bool:
    return target == SM_90 or not (tile_of(sample).box or tile_of(sample).producers)


def in_integers(sample: Sample) -> bool:
    return any(view.dtype == "int8" for view in sample.views().values())


def chosen(kernel: Kernel, target: Target) -> Iterable[Layer]:
    """The samples to try, in fp16."""
    sorts = {what: sample for what, sample in kernel.samples() if runs(sample, target) and in_integers(sample)}
    found = [sample for _, sample in kernel.samples() if runs(sample, target) and not in_integers(sample)]
    boxed = [sample for sample in found if tile_of(sample).box]
    split = [sample for sample in found if tile_of(sample).splits > 1]
    rows = [sample for sample in found if tile_of(sample).rows > 1]
    sloped = [sample for sample in found if "mid_slope" in sample.views()]
    specialised = [sample for sample in found if tile_of(sample).producers]
    trials = [found[0], found[-1], *specialised[:1], *boxed[:1], *split[:1], *rows[:1], *sloped[-1:]]
    trials += list(sorts.values())[: None if target == SM_90 else 1]
    return {str(sample): Layer(kernel, sample.typed("fp16")) for sample in trials}.values()


TRIALS = {
    f"{kernel}, {i}, {target}": (layer, target)
    for target in TARGETS
    for kernel in KERNELS
    for i, layer in enumerate(chosen(kernel, target))
}


def made(layer: Layer, target: Target) -> tuple[Operands, Launch]:
    with targeting(target):
        operands = layer.operands(CPU)
        return operands, operands.launch()


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """All kernels of the trials, by one process. One that does not compile must not hide the others."""
    with suppress(CompileError):
        compile_all((made(layer, target)[1].variant, target) for layer, target in TRIALS.values())


@pytest.mark.parametrize(("layer", "target"), TRIALS.values(), ids=TRIALS)
def test_kernel(layer: Layer, target: Target) -> None:
    operands, launch = made(layer, target)
    machine = Machine(target, compile_all([(launch.variant, target)]))
    run, expected = machine.bind(launch), operands.expected()
    assert isinstance(run, Bound)
    machine.follow(launch)
    for schedule, enqueue in ((LATE, run), (MIXED, run.early)):
        machine.cuda.schedule = schedule
        assert operands.error(enqueue, expected) <= layer.bound
    assert machine.early() == (target == SM_90)
    assert machine.kernels.compiled == 0  # it was found by its key


def test_the_trials_use_what_a_gpu_has() -> None:
    words = {SM_80: ("mma.sync", "cp.async.cg", "atom.global"), SM_90: ("wgmma.mma_async", "bulk.tensor")}
    for target in TARGETS:
        launches = [made(layer, target)[1] for layer, of in TRIALS.values() if of == target]
        found = compile_all((launch.variant, target) for launch in launches)
        for word in words[target]:
            assert any(word in cubin.code.decode() for cubin in found), word


def test_every_kernel_is_here() -> None:
    assert {(layer.name, target) for layer, target in TRIALS.values()} == {
        (kernel.name, target) for kernel in KERNELS for target in TARGETS
    }
