"""What `make gpu` runs, for a limited time: the GPU tests, tuning, the race. Each call goes on where the last ended.

    python -m benchmarks.gpu_steps [--minutes 9] [--out FOLDER] [--steps tests,tune,race] [--commit HASH]

Needs an NVIDIA GPU, torch and Triton, and no installation: run it in the root of the checkout. In FOLDER are
gpu_tests.json (which tests passed), tuned/sm_90.json (see `optgraph tune`), gpu.json and gpu.png (see benchmarks.gpu).
What is in benchmarks/results and not in FOLDER is taken over first, so that a machine that is bare again goes on too.
Tests and race use the tiles in FOLDER/tuned, as far as there are some; to ship these, copy them to optgraph/tuned/.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import record

STEPS = ("tests", "tune", "race")
WORKERS = 3  # processes that test at a time, where pytest-xdist is installed; each may compile on all cores
KEPT = ("gpu_tests.json", "tuned", "gpu.json", "inductor")
UNFINISHED = 75
# What a command exits with that is neither success nor failure: pytest when it has nothing to run (all passed before),
# and the others when there is more to do.
SPECIAL = {"tests": {5: 0}, "tune": {1: UNFINISHED}, "race": {}}

Execute = Callable[[list[str], dict[str, str], float], int]


def execute(command: list[str], environment: dict[str, str], seconds: float) -> int:
    """The exit code of a command, UNFINISHED if it was stopped for taking longer than `seconds`."""
    print(f"\n$ {' '.join(command)}", flush=True)
    try:
        return subprocess.run(command, env=environment, cwd=record.ROOT, timeout=seconds).returncode
    except subprocess.TimeoutExpired:
        print(f"stopped after {seconds:.0f} s", flush=True)
        return UNFINISHED


def commands(step: str, out: Path, commit: str) -> list[list[str]]:
    """What a step runs; tune and race are told how long, too."""
    python = [sys.executable, "-m"]
    if step == "tests":
        parallel = ["-n", str(WORKERS)] if importlib.util.find_spec("xdist") else []
        return [[*python, "pytest", "-q", "-m", "gpu", *parallel, "tests/gpu"]]
    if step == "tune":
        tuned = ["--dtype", "fp16", "-o", str(out / "tuned")]
        return [[*python, "optgraph", "tune", str(record.model(name)), *tuned] for name in record.NETWORKS]
    return [[*python, "benchmarks.gpu", "--out", str(out), "--commit", commit]]


def run(
    steps: list[str],
    out: Path,
    minutes: float,
    commit: str = "",
    execute: Execute = execute,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, str]:
    """Runs the steps one after another while there is time; says of each 'done', 'failed' or 'unfinished'."""
    deadline = clock() + 60 * minutes
    take_over(record.RESULTS, out)
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | {
        "OPTGRAPH_TEST_GPU": "1",
        "OPTGRAPH_TEST_PASSED": str(out / "gpu_tests.json"),
        "OPTGRAPH_TUNED": str(out / "tuned"),
        # torch.compile may not end in one call: the next goes on with the kernels that it has compiled.
        "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(out / "inductor")),
        "PYTHONUNBUFFERED": "1",
    }
    found = dict.fromkeys(steps, "unfinished")
    for step in steps:
        codes = set()
        for command in commands(step, out, commit) if clock() < deadline else ():
            left = deadline - clock()
            limit = [] if step == "tests" else ["--minutes", f"{left / 60:.2f}"]
            code = execute(command + limit, environment, left) if left > 0 else UNFINISHED
            codes.add(SPECIAL[step].get(code, code))
        if codes - {0, UNFINISHED}:
            found[step] = "failed"
        elif codes == {0}:
            found[step] = "done"
    return found


def take_over(results: Path, out: Path) -> None:
    """Copies what an earlier call left in `results` to `out`, unless it is there."""
    out.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        if (results / name).is_dir() and not (out / name).exists():
            shutil.copytree(results / name, out / name)
        elif (results / name).is_file() and not (out / name).exists():
            shutil.copy(results / name, out / name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="stop after this long")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="where results go")
    parser.add_argument("--steps", default=",".join(STEPS), help="some of tests,tune,race, in order")
    parser.add_argument("--commit", default="", help="what is measured, where there is no git to ask")
    options = parser.parse_args()
    steps = options.steps.split(",")
    if unknown := set(steps) - set(STEPS):
        parser.error(f"no step {', '.join(sorted(unknown))}: use {', '.join(STEPS)}")
    if not torch.cuda.is_available():
        sys.exit("make gpu needs an NVIDIA GPU: torch sees none")
    found = run(steps, options.out.resolve(), options.minutes, options.commit)
    print("\n" + ", ".join(f"{step} {state}" for step, state in found.items()), f"\nresults in {options.out}")
    if "unfinished" in found.values():
        print("call it again to go on")
    return int("failed" in found.values())


if __name__ == "__main__":
    sys.exit(main())
