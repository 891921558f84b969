"""Kernels that a plan lacks when it is first run: compiled by several processes, before the first launch."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from optgraph.ahead import build, cubins
from optgraph.ahead.cubins import Cubin
from optgraph.base.devices import SM_90, Target
from optgraph.base.errors import OptgraphError
from optgraph.ir.values import Act
from optgraph.kernels.elementwise import elementwise
from optgraph.kernels.frame.arguments import Jit
from optgraph.kernels.frame.ends import Prologue
from optgraph.kernels.frame.launch import Launch, targeting
from optgraph.run.driver import Kernels
from tests.support.cubin_samples import GPU, FakeCuda, sample


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda(monkeypatch)


def several(*acts: str) -> list[Launch]:
    """Launches of as many variants."""
    x = torch.empty(1, 8, 8, 8, dtype=torch.float16)
    with targeting(SM_90):
        return [elementwise(x, torch.empty_like(x), before=Prologue(act=Act(act))) for act in acts]


def test_kernels_that_are_nowhere_are_compiled_together(
    cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By processes that do not interpret, for a GPU that is not here, told of as they go."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    told: list[tuple[str, float]] = []
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # as many processes, each of which takes seconds to start
    (there,) = several("relu")
    given = sample(key=cubins.key(there.variant, SM_90), parameters=cubins._parameters(there.variant, None))
    kernels = Kernels(GPU, [given], cuda, lambda what, done: told.append((what, done)))

    def fallback() -> None: ...

    bound = kernels.bind_all([there, *several("sigmoid", "tanh", "sigmoid"), fallback])
    assert bound.pop() is fallback
    for run in bound:
        run()
    assert kernels.compiled == 2 and told[0][0].startswith("compiling 2 kernels")
    loaded = [call[1] for call in cuda.named("cuModuleLoadData")]
    assert len(loaded) == 3 and sum(len(code) > 1000 and code.startswith(b"\x7fELF") for code in loaded) == 2
    assert len(cuda.named("cuLaunchKernelEx")) == 4


def test_what_other_processes_cannot_or_need_not_compile_is_compiled_here(
    cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    here: list[Any] = []

    def obtain(variant: Any, target: Target) -> Cubin:
        here.append(variant)
        return sample(parameters=cubins._parameters(variant, None))

    def refuse(wanted: Any, *given: Any) -> None:
        raise AssertionError(wanted)

    monkeypatch.setattr(cubins, "obtain", obtain)
    monkeypatch.setattr(build, "build", refuse)
    scripted = [replace(one, code=Jit("__main__", "mine")) for one in several("sigmoid", "tanh")]
    Kernels(GPU, [], cuda).bind_all([*scripted, *several("relu")])
    assert len(here) == 3
    cached = {cubins.key(one.variant, SM_90) for one in several("sigmoid", "tanh")}
    monkeypatch.setattr(cubins, "cached", lambda key: sample() if key in cached else None)
    Kernels(GPU, [], cuda).bind_all(several("sigmoid", "tanh", "relu"))
    assert len(here) == 6


def test_a_kernel_that_does_not_compile_is_named(
    cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(OptgraphError, match="kernel 'elementwise' does not compile for sm_90"):
        Kernels(GPU, [], cuda).bind_all(several("sigmoid", "tanh"))
