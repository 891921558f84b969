"""Ahead-of-time compiling: which kernels a network launches on a target, and their cubins, with no GPU.

The plans are bound to memory that does not exist (torch's meta device), as if it lay on the target: that gives every
Launch with its tile, and so the variants. Several processes compile them, none of which interprets.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from types import MappingProxyType
from typing import Any

from optgraph.ahead import cubins
from optgraph.ahead.cubins import Cubin
from optgraph.base import config
from optgraph.base.devices import DEVICES, Target
from optgraph.base.errors import InputError, OptgraphError
from optgraph.base.progress import Progress, silent
from optgraph.ir.values import BATCH
from optgraph.kernels.frame.arguments import Jit
from optgraph.kernels.frame.launch import targeting
from optgraph.kernels.frame.tile import PLANNED_BATCHES
from optgraph.kernels.frame.variant import Variant
from optgraph.plan.buffers import dry_launches
from optgraph.plan.plans import Plans

_BROKEN = "the compiler broke down: OPTGRAPH_DEBUG=1 shows how"


@dataclass(frozen=True)
class Use:
    """A variant that a network launches on a target.

    launches: how many, by batch size. blocks: of the largest of them. replaceable: another one could take its place.
    reason: why it is in another's place, which did not compile.
    """

    key: str
    variant: Variant
    target: Target
    launches: Mapping[int, int]
    blocks: int
    replaceable: bool = False
    reason: str = ""

    @property
    def description(self) -> str:
        """The tile, the box of a TMA load, what is switched on and what is badly aligned: '128×64×64, split, relu'."""
        constants = dict(self.variant.constants)
        words = [_sizes(constants, "BLOCK_")]
        if constants.get("BOX0"):
            words.append(f"box {_sizes(constants, 'BOX')}")
        words += [name.lower() for name, value in constants.items() if value is True]
        words += ["specialised"] if {"PRODUCERS", "HALOS"} & constants.keys() else []
        words += ["prologue"] if constants.get("pre.act") else []
        words += [value.name for value in constants.values() if isinstance(value, Jit)]
        words += ["residual"] if "end.residual" in dict(self.variant.parameters) else []
        words += [f"{k.lower()} {v}" for k, v in constants.items() if k.startswith("ALIGN") and v < 8]
        return ", ".join(word for word in words if word != "identity")


class CompileError(OptgraphError):
    """A kernel does not compile. use: which, and where."""

    def __init__(self, use: Use, reason: str) -> None:
        super().__init__(f"kernel '{use.variant.kernel}' does not compile for {use.target}: {reason}")
        self.use, self.reason = use, reason


Refused = Mapping[tuple[Variant, Target], str]  # kernels that do not compile, and why
_NONE: Refused = MappingProxyType({})


def _sizes(constants: Mapping[str, Any], prefix: str) -> str:
    return "×".join(str(value) for name, value in constants.items() if name.startswith(prefix))


def parse_targets(names: str | Iterable[str]) -> tuple[Target, ...]:
    """GPUs to compile for, one by one or in a text such as 'h100,a100'.

    Raises InputError for one that is not known here, OptgraphError if there is no compiler.
    """
    names = names.split(",") if isinstance(names, str) else names
    found = tuple(dict.fromkeys(map(Target.parse, names)))
    for target in found:
        if target not in DEVICES:
            raise InputError(f"unknown target '{target}': use {', '.join(map(str, DEVICES))}")
        if not _has_triton():
            raise OptgraphError(f"compiling for {target} needs Triton, which is not installed: pip install triton")
    return found


def _has_triton() -> bool:
    """Whether there is a compiler; what is installed by halves is none."""
    try:
        return find_spec("triton") is not None and bool(version("triton"))
    except (ImportError, ValueError):
        return False


def find_uses(plans: Plans, batches: Sequence[int], targets: Sequence[Target], refused: Refused = _NONE) -> list[Use]:
    """The distinct variants of a network's plans, target by target, in the order of their first launch.

    They are those of `batches` and, where the batch is open, of the sizes that tiles are planned for: so of any size.
    refused: in whose place there is another.
    """
    graph = plans.graph
    if targets and any(BATCH in graph.values[name].shape for name in graph.inputs):
        batches = sorted({*batches, *PLANNED_BATCHES})
    uses: dict[tuple[Variant, Target], Use] = {}
    for target, batch in product(targets, batches):
        for launch in filter(None, dry_launches(plans.get(batch, target), plans.shapes)):
            reason = refused.get((launch.variant, target), "")
            if reason and launch.otherwise:
                with targeting(target):
                    launch = launch.otherwise()
            at = launch.variant, target
            if at not in uses:
                none = dict.fromkeys(batches, 0)
                uses[at] = Use(cubins.key(*at), *at, none, 0, launch.otherwise is not None, reason)
            counts = uses[at].launches
            counts = {**counts, batch: counts[batch] + 1}
            uses[at] = replace(uses[at], launches=counts, blocks=max(uses[at].blocks, launch.programs))
    return list(uses.values())


def find_all_uses(
    several: Iterable[Plans], batches: Sequence[int], targets: Sequence[Target], refused: Refused = _NONE
) -> list[Use]:
    """The distinct variants of one network at several sizes, which share most: each as the first to launch it does."""
    uses: dict[str, Use] = {}
    for plans in several:
        for use in find_uses(plans, batches, targets, refused):
            uses.setdefault(use.key, use)
    return list(uses.values())


def build_all(
    several: Sequence[Plans], batches: Sequence[int], targets: Sequence[Target], progress: Progress = silent
) -> tuple[list[Use], list[Cubin]]:
    """The variants of one network at several sizes, and their cubins; arguments and errors as for `find_all_uses` and
    `build`. Of a kernel that does not compile, where another does the same, it is that one."""
    refused: dict[tuple[Variant, Target], str] = {}
    while True:
        uses = find_all_uses(several, batches, targets, refused)
        try:
            return uses, build(uses, progress)
        except CompileError as error:
            if not error.use.replaceable:
                raise
            refused[error.use.variant, error.use.target] = error.reason


def build(wanted: Sequence[Use], progress: Progress = silent) -> list[Cubin]:
    """The cubins of `wanted`, from the cache on disk where it has them.

    progress: told what is being done, and how much of it, 0 to 1.
    Raises CompileError if a kernel does not compile, InputError for one in a script or within a function, and if the
    cache cannot be written.
    """
    missing = [use for use in wanted if cubins.cached(use.key) is None]
    if missing:
        _check_cache()
    for use in missing:
        for function in scripted(use.variant):
            raise InputError(f"kernel '{function.name}' is not in a module that a compiler process can import")
    tasks: queue.SimpleQueue[Use] = queue.SimpleQueue()
    for use in missing:
        tasks.put(use)
    workers = min(os.cpu_count() or 1, len(missing))
    if workers:
        with ThreadPoolExecutor(workers) as pool:
            what = f"compiling {len(missing)} kernels on {workers} cores"
            runs = [
                pool.submit(_serve, tasks, lambda: progress(what, 1 - tasks.qsize() / len(missing)))
                for _ in range(workers)
            ]
            try:
                wait(runs, return_when=FIRST_EXCEPTION)
            finally:
                _drain(tasks)  # interrupted, or one has failed: the others need not go on
            for run in runs:
                run.result()
    found = [cubins.cached(use.key) for use in wanted]
    if None in found:
        raise OptgraphError("the kernels' sources changed while they were compiled: compile again")
    return [cubin for cubin in found if cubin]


def compile_all(variants: Iterable[Variant], target: Target, progress: Progress = silent) -> None:
    """Has the cubins of `variants` in the cache on disk. Arguments and errors as for `build`."""
    build([Use(cubins.key(variant, target), variant, target, {}, 0) for variant in variants], progress)


def scripted(variant: Variant) -> list[Jit]:
    """The jit functions in it that another process does not find: those in a script, or within a function."""
    functions = (variant.code, *(value for _, value in variant.constants if isinstance(value, Jit)))
    return [function for function in functions if function.module == "__main__" or "." in function.name]


def _check_cache() -> None:
    """Raises InputError unless compiled kernels can be kept, by Triton and by us."""
    folder = config.cubin_cache()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for each in (folder, folder.parent):
            with tempfile.TemporaryFile(dir=each):
                pass
    except OSError as error:
        raise InputError(
            f"{folder}: compiled kernels cannot be kept there: {error.strerror or error}: "
            "set TRITON_CACHE_DIR to a folder that can be written"
        ) from None


def _serve(tasks: queue.SimpleQueue[Use], tell: Callable[[], None]) -> None:
    """Has one process compile tasks until none is left."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    pipe = subprocess.PIPE
    stderr = None if config.debug() else subprocess.DEVNULL
    command = [sys.executable, "-m", "optgraph.ahead.build"]
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=stderr, bufsize=0) as process:
        assert process.stdin and process.stdout
        while True:
            try:
                use = tasks.get_nowait()
            except queue.Empty:
                return
            tell()
            task = json.dumps([cubins.variant_to_json(use.variant), str(use.target)])
            answer = b""
            with suppress(BrokenPipeError):  # it has ended
                process.stdin.write(task.encode() + b"\n")
                answer = process.stdout.readline()
            if answer != b"\n":
                reason = answer.decode(errors="replace").strip() or _BROKEN
                raise CompileError(use, reason)


def _drain(tasks: queue.SimpleQueue[Use]) -> None:
    with suppress(queue.Empty):
        while True:
            tasks.get_nowait()


def main() -> None:
    """One of the processes: reads a variant and a target a line, answers with an empty line or what went wrong."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever else is printed is no answer
    for line in sys.stdin:
        try:
            variant, target = json.loads(line)
            cubins.obtain(cubins.variant_from_json(variant), Target.parse(target))
            reason = ""
        except Exception as error:  # the compiler's errors share no base
            reason = " ".join(f"{type(error).__name__}: {error}".split())
        print(reason, file=answers, flush=True)


if __name__ == "__main__":
    main()
