"""Step probe: what machine this is, in ten seconds. A tool that is not there is a row that says so."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import carried
from benchmarks.gpu.device import WrongError, about, identity, settle
from benchmarks.gpu.worker import Record, Task
from optgraph.run.driver import Driver, open_library

__all__ = ["about", "identity", "settle", "tasks"]

TOOLS = ("nvidia-smi", "compute-sanitizer", "ncu", "nvcc", "gcc", "cc")
PACKAGES = ("torch", "triton", "numpy", "jax", "onnxruntime", "pytest", "hypothesis", "matplotlib")
GIB = 1 << 30


def tasks() -> Iterator[Task]:
    yield Task("device", device, 20.0)
    yield Task("driver", driver, 20.0)
    for tool in TOOLS:
        yield Task(f"tool {tool}", lambda tool=tool: version_of(tool), 10.0)
    yield Task("packages", packages, 10.0)
    yield Task("compiler", compiler, 60.0)
    yield Task("ceilings", ceilings, 30.0)
    if path := carried.file():
        yield Task(carried.KEY, lambda: carried_cubins(path), 60.0)


def device() -> Record:
    """Name, size, memory that is free, and the clocks as nvidia-smi sees them; they are left as they are."""
    found = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info()
    query = "clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu,driver_version"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    return {
        "name": found.name,
        "capability": f"sm_{found.major}{found.minor}",
        "multiprocessors": found.multi_processor_count,
        "l2_mb": getattr(found, "L2_cache_size", 0) / 1e6,
        "free_gib": free / GIB,
        "total_gib": total / GIB,
        query: output(command),
    }


def driver() -> Record:
    """Versions of the driver and of the libraries that torch has."""
    cuda: Any = open_library()
    import ctypes

    number = ctypes.c_int()
    if cuda.cuDriverGetVersion(ctypes.byref(number)):
        raise WrongError("cuDriverGetVersion failed")
    return {
        "driver": number.value,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "kernel": platform.release(),
    }


def version_of(tool: str) -> Record:
    path = shutil.which(tool)
    return {"path": path, "version": output([path, "--version"]) if path else "not here"}


def packages() -> Record:
    found: Record = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        found[name] = "not here"
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def compiler() -> Record:
    """Triton needs Python's headers and a C compiler for launchers of its own; ours needs neither."""
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    import triton

    start = time.perf_counter()
    ptxas = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    return {
        "headers": header.exists(),
        "ptxas": output([str(ptxas), "--version"]) if ptxas.exists() else "not here",
        "import_seconds": time.perf_counter() - start,
    }


def ceilings(device: str = "cuda", numbers: int = GIB // 4, side: int = 8192) -> Record:
    """What the device reaches in a large copy, bytes read and written, and in a large product, on random numbers.

    numbers: in float32. side: of the square matrices."""
    source = torch.randn(numbers, device=device)
    copy = torch.empty_like(source)
    copying = _seconds(lambda: copy.copy_(source))
    if not torch.equal(copy, source):
        raise WrongError("a copy differs from what was copied")
    a, b = (torch.randn(side, side, device=device, dtype=torch.float16) for _ in range(2))
    product = _seconds(lambda: a @ b)
    return {"copy_tb_s": 2 * 4 * numbers / copying / 1e12, "product_tflops": 2 * side**3 / product / 1e12}


def _seconds(run: Callable[[], object], times: int = 10) -> float:
    run()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(times):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / times


def carried_cubins(path: Path) -> Record:
    """Whether this driver loads cubins that were compiled elsewhere."""
    cuda, count = Driver(open_library()), 0
    cubins = carried.read(path)
    for cubin in cubins:
        if cubin.target == identity_target():
            cuda.load(cubin, torch.cuda.current_device())
            count += 1
    if not count:
        raise WrongError(f"none of {len(cubins)} carried cubins is for {identity_target()}")
    return {"loaded": count, "made_by": carried.made_by(path)}


def identity_target() -> str:
    return "sm_{}{}".format(*torch.cuda.get_device_capability())


def output(command: list[str]) -> str:
    """What a command prints, or why it prints nothing."""
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=8.0)
    except (OSError, subprocess.TimeoutExpired) as reason:
        return f"{type(reason).__name__}: {reason}"
    return (found.stdout or found.stderr).strip()[-600:]
