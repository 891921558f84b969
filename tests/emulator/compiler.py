"""Kernels compiled to PTX by a process that does not interpret, and kept on disk beside the compiled kernels.

What comes out is a Cubin whose code is PTX: `cuModuleLoadData` takes that as well as machine code. So ptxas, about half
of the time, need not run; `tests/kernels/test_compile.py` is about what it makes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from optgraph.ahead import cubins
from optgraph.ahead.cubins import Cubin
from optgraph.base import config
from optgraph.base.devices import Target
from optgraph.base.files import replacing
from optgraph.kernels.frame.variant import Variant, compiled
from tests.support.paths import ROOT

Wanted = tuple[Variant, Target]


class CompileError(Exception):
    """A kernel that does not compile, with the compiler's words."""


def compile_all(wanted: Iterable[Wanted]) -> list[Cubin]:
    """The cubins of `wanted`, in their order, from the cache on disk where it has them.

    Raises CompileError if one does not compile; the others are in the cache then.
    """
    every = list(wanted)
    keys = [cubins.key(variant, target) for variant, target in every]
    missing = {key: pair for key, pair in zip(keys, every, strict=True) if not _path(key).exists()}
    if missing:
        _compile(missing)
    return [_read(key) for key in keys]


def _path(key: str) -> Path:
    return config.cubin_cache() / f"ptx-triton-{version('triton')}" / f"{key}.json"


def _read(key: str) -> Cubin:
    found = json.loads(_path(key).read_text())
    parameters = found["cubin"].pop("parameters")
    made = [
        p if isinstance(p, str) else cubins.TensorMap(tuple(p["box"]), p["swizzle"], p["element"]) for p in parameters
    ]
    return Cubin(**found["cubin"], parameters=tuple(made), code=found["ptx"].encode())


def _compile(missing: dict[str, Wanted]) -> None:
    """Has one process compile them: it may be one of several workers of pytest's."""
    tasks = [[str(_path(key)), cubins.variant_to_json(v), str(target)] for key, (v, target) in missing.items()]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    with tempfile.TemporaryDirectory() as folder:  # Triton would keep our PTX as machine code
        environment["TRITON_CACHE_DIR"] = folder
        run = subprocess.run(
            [sys.executable, "-m", "tests.emulator.compiler"],
            input=json.dumps(tasks),
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
    if run.returncode:
        raise CompileError(run.stderr[-2000:])


def _as_ptx(variant: Variant, target: Target) -> tuple[Cubin, str]:
    """Compiles in this process."""
    found = compiled(variant, target)
    return cubins.from_triton(variant, target, cubins.key(variant, target), found), found.asm["ptx"]


def stop_at_ptx() -> None:
    """From now on, in this process, Triton's machine code is the PTX, of which nobody knows the registers."""
    from triton.backends.nvidia.compiler import CUDABackend

    def make_cubin(self: Any, source: str, metadata: Any, options: Any, capability: int) -> bytes:
        return source.encode()

    CUDABackend.make_cubin = make_cubin
    cubins._usage = lambda code: {"REG": 0, "STACK": 0, "LOCAL": 0}


def main() -> None:
    """The process: file, variant and target of each kernel on standard input."""
    stop_at_ptx()
    failed = []
    for file, data, name in json.load(sys.stdin):
        variant = cubins.variant_from_json(data)
        try:
            cubin, ptx = _as_ptx(variant, Target.parse(name))
        except Exception as error:  # the compiler's errors share no base
            failed.append(f"{variant.kernel} for {name}: {type(error).__name__}: {error}")
            continue
        path = Path(file)
        if cubin.key != path.stem:  # asked for before an edit, made after it
            failed.append(f"{variant.kernel} for {name}: kernels were edited while it was compiled; run again")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as out:
            out.write(json.dumps({"cubin": cubin.to_json(), "ptx": ptx}).encode())
    sys.exit("\n".join(failed) or 0)


if __name__ == "__main__":
    main()
