"""The steps of `make gpu`, in order, and a call of them for a limited time. Each call goes on where the last ended."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import record
from benchmarks.gpu.runner import TARGET, Found, Limits, Process, Runner

CARRIED = "carried cubins"  # the probe's task that loads them
CARRIED_NAMES = ("TRITON_CACHE_DIR", "OPTGRAPH_CARRIED", "OPTGRAPH_CARRIED_FILE")
UNPACK_SECONDS = 60.0


PLAIN = Limits()


@dataclass(frozen=True)
class Step:
    """module: of benchmarks.gpu. file: where its records go. share: how much of what is left of a call it may take, so
    that something of every step is measured in the first one."""

    name: str
    module: str
    file: str
    share: float
    limits: Limits = PLAIN


# In the order of what there is to learn, and of what the later ones stand on.
STEPS = (
    Step("probe", "probe", "gpu_probe.json", 0.1),
    Step("smoke", "smoke", "gpu_smoke.json", 0.4, Limits(ahead=8)),
    Step("questions", "questions", "gpu_questions.json", 0.5),
    Step("tests", "suite", "gpu_tests.json", 0.5),
    Step("fused", "fused", "gpu_fused.json", 0.5),
    Step("tune", "tune", f"tuned/{TARGET}.json", 0.6),
    Step("profile", "profile", "gpu_profile.json", 0.3),
    Step("race", "race", "gpu.json", 1.0),
    Step("compile", "compile", "gpu.json", 1.0),
)
DEFAULT = tuple(step.name for step in STEPS if step.name != "compile")
KEPT = (*dict.fromkeys(Path(step.file).parts[0] for step in STEPS), "inductor")

Start = Callable[[Step, Mapping[str, str]], Callable[[], Process]]


def start(out: Path) -> Start:
    """What makes a step's processes; what they print is kept in `out`/logs."""

    def of(step: Step, environment: Mapping[str, str]) -> Callable[[], Process]:
        command = [sys.executable, "-m", "benchmarks.gpu.worker", step.module]
        return lambda: Process(command, environment, out / "logs" / f"{step.name}.log")

    return of


def environment(out: Path, commit: str) -> dict[str, str]:
    """Of all processes: kernels are compiled, tiles come from `out`."""
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return inherited | {
        "OPTGRAPH_TEST_GPU": "1",
        "OPTGRAPH_TUNED": str(out / "tuned"),
        "OPTGRAPH_COMMIT": commit,
        "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(out / "inductor")),
        "PYTHONUNBUFFERED": "1",
    }


def carry(file: Path, tell: Callable[[str], None] = print) -> dict[str, str]:
    """Unpacks carried cubins into a cache of their own; what processes need to know of it. Nothing if it fails."""
    folder = Path(tempfile.gettempdir()) / "optgraph-carried"
    command = [sys.executable, "-m", "benchmarks.gpu.carried", "--unpack", str(file), str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=UNPACK_SECONDS, cwd=record.ROOT)
    except (OSError, subprocess.TimeoutExpired) as reason:
        tell(f"carried cubins are left out: {reason}")
        return {}
    if done.returncode:
        tell(f"carried cubins are left out: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        return {}
    made_by = done.stdout.strip()
    tell(f"carried cubins of {made_by}")
    return dict(zip(CARRIED_NAMES, (str(folder), made_by, str(file)), strict=True))


def run(
    steps: Sequence[Step],
    out: Path,
    minutes: float,
    environment: Mapping[str, str],
    start: Start,
    clock: Callable[[], float] = time.monotonic,
    tell: Callable[[str], None] = print,
) -> dict[str, Found]:
    """Runs the steps one after another while there is time, whatever becomes of each."""
    deadline = clock() + 60 * minutes
    take_over(record.RESULTS, out)
    found: dict[str, Found] = {}
    for step in steps:
        left = deadline - clock()
        if left <= 0:
            found[step.name] = Found(left=1)
            continue
        share = 1.0 if step is steps[-1] else step.share
        tell(f"{step.name}, for at most {left * share:.0f} s")
        runner = Runner(start(step, environment), out / step.file, clock() + left * share, step.limits, clock, tell)
        try:
            found[step.name] = runner.run()
        except Exception as reason:  # a full disk, a file that is none: the steps after may still go
            found[step.name] = Found(error=f"{type(reason).__name__}: {reason}")
        if CARRIED in found[step.name].failed:
            environment = {name: v for name, v in environment.items() if name not in CARRIED_NAMES}
            tell("carried cubins do not load here: going on without them")
    return found


def take_over(results: Path, out: Path) -> None:
    """Copies what an earlier call left in `results` to `out`, unless it is there."""
    out.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        if (results / name).is_dir() and not (out / name).exists():
            shutil.copytree(results / name, out / name)
        elif (results / name).is_file() and not (out / name).exists():
            shutil.copy(results / name, out / name)


def told(found: Mapping[str, Found]) -> list[str]:
    """What became of the steps: a line each, and one for everything that failed."""
    lines = []
    for name, step in found.items():
        numbers = f"{step.done} done now, {step.kept} in all, {len(step.failed)} failed"
        more = ", more to do" if step.left else ""
        lines.append(f"{name:10} {step.state:10} {numbers}{more}, {step.seconds:.0f} s")
        lines += [f"{'':10} {step.error}"] if step.error else []
        lines += [f"{'':10} {key}: {reason}" for key, reason in step.failed.items()]
    return lines
