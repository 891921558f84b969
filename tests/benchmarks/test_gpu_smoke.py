"""Step smoke: right kernels pass with room to spare, wrong ones do not, and what a sanitizer says is understood."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import smoke
from benchmarks.gpu.device import WrongError
from tests.support.kernel_checks import KERNELS
from tests.support.lying_device import bench, right, wrong


def test_smoke_tries_every_kernel_the_copy_engine_and_split_sums() -> None:
    found = smoke.trials()
    assert {layer.name for layer in found.values()} == {kernel.name for kernel in KERNELS}
    assert sum(key.endswith("copy engine") for key in found) >= 2 and sum(key.endswith("split") for key in found) >= 2


@pytest.mark.parametrize("key", smoke.trials())
def test_a_right_kernel_is_within_half_of_the_bound_and_a_wrong_one_is_not(key: str) -> None:
    """The bound is what the arithmetic predicts: kernels in the interpreter are off by a quarter to a half of it."""
    layer = smoke.trials()[key]
    row = smoke.smoke(layer, bench(right))
    assert json.loads(json.dumps(row)) == row
    assert row["error"] <= row["bound"] / 2 and row["bound"] <= 1e-3
    for lie in ("nothing", "scaled"):
        if lie == "nothing" or ", " not in key:  # split sums and boxes take the interpreter long
            with pytest.raises(WrongError, match="off by"):
                smoke.smoke(layer, bench(wrong(lie)))


SANITIZED = """========= COMPUTE-SANITIZER
== conv2d ==
== pool ==
{more}========= ERROR SUMMARY: {count} error{s}
"""
INVALID = "========= Invalid __global__ read of size 16 bytes\n=========     at _pool+0x1230\n"


def test_what_the_sanitizer_finds_is_told_with_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = next(iter(smoke.trials().values()))
    monkeypatch.setattr(smoke, "trials", lambda: {"conv2d": layer, "pool": layer})
    clean = SANITIZED.format(more="", count=0, s="s")
    assert smoke.judged("memcheck", clean, 0) == {"kernels": 2}
    with pytest.raises(WrongError, match="memcheck: 1 found, first in pool: Invalid __global__ read of size 16 bytes"):
        smoke.judged("memcheck", SANITIZED.format(more=INVALID, count=1, s=""), 0)
    with pytest.raises(WrongError, match="1 of 2 kernels ran, the last conv2d"):
        smoke.judged("memcheck", clean.replace("== pool ==\n", ""), 0)
    with pytest.raises(WrongError, match="exit code 1"):
        smoke.judged("memcheck", clean, 1)
    with pytest.raises(WrongError, match="no summary, exit code -11, after conv2d"):
        smoke.judged("racecheck", "== conv2d ==\n", -11)
    race = clean.replace("ERROR SUMMARY: 0 errors", "RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)")
    assert smoke.judged("racecheck", race, 0) == {"kernels": 2}
    with pytest.raises(WrongError, match="racecheck: 3 found"):
        smoke.judged("racecheck", race.replace("SUMMARY: 0", "SUMMARY: 3"), 0)
    assert "not supported" in smoke.judged("memcheck", "========= Error: Device not supported\n", 1)["skipped"]
    monkeypatch.setattr(smoke.shutil, "which", lambda name: None)
    assert smoke.sanitized("memcheck", 1.0) == {"skipped": "compute-sanitizer is not here"}


def test_the_sanitizer_watches_this_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a sanitizer that only says what it was asked to watch, and one that hangs."""
    tool = tmp_path / "compute-sanitizer"
    tool.write_text('#!/bin/sh\necho "== pool =="\nshift 5\necho "ran $*"\n')
    tool.chmod(0o755)
    monkeypatch.setattr(smoke.shutil, "which", lambda name: str(tool))
    with pytest.raises(WrongError, match="no summary, exit code 0, after pool"):
        smoke.sanitized("memcheck", 10.0)
    tool.write_text('#!/bin/sh\necho "== pool =="\nexec sleep 20\n')
    with pytest.raises(WrongError, match="did not end within 0 s, after pool"):
        smoke.sanitized("memcheck", 0.2)


def test_the_program_that_is_watched_launches_every_kernel(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke, "bench", lambda: bench(right))
    monkeypatch.setattr(smoke, "settle", lambda: None)
    chosen = {key: layer for key, layer in smoke.trials().items() if layer.name in ("pool", "dense", "copy")}
    monkeypatch.setattr(smoke, "trials", lambda: chosen)
    monkeypatch.setattr(sys, "argv", ["smoke"])
    smoke.main()
    assert smoke.re.findall(r"^== (.+) ==$", capsys.readouterr().out, smoke.re.MULTILINE) == list(chosen) != []
