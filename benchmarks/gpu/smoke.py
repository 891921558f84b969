"""Step smoke: one small launch of each kernel, each in a process of its own, and all of them under compute-sanitizer.

    python -m benchmarks.gpu.smoke [KEY ...]

Of the samples that a kernel declares, the first, one that the copy engine fetches and one that splits its sums, in
fp16, against float64, outputs poisoned with NaN. As a program it launches them one after another, says which on stdout,
and looks at no result: that is what the sanitizer watches.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import torch

from benchmarks import record
from benchmarks.gpu.device import WrongError, about, bench, check, identity, settle
from benchmarks.gpu.worker import Record, Task
from optgraph.base.devices import Target
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.sample import Operands, Sample
from optgraph.kernels.frame.tile import Tile
from optgraph.tune.layers import Layer
from optgraph.tune.tune import Bench
from tests.support.kernel_checks import KERNELS

__all__ = ["about", "identity", "launches", "settle", "tasks"]

SECONDS = 30.0
TOOLS = {"memcheck": 150.0, "racecheck": 150.0}  # of compute-sanitizer, and what they may take
# How many times the rounding of what is stored a right kernel may be off: it may round twice more on the way, what lies
# between two fused operators and packed sums of fp16. `tests/benchmarks/test_gpu_tasks.py` has how far ours are off.
MARGIN = 4.0


def trials() -> dict[str, Layer]:
    """By kernel and what is tried."""
    found: dict[str, Layer] = {}
    for kernel in KERNELS:
        samples = [sample for _, sample in kernel.samples()]
        kinds = {
            "": samples,
            ", by the copy engine": [sample for sample in samples if _tile(sample).box],
            ", split": [sample for sample in samples if _tile(sample).splits > 1],
        }
        for kind, chosen in kinds.items():
            for sample in chosen[:1]:
                found[f"{kernel}{kind}"] = Layer(kernel, sample.typed("fp16"))
    return found


def _tile(sample: Sample) -> Tile:
    return sample.arguments.get("tile") or Tile(1, 1, 1)


def launches(target: Target) -> Iterator[Launch]:
    return (layer.dry(target) for layer in trials().values())


def tasks() -> Iterator[Task]:
    yield Task("compile", compile_all, 120.0)
    for key, layer in trials().items():
        yield Task(key, lambda layer=layer: smoke(layer, bench()), SECONDS)
    for tool, seconds in TOOLS.items():
        yield Task(tool, lambda tool=tool, seconds=seconds: sanitized(tool, seconds - 10.0), seconds)


def compile_all() -> Record:
    """All kernels at once, on all cores, so that each process finds its own."""
    found = list(launches(bench().target))
    bench().binder(found, bench().device)
    return {"kernels": len(found)}


def smoke(layer: Layer, bench: Bench) -> Record:
    """Runs it once. Raises WrongError if it is off by more than its arithmetic can explain."""
    operands = layer.operands(bench.device)
    launch, expected = operands.launch(), operands.expected()
    bound = bound_of(operands, expected)
    error = check(operands, bench.binder([launch], bench.device)(launch), bound, str(layer))
    return {"kernel": layer.name, "layer": str(layer), "error": error, "bound": bound}


def bound_of(operands: Operands, expected: list[torch.Tensor]) -> float:
    """What a right kernel may be off: so many times the rounding of the exact answer to what it is stored in."""
    rounding = [
        float((value.to(result.dtype).double() - value).norm() / value.norm())
        for result, value in zip(operands.results(), expected, strict=True)
    ]
    return max(MARGIN * max(rounding), LEAST)


LEAST = 1e-5  # where rounding loses nothing, sums in float32 do


def sanitized(tool: str, seconds: float) -> Record:
    """All kernels in one process that compute-sanitizer watches. Raises WrongError for what it finds."""
    path = shutil.which("compute-sanitizer")
    if path is None:
        return {"skipped": "compute-sanitizer is not here"}
    # Every tensor an allocation of its own: else what is out of one is within the pool.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    command = [path, "--tool", tool, "--print-limit", "20", sys.executable, "-m", "benchmarks.gpu.smoke"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment, cwd=record.ROOT)
        text = run.stdout + run.stderr
    except subprocess.TimeoutExpired as cut:
        text = "".join(part.decode(errors="replace") for part in (cut.stdout, cut.stderr) if part)
        raise WrongError(f"{tool} did not end within {seconds:.0f} s, after {_last(text)}") from None
    print(text)
    return judged(tool, text, run.returncode)


def judged(tool: str, text: str, code: int) -> Record:
    """What the sanitizer's report says. Raises WrongError if it found anything, or if not all kernels ran."""
    summary = re.search(r"(?:ERROR|RACECHECK) SUMMARY: (\d+) (?:error|hazard)", text)
    ran = re.findall(r"^== (.+) ==$", text, re.MULTILINE)
    if "Device not supported" in text:
        return {"skipped": f"{tool}: device not supported"}
    if summary is None:
        raise WrongError(f"{tool} gave no summary, exit code {code}, after {_last(text)}")
    if int(summary[1]):
        first = re.search(r"^=+ ((?:Invalid|Error|Race|Program hit|Misaligned).*)$", text, re.MULTILINE)
        place = _last(text[: first.start()]) if first else "?"
        raise WrongError(f"{tool}: {summary[1]} found, first in {place}: {first[1] if first else ''}")
    if code or set(ran) != set(trials()):
        raise WrongError(f"{tool}: exit code {code}, {len(ran)} of {len(trials())} kernels ran, the last {_last(text)}")
    return {"kernels": len(ran)}


def _last(text: str) -> str:
    """The kernel that was announced last."""
    found = re.findall(r"^== (.+) ==$", text, re.MULTILINE)
    return found[-1] if found else "nothing"


def main() -> None:
    wanted = sys.argv[1:]
    for key, layer in trials().items():
        if not wanted or key in wanted:
            print(f"== {key} ==", flush=True)
            launch = layer.operands(bench().device).launch()
            bench().binder([launch], bench().device)(launch)()
            settle()


if __name__ == "__main__":
    main()
