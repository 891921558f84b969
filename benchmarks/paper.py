"""The GPU path with no GPU: compiled kernels and whole networks on the emulator of tests/emulator.

    python -m benchmarks.paper [--only SUBSTRING] [--dtypes fp16,bf16] [--targets sm_90] [--batches 1]
                              [--tables paper_addresses] [--workers 2]

Writes benchmarks/results/paper.json row by row. A row whose kernels, launches and weights are what they were is kept
and not made again: the whole takes hours, and may be stopped and gone on with.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("TRITON_INTERPRET", "1")

from benchmarks import paper_rows as rows
from benchmarks import record
from benchmarks.paper_rows import DTYPES, Row
from optgraph.base.devices import SM_80, SM_90
from tests.emulator.mutations import MUTATIONS
from tests.support.kernel_checks import KERNELS

TABLES = ("paper_mutations", "paper_kernels", "paper", "paper_addresses")
TARGETS, BATCHES = (SM_80, SM_90), (1, 3)
NETWORKS = (("inception_v3", 75), ("xception", 71), ("inception_resnet_v2", 75))
FULL_SIZE, FULL_BATCHES = 299, (1, 128, 2048)  # for addresses, which the other two types share with these
FULL_DTYPES = ("fp32", "fp16")
FROM_ARTIFACT = ("xception", "fp16", SM_90, 1)  # that case is run once more, by cubins out of a file


@dataclass(frozen=True)
class Task:
    """A row to be: what is said of it beforehand, and what makes the rest and the digest of what that depends on."""

    said: Row
    make: Callable[..., Row]
    key: Callable[..., str]
    of: tuple[Any, ...]

    def __call__(self, kept: Row | None) -> Row:
        """The row, or `kept` if that would come again."""
        key = self.key(*self.of)
        if kept is not None and kept.get("key") == key:
            return kept
        start = time.perf_counter()
        made = self.make(*self.of)
        about = record.environment()
        return self.said | made | {"seconds": time.perf_counter() - start, "commit": about["commit"], "key": key}

    def kept(self, known: list[Row]) -> Row | None:
        return next((row for row in known if self.said.items() <= row.items()), None)


def tasks() -> Iterator[Task]:
    """All rows, in the order of the tables."""
    for name in MUTATIONS:
        yield Task({"table": "paper_mutations", "graph": name}, rows.mutation_row, rows.kernels_key, (name,))
    for kernel in map(str, KERNELS):
        for target in TARGETS:
            for dtype in DTYPES:
                said = {"table": "paper_kernels", "graph": kernel, "target": str(target), "dtype": dtype}
                yield Task(said, rows.kernel_row, rows.kernels_key, (kernel, target, dtype))
    for network, size in NETWORKS:
        for dtype in DTYPES:
            for target in TARGETS:
                for batch in BATCHES:
                    for artifact in (False, True)[: 1 + ((network, dtype, target, batch) == FROM_ARTIFACT)]:
                        said = {"table": "paper", "graph": f"torch_{network}", "target": str(target), "dtype": dtype}
                        said |= {"batch": batch, "cubins": "of an artifact" if artifact else "compiled"}
                        case = network, size, dtype, target, batch, artifact
                        yield Task(said, rows.network_row, rows.network_key, case)
    for network, _ in NETWORKS:
        for dtype in FULL_DTYPES:
            for target in TARGETS:
                for batch in FULL_BATCHES:
                    said = {"table": "paper_addresses", "graph": f"torch_{network}", "target": str(target)}
                    case = network, FULL_SIZE, dtype, target, batch
                    yield Task(said | {"dtype": dtype, "batch": batch}, rows.addresses_row, rows.network_key, case)


def run(wanted: list[Task], known: list[Row], workers: int) -> Iterator[tuple[Task, Row]]:
    """The rows as they come. Raises what a task raises once the others are done."""
    failed: list[BaseException] = []
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(task, task.kept(known)): task for task in wanted}
        for future in as_completed(running):
            error = future.exception()
            if error is None:
                yield running[future], future.result()
            else:
                failed.append(error)
                print(f"{running[future].said}: {type(error).__name__}: {error}", flush=True)
    for error in failed:
        raise error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose graph's name contains this")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    every_batch = sorted({*BATCHES, *FULL_BATCHES})
    choices = {"tables": TABLES, "dtypes": DTYPES, "targets": TARGETS, "batches": every_batch}
    for name, default in choices.items():
        parser.add_argument(f"--{name}", default=",".join(map(str, default)))
    options = parser.parse_args()
    asked = {"table": options.tables, "dtype": options.dtypes, "target": options.targets, "batch": options.batches}
    every = list(tasks())
    wanted = [
        task
        for task in every
        if options.only in task.said["graph"]
        and all(str(task.said.get(name, "")) in ("", *value.split(",")) for name, value in asked.items())
    ]
    path = record.RESULTS / "paper.json"
    known = json.loads(path.read_text())["rows"] if path.exists() else []
    found = {id(task): row for task in every if (row := task.kept(known))}
    for task, row in run(wanted, known, options.workers):
        if row != found.get(id(task)):
            print(row, flush=True)
            found[id(task)] = row
            record.write("paper", [found[id(task)] for task in every if id(task) in found])


if __name__ == "__main__":
    main()
