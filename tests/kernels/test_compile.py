"""Every kernel compiles for sm_80 and sm_90 without a GPU, spills nothing, and loads 16 bytes a thread or by TMA."""

from __future__ import annotations

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import triton

from optgraph.ahead import build, cubins
from optgraph.ahead.cubins import Cubin
from optgraph.base.devices import SM_80, SM_90, Target
from optgraph.base.errors import OptgraphError
from optgraph.kernels.frame import halos, specialised, streamed
from optgraph.kernels.frame.gemm import Gemm
from optgraph.kernels.frame.launch import Launch
from tests.support.kernel_checks import KERNELS
from tests.support.real_layers import real_layers

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
TARGETS = (SM_80, SM_90)
LAYERS = real_layers()
NAMES = list(LAYERS)
SPECIALISED = (
    *("separable_specialised", "separable_specialised_narrow", "conv2d_specialised", "conv2d_specialised_wide"),
    "conv2d_specialised_strided",
    *(f"conv2d_specialised{name}_int8" for name in ("_wide", "_row")),
)
STREAMED = ("pointwise_split", "pointwise_streamed", "conv2d_split", "conv2d_streamed")


@dataclass(frozen=True)
class Compiled:
    """A launch on a target and its cubin, or why it has none.

    wide: whether it loads 16 bytes at a time. sooner: what it does before it waits for earlier launches, or None if it
    does not wait.
    """

    launch: Launch
    found: Cubin | None = None
    wide: bool = False
    sooner: str | None = None
    error: str = ""

    @property
    def cubin(self) -> Cubin:
        assert self.found, self.error
        return self.found


Results = dict[tuple[str, Target], Compiled]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """By layer and target. As `optgraph compile` makes them: in processes that do not interpret, or from its cache, in
    which a kernel is found by its sources."""
    launches = {(name, target): layer.dry(target) for target in TARGETS for name, layer in LAYERS.items()}
    uses = [
        build.Use(cubins.key(launch.variant, target), launch.variant, target, {}, 0)
        for (_, target), launch in launches.items()
    ]
    with suppress(OptgraphError):  # one broken kernel must not hide the others
        build.build(uses)
    folder = tmp_path_factory.mktemp("cubins")
    with ThreadPoolExecutor() as pool:
        results = pool.map(lambda launch, use: _compiled(launch, use, folder), launches.values(), uses)
        return dict(zip(launches, results, strict=True))


def _compiled(launch: Launch, use: build.Use, folder: Path) -> Compiled:
    try:
        (cubin,) = build.build([use])
    except OptgraphError as error:
        return Compiled(launch, error=str(error))
    file = folder / cubin.key
    file.write_bytes(cubin.code)
    sass = subprocess.run([CUOBJDUMP, "-sass", file], capture_output=True, text=True, check=True).stdout
    # Into registers or shared memory.
    wide = re.search(r"\bLD(?:G|GSTS)\.E\S*\.128\b", sass) is not None
    sooner, wait, _ = sass.partition("ACQBULK")
    return Compiled(launch, cubin, wide, sooner if wait else None)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_compiles_without_spills(name: str, target: Target, compiled: Results) -> None:
    assert compiled[name, target].cubin.spill_bytes == 0


# Specialised warps do their waiting where each begins: tests/emulator/test_specialised.py.
@pytest.mark.parametrize("name", [name for name in NAMES if name not in SPECIALISED])
def test_hopper_touches_no_memory_before_it_waits_for_earlier_launches(name: str, compiled: Results) -> None:
    """In the machine code; tests/emulator/test_dependence.py has the PTX of every sample."""
    sooner = compiled[name, SM_90].sooner
    assert sooner is not None and compiled[name, SM_80].sooner is None
    if name in STREAMED:  # but for its weights, which no launch writes
        assert re.search(r"\bUTMALDG.2D\b", sooner)
        assert not re.search(r"\b(LDGSTS|STG|ATOMG?|REDG?|UTMALDG.4D|UBLKCP|EXIT)\b", sooner)
    else:
        assert not re.search(r"\b(LDGSTS|STG|ATOMG?|REDG?|UTMALDG|UBLKCP|BRA|EXIT)\b", sooner)
        # Sums of integers begin with a weight.
        assert compiled[name, SM_90].launch.constants.get("INTEGERS") or not re.search(r"\bLDG\b", sooner)


BOXED = ("pointwise", "pointwise_segments", "conv2d", "conv2d_slopes", *STREAMED)  # of stride 1
BOXED += ("pointwise_int8", "pointwise_segments_int8", "pointwise_split_int8", "conv2d_int8")
# Three channels are no 16 bytes; of int8, a thread reduces windows of 8 channels.
NARROW = ("conv2d_stem", "conv2d_stem_int8", "conv2d_stem_rounding_int8")
NARROW += ("depthwise_int8", "pool_max_int8", "pool_average_int8")


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("name", [name for name in NAMES if name not in NARROW])
def test_loads_are_wide(name: str, target: Target, compiled: Results) -> None:
    result = compiled[name, target]
    assert (result.cubin.tma and target == SM_90 and name in (*BOXED, *SPECIALISED)) or result.wide


@pytest.mark.parametrize(
    "name",
    [
        *BOXED,
        "conv2d_strided",
        "conv2d_strided_int8",
        "conv2d_stem_int8",
        "separable",
        *SPECIALISED,
        "pooled_pointwise",
        "bottleneck",
        "bottleneck_rest",
    ],
)
def test_hopper_multiplies_with_wgmma(name: str, compiled: Results) -> None:
    result = compiled[name, SM_90]
    assert result.launch.tile.block_m >= 64
    assert result.cubin.wgmma


@pytest.mark.parametrize("name", NAMES)
def test_the_copy_engine_loads_where_there_is_one(name: str, compiled: Results) -> None:
    assert compiled[name, SM_90].cubin.tma == (name in (*BOXED, *SPECIALISED))
    assert not compiled[name, SM_80].cubin.tma


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_small_maps_split_their_depth(target: Target, compiled: Results) -> None:
    split = {name for name in NAMES if compiled[name, target].launch.workspace > 0}
    assert split >= {"pointwise_split", "pointwise_split_int8", "conv2d_split"}


@pytest.mark.parametrize("name", SPECIALISED)
def test_specialised_warps_share_the_registers(name: str, compiled: Results) -> None:
    result = compiled[name, SM_90]
    problem, tile = result.launch.problem, result.launch.tile
    assert tile.producers and result.cubin.num_warps > tile.num_warps
    assert result.cubin.registers * 32 * result.cubin.num_warps <= SM_90.device.registers
    assert isinstance(problem, Gemm)
    if problem.halo:
        most = halos.shared_bytes(problem.halo, tile, problem.itemsize)
    else:
        assert problem.run
        most = specialised.shared_bytes(tile, problem.run)
    assert result.cubin.shared_bytes <= most <= SM_90.device.block_shared
    assert not compiled[name, SM_80].launch.tile.producers


@pytest.mark.parametrize("name", STREAMED)
def test_streamed_blocks_fit_the_shared_memory_reckoned_with(name: str, compiled: Results) -> None:
    result = compiled[name, SM_90]
    assert result.launch.tile.streamed and not compiled[name, SM_80].launch.tile.streamed
    assert result.cubin.shared_bytes <= streamed.shared_bytes(result.launch.tile) <= SM_90.device.block_shared


def test_every_kernel_is_here() -> None:
    assert {layer.kernel for layer in LAYERS.values()} == set(KERNELS)
