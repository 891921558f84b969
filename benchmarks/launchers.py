"""Our launches against Triton's own launcher, by what each hands libcuda, for several versions of Triton.

    python -m benchmarks.launchers [--versions 3.7.1,3.6.0]    # the installed one, and others that pip fetches

Writes benchmarks/results/launchers.json. Needs a C compiler, and no GPU; see tests/launcher/compare.py.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("TRITON_INTERPRET", "1")

from benchmarks import record
from optgraph.base.devices import SM_80, SM_90
from tests.launcher.compare import NEW, OLD, compared

BUILD = record.ROOT / "build" / "launcher"
VERSIONS = (version("triton"), "3.6.0", "3.9.0")  # the installed one, the oldest that the package takes, the newest
DTYPES = ("fp16", "fp32")


def installed(wanted: str) -> Path | None:
    """Where that Triton is, fetched if it is not there; None for the installed one."""
    if wanted == version("triton"):
        return None
    folder = BUILD / f"triton-{wanted}"
    if not folder.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--target", str(folder), f"triton=={wanted}"], check=True)
    return folder


def drivers(place: Path | None) -> tuple[int, ...]:
    """Versions of the driver. With an old one a tensor map is to be corrected, which Triton 3.6 leaves out."""
    found = find_spec("triton")
    assert found is not None and found.origin is not None
    package = place / "triton" if place else Path(found.origin).parent
    source = (package / "backends" / "nvidia" / "driver.c").read_text()
    return (OLD, NEW) if "cuDriverGetVersion" in source else (NEW,)


def rows(wanted: str) -> Iterator[dict[str, Any]]:
    """One for each target: launches of how many kernels, with which drivers, and what differed."""
    place = installed(wanted)
    for target in (SM_80, SM_90):
        start = time.perf_counter()
        found = []
        for driver in drivers(place):
            found += compared(BUILD / f"cache-{wanted}", (target,), DTYPES, driver, triton=place)
        yield {
            "table": "launchers",
            "graph": f"Triton {wanted}",
            "target": str(target),
            "kernels": len({row.kernel for row in found}),
            "drivers": list(drivers(place)),
            "launches": sum(row.launches for row in found),
            "maps": sum(row.maps for row in found),
            "differences": [f"{row.kernel}: {text}" for row in found for text in row.differences],
            "seconds": time.perf_counter() - start,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", default=",".join(VERSIONS))
    made = []
    for wanted in parser.parse_args().versions.split(","):
        for row in rows(wanted):
            made.append(row)
            print(row, flush=True)
    record.write("launchers", made)


if __name__ == "__main__":
    main()
