"""Every kernel compiles for sm_80 and sm_90 without a GPU, spills nothing, and loads 16 bytes a thread or by TMA."""

from __future__ import annotations

import re
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import triton

from optgraph.ahead import build, cubins
from optgraph.base.devices import SM_80, SM_90, Target
from optgraph.base.errors import OptgraphError
from optgraph.kernels.frame.launch import Launch
from tests.support.kernel_checks import KERNELS
from tests.support.real_layers import real_layers

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
TARGETS = (SM_80, SM_90)
LAYERS = real_layers()
NAMES = list(LAYERS)


@dataclass(frozen=True)
class Compiled:
    """A launch on a target and its cubin, or why it has none."""

    launch: Launch
    cubin: cubins.Cubin | None
    error: str = ""


Results = dict[tuple[str, Target], Compiled]


@pytest.fixture(scope="module")
def compiled() -> Results:
    """By layer and target. As `optgraph compile` makes them: in processes that do not interpret, or from its cache, in
    which a kernel is found by its sources."""
    launches = {(name, target): layer.dry(target) for target in TARGETS for name, layer in LAYERS.items()}
    uses = {
        (name, target): build.Use(cubins.key(launch.variant, target), launch.variant, target, {}, 0)
        for (name, target), launch in launches.items()
    }
    with suppress(OptgraphError):  # one broken kernel must not hide the others
        build.build(list(uses.values()))
    return {key: _compiled(launches[key], use) for key, use in uses.items()}


def _compiled(launch: Launch, use: build.Use) -> Compiled:
    try:
        return Compiled(launch, build.build([use])[0])
    except OptgraphError as error:
        return Compiled(launch, None, str(error))


def cubin(found: Compiled) -> cubins.Cubin:
    assert found.cubin, found.error
    return found.cubin


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_compiles_without_spills(name: str, target: Target, compiled: Results) -> None:
    assert cubin(compiled[name, target]).spill_bytes == 0


BOXED = ("pointwise", "pointwise_segments", "pointwise_split", "conv2d", "conv2d_split")  # of stride 1


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("name", [name for name in NAMES if name != "conv2d_stem"])  # 3 channels are no 16 bytes
def test_loads_are_wide(name: str, target: Target, compiled: Results, tmp_path: Path) -> None:
    found, file = cubin(compiled[name, target]), tmp_path / "cubin"
    if found.tma and name in BOXED and target == SM_90:
        return
    file.write_bytes(found.code)
    sass = subprocess.run([CUOBJDUMP, "-sass", file], capture_output=True, text=True, check=True).stdout
    assert re.search(r"\bLD(?:G|GSTS)\.E\S*\.128\b", sass), "16 bytes at a time, into registers or shared memory"


@pytest.mark.parametrize(
    "name", [*BOXED, "conv2d_strided", "separable", "pooled_pointwise", "bottleneck", "bottleneck_rest"]
)
def test_hopper_multiplies_with_wgmma(name: str, compiled: Results) -> None:
    found = compiled[name, SM_90]
    assert found.launch.tile.block_m >= 64
    assert cubin(found).wgmma


@pytest.mark.parametrize("name", NAMES)
def test_the_copy_engine_loads_where_there_is_one(name: str, compiled: Results) -> None:
    assert cubin(compiled[name, SM_90]).tma == (name in BOXED)
    assert not cubin(compiled[name, SM_80]).tma


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_small_maps_split_their_depth(target: Target, compiled: Results) -> None:
    split = {name for name in NAMES if compiled[name, target].launch.workspace > 0}
    assert split == {"pointwise_split", "conv2d_split"}


def test_every_kernel_is_here() -> None:
    assert {layer.kernel for layer in LAYERS.values()} == set(KERNELS)
