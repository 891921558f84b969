"""Kernels compiled on a machine without a GPU, in one file, for `make gpu` to use.

    python -m benchmarks.gpu.carried [--out build/carried.safetensors] [--target sm_90]
    python -m benchmarks.gpu.carried --unpack FILE FOLDER

The first compiles all that the steps launch, with the Triton that is installed here, and writes it; the second puts it
where the package looks for compiled kernels if TRITON_CACHE_DIR is FOLDER. A cubin has all that a launch needs, and its
key says nothing of Triton's version: what one version compiled runs where another is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from benchmarks import record
from optgraph.ahead import build, cubins
from optgraph.ahead.build import Use
from optgraph.ahead.cubins import Cubin
from optgraph.base.devices import Target
from optgraph.base.errors import OptgraphError
from optgraph.base.files import replacing

KEY = "carried cubins"  # the probe's task that loads them
DEFAULT = record.ROOT / "build" / "carried.safetensors"


def file() -> Path | None:
    """The file that this call uses, if any."""
    found = os.environ.get("OPTGRAPH_CARRIED_FILE")
    return Path(found) if found else None


def write(path: Path, found: list[Cubin]) -> None:
    """Writes cubins with all that a launch must know of them."""
    codes = {cubin.key: np.frombuffer(cubin.code, np.uint8) for cubin in found}
    about = {"triton": version("triton"), "cubins": json.dumps([cubin.to_json() for cubin in found])}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as out:
        out.write(save(codes, about))


def read(path: Path) -> list[Cubin]:
    """What `write` wrote. Raises ArtifactError, SafetensorError or OSError for anything else."""
    with safe_open(path, framework="numpy") as found:
        described = json.loads(found.metadata()["cubins"])
        return [cubins.from_json(data, found.get_tensor(data["key"]).tobytes()) for data in described]


def made_by(path: Path) -> str:
    """Which Triton compiled it, and a digest of the file: what figures taken with it depend on."""
    with safe_open(path, framework="numpy") as found:
        return f"triton {found.metadata()['triton']}, {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


def unpack(path: Path) -> int:
    """Puts them into the cache on disk; how many."""
    found = read(path)
    for cubin in found:
        cubins.keep(cubin)
    return len(found)


def uses(target: Target) -> list[Use]:
    """Every kernel that the steps launch on `target`, once."""
    from benchmarks.gpu import fused, questions, race, smoke, suite, tune
    from optgraph.kernels.frame.launch import Launch

    found: dict[str, Use] = {}

    def launches() -> Iterator[Launch]:
        for step in (smoke, questions, suite, fused, tune, race):
            yield from step.launches(target)

    for launch in launches():
        name = cubins.key(launch.variant, target)
        found.setdefault(name, Use(name, launch.variant, target, {}, launch.programs))
    return list(found.values())


def compiled(wanted: Sequence[Use], tell: Callable[[str], None] = print) -> list[Cubin]:
    """The cubins of what compiles: told is what does not."""
    try:
        return build.build(wanted)
    except OptgraphError as reason:
        if len(wanted) == 1:
            tell(f"left out: {reason}")
            return []
    middle = len(wanted) // 2  # what was compiled is in the cache
    return compiled(wanted[:middle], tell) + compiled(wanted[middle:], tell)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DEFAULT)
    parser.add_argument("--target", default="sm_90")
    parser.add_argument("--unpack", nargs=2, type=Path, metavar=("FILE", "FOLDER"))
    options = parser.parse_args()
    if options.unpack:
        path, folder = options.unpack
        os.environ["TRITON_CACHE_DIR"] = str(folder)
        unpack(path)
        print(made_by(path))
        return
    start = time.perf_counter()
    wanted = uses(Target.parse(options.target))
    print(f"{len(wanted)} kernels to compile, found in {time.perf_counter() - start:.0f} s", flush=True)
    found = compiled(wanted)
    write(options.out, found)
    size = options.out.stat().st_size / 1e6
    told = f"{len(found)} cubins for {options.target} by Triton {version('triton')}, {size:.1f} MB"
    print(f"{told}, {time.perf_counter() - start:.0f} s: {options.out}")
    if len(found) < len(wanted):
        sys.exit(f"{len(wanted) - len(found)} kernels do not compile with Triton {version('triton')}")


if __name__ == "__main__":
    main()
