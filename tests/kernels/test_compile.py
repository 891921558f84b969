"""Every kernel compiles for sm_80 and sm_90 without a GPU, spills nothing, and loads 16 bytes a thread or by TMA."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.support.compile_all import LAUNCHES
from tests.support.paths import ROOT

SCRIPT = ROOT / "tests" / "support" / "compile_all.py"
TARGETS = ("sm_80", "sm_90")

Results = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Results:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    commands = [[sys.executable, str(SCRIPT), target.removeprefix("sm_")] for target in TARGETS]
    pipe = subprocess.PIPE
    runs = [subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) for command in commands]
    results: Results = {}
    for run in runs:
        out, err = run.communicate(timeout=300)
        assert run.returncode == 0, err
        for result in map(json.loads, out.splitlines()):
            results[result["name"], result["target"]] = result
    return results


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", LAUNCHES)
def test_compiles_without_spills(name: str, target: str, compiled: Results) -> None:
    result = compiled[name, target]
    assert "error" not in result, result["error"]
    assert result["spills"] == 0, result


BOXED = ("pointwise", "pointwise_segments", "pointwise_split", "conv2d", "conv2d_split")  # of stride 1


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", [name for name in LAUNCHES if name != "conv2d_stem"])  # 3 channels are no 16 bytes
def test_loads_are_wide(name: str, target: str, compiled: Results) -> None:
    result = compiled[name, target]
    assert result["wide_loads"] > 0 or (result["tma"] and name in BOXED and target == "sm_90"), result


@pytest.mark.parametrize(
    "name", [*BOXED, "conv2d_strided", "separable", "pooled_pointwise", "bottleneck", "bottleneck_rest"]
)
def test_hopper_multiplies_with_wgmma(name: str, compiled: Results) -> None:
    result = compiled[name, "sm_90"]
    assert result["block_m"] >= 64
    assert result["wgmma"], result


@pytest.mark.parametrize("name", LAUNCHES)
def test_the_copy_engine_loads_where_there_is_one(name: str, compiled: Results) -> None:
    assert compiled[name, "sm_90"]["tma"] == (name in BOXED)
    assert not compiled[name, "sm_80"]["tma"]


@pytest.mark.parametrize("target", TARGETS)
def test_small_maps_split_their_depth(target: str, compiled: Results) -> None:
    assert {name for name in LAUNCHES if compiled[name, target]["split"]} == {"pointwise_split", "conv2d_split"}


def test_every_kernel_is_here(compiled: Results) -> None:
    kernels = {result.get("kernel") for result in compiled.values()}
    modules = {path.stem for path in (ROOT / "kernels").glob("*.py")}
    shared = {"activations", "addressing", "bottleneck_tiles", "epilogue", "launch", "layout", "split_k", "tiles"}
    assert modules - shared <= kernels
    assert {"global_pool", "softmax"} <= kernels
