"""Triton's own launcher and ours, on a libcuda that only writes down: what each hands the driver, byte by byte.

    python -m tests.launcher.compare    # a process of its own, as `compared` starts it

One kernel, compiled once, is launched by Triton's CompiledKernel, as `kernel[grid](...)`, and by `optgraph.run.driver`:
from sm_90 on to begin before the launch that it follows ends, which Triton's option `launch_pdl` asks for.
(Called as a jit function, Triton would compile another one: one for these very sizes.)
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from optgraph.base.devices import Target
from optgraph.kernels.frame.launch import Launch, targeting
from optgraph.kernels.frame.variant import as_given, compiled
from optgraph.run.driver import Bound, Kernels
from optgraph.tune.layers import Layer
from tests.emulator.compiler import stop_at_ptx
from tests.support.kernel_checks import KERNELS
from tests.support.paths import ROOT

LIBRARY = "libcuda.so.1"
STREAM = 0x5731
OLD, NEW = 13010, 13020  # driver versions: one that needs tensor maps corrected, and one that does not
CPU = torch.device("cpu")


@dataclass
class Row:
    """A kernel for a target.

    early: launches with an attribute. maps: tensor maps that were encoded. differences: what was not the same, in
    words.
    """

    kernel: str
    target: str
    launches: int = 0
    early: int = 0
    maps: int = 0
    differences: list[str] = field(default_factory=list)


def missing() -> str:
    """What this machine lacks for a launcher to be built; '' if nothing."""
    if find_spec("triton") is None:
        return "there is no Triton here"
    if not _compiler():
        return "there is no C compiler here"
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return "" if header.exists() else f"there is no {header}"


def compared(
    folder: Path,
    targets: Sequence[Target],
    dtypes: Sequence[str],
    version: int = OLD,
    few: bool = False,
    triton: Path | None = None,
) -> list[Row]:
    """Builds the library in `folder`, where all that is compiled is kept, and compares in a process that loads it.

    version: the driver's. few: one sample a kernel will do, beside TMA. triton: where another Triton is installed.
    Raises CalledProcessError, with the process's words on stderr, if it fails.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    path = [str(triton)] if triton else []
    environment["PYTHONPATH"] = os.pathsep.join([*path, str(ROOT), *filter(None, sys.path)])
    environment |= {"LD_LIBRARY_PATH": str(folder), "TRITON_LIBCUDA_PATH": str(folder)}
    environment |= {"TRITON_CACHE_DIR": str(folder / "cache")}
    _build(folder, triton)
    asked = {"targets": [str(target) for target in targets], "dtypes": dtypes, "version": version, "few": few}
    command = [sys.executable, "-m", "tests.launcher.compare"]
    done = subprocess.run(
        command, input=json.dumps(asked), stdout=subprocess.PIPE, text=True, env=environment, check=True
    )
    return [Row(**row) for row in json.loads(done.stdout.splitlines()[-1])]


def _compiler() -> str | None:
    return os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")


def _build(folder: Path, triton: Path | None) -> None:
    """libcuda.so.1, by the headers of the same Triton."""
    folder.mkdir(parents=True, exist_ok=True)
    found = find_spec("triton")
    assert found is not None and found.origin is not None
    package = triton / "triton" if triton else Path(found.origin).parent
    include, source = package / "backends" / "nvidia" / "include", Path(__file__).parent / "libcuda.c"
    command = [_compiler() or "cc", "-shared", "-fPIC", "-Wl,-soname," + LIBRARY, "-I", str(include), str(source)]
    subprocess.run([*command, "-o", str(folder / LIBRARY)], check=True)


# ---- in the process that loads it


class _Fake:
    """The library, and what it has written down."""

    def __init__(self) -> None:
        self.library: Any = ctypes.CDLL(LIBRARY)
        self.library.fake_taken.restype = ctypes.c_char_p

    def taken(self) -> list[str]:
        text: bytes = self.library.fake_taken()
        return text.decode().splitlines()


def _install(targets: Sequence[Target]) -> None:
    """Triton and torch take this for a machine with a GPU of each target."""
    cuda: Any = torch.cuda
    cuda.current_device = lambda: _Current.device
    cuda.get_device_capability = lambda device=None: targets[_index(device)].capability
    cuda.current_stream = lambda device=None: SimpleNamespace(cuda_stream=STREAM)
    from triton.backends.nvidia.driver import CudaDriver
    from triton.runtime import driver

    made = CudaDriver()
    made.get_current_stream = lambda device: STREAM
    driver.set_active(made)


class _Current:
    """The device that launches are for: Triton keeps what it compiled by its number."""

    device = 0


def _index(device: Any) -> int:
    return _Current.device if device is None else device if isinstance(device, int) else int(device.index)


def samples(target: Target, dtypes: Sequence[str], few: bool) -> Iterator[Layer]:
    """Of each kernel and type its first sample and its last, one that the copy engine fetches and one of split sums."""
    for kernel in KERNELS:
        found = [sample for _, sample in kernel.samples()]
        tiles = [sample.arguments.get("tile") for sample in found]
        boxed = [sample for sample, tile in zip(found, tiles, strict=True) if tile is not None and tile.box]
        split = [sample for sample, tile in zip(found, tiles, strict=True) if tile is not None and tile.splits > 1]
        chosen = [found[0], found[-1], *boxed[:1], *split[:1]]
        if few:
            chosen = [found[0], *boxed[:1]] if target.device.tma else [found[-1]]
        for dtype in dtypes:
            layers = [Layer(kernel, sample.typed(dtype)) for sample in chosen]
            yield from {str(layer): layer for layer in layers if _fits(layer, target)}.values()


def _fits(layer: Layer, target: Target) -> bool:
    tile = layer.sample.arguments.get("tile")
    return target.device.tma or tile is None or not tile.box


def differences(theirs: Sequence[str], ours: Sequence[str]) -> Iterator[str]:
    """All that is handed over must be the same, in the same order; of shared memory to be had, Triton asks for the most
    that there is, and ours must not ask for less than is launched with."""
    asked = [[line for line in lines if line.startswith("attribute")] for lines in (theirs, ours)]
    calls = [[line for line in lines if not line.startswith("attribute")] for lines in (theirs, ours)]
    if len(calls[0]) != len(calls[1]):
        yield f"theirs makes {len(calls[0])} calls, ours {len(calls[1])}"
    for one, other in zip(*calls, strict=False):
        parts = one.split(", "), other.split(", ")
        if len(parts[0]) != len(parts[1]):
            yield f"theirs hands over {len(parts[0])} things, ours {len(parts[1])}"
        yield from (f"theirs {a}, ours {b}" for a, b in zip(*parts, strict=False) if a != b)
    if len(asked[0]) != len(asked[1]):
        yield f"theirs sets {len(asked[0])} attributes, ours {len(asked[1])}"
    needed = max(int(found[1]) for line in ours if (found := re.search(r" shared (\d+) ", line)))
    given = int(asked[1][0].split("= ")[1]) if asked[1] else 48 << 10
    if needed > given:
        yield f"ours is launched with {needed} bytes of shared memory, and may have {given}"


def _compare(launch: Launch, target: Target, kernels: Kernels, fake: _Fake, row: Row) -> None:
    from triton import CompilationError

    try:
        made = compiled(launch.variant, target)
    except CompilationError as error:
        row.differences.append(f"does not compile: {error.__cause__ or error}")
        return
    early = target.number >= 90
    made.metadata = made.metadata._replace(launch_pdl=early)  # what its launcher is made of when it is first called
    fake.taken()
    made[(*launch.grid, 1, 1)[:3]](*map(as_given, (*launch.arguments.values(), *launch.constants.values())))
    theirs = sorted(fake.taken(), key=_order)
    run = kernels.bind(launch)
    assert isinstance(run, Bound)
    run.early() if early else run()
    ours = sorted(fake.taken(), key=_order)
    row.launches += sum(line.startswith("launch") for line in ours)
    row.early += sum(" attributes 1, " in line for line in ours)
    row.maps += sum(line.startswith("map") for line in ours)
    if not any(line.startswith("launch") for line in theirs):
        row.differences.append("theirs launches nothing")
    row.differences += differences(theirs, ours)


def _order(line: str) -> int:
    """Loading comes first, whenever it was done."""
    return ("load", "prefer", "attribute", "map", "launch").index(line.split()[0])


def main() -> None:
    """The process: what to compare on standard input, rows on the last line of the output."""
    asked = json.load(sys.stdin)
    targets = [Target.parse(name) for name in asked["targets"]]
    stop_at_ptx()
    fake = _Fake()
    fake.library.fake_set(asked["version"], 232_448)
    _install(targets)
    rows: dict[tuple[str, str], Row] = {}
    for index, target in enumerate(targets):
        _Current.device = index
        for layer in samples(target, asked["dtypes"], asked["few"]):
            with targeting(target):
                launch = layer.operands(CPU).launch()
            row = rows.setdefault((layer.name, str(target)), Row(layer.name, str(target)))
            _compare(launch, target, Kernels(torch.device("cuda", index), [], fake.library), fake, row)
    print(json.dumps([asdict(row) for row in rows.values()]))


if __name__ == "__main__":
    main()
