"""Step tests: `pytest -m gpu`, a test a task, so that one that hangs or breaks the device stops no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks import record
from benchmarks.cost import fused
from benchmarks.gpu.device import WrongError, about, identity, settle
from benchmarks.gpu.worker import Record, Task
from optgraph.base.devices import Target
from optgraph.base.dtypes import STORAGE
from optgraph.kernels.frame.launch import Launch
from optgraph.plan.buffers import dry_launches
from optgraph.plan.lowering import lower
from optgraph.plan.plans import Plans
from optgraph.tune.layers import layers

__all__ = ["about", "identity", "launches", "settle", "tasks"]

FOLDER = "tests/gpu"
SECONDS = 120.0
LAYERS = {1: tuple(STORAGE), 8: tuple(STORAGE), 64: ("fp16",)}  # what tests/gpu/test_kernels.py runs
NETWORKS = (1, 8, 64)  # batches that tiles are planned for


class Watch:
    """What pytest has collected, and how what it ran ended."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.reports: list[pytest.TestReport] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.names = [item.nodeid for item in session.items]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.reports.append(report)


def run(*arguments: str) -> Watch:
    """pytest in this process."""
    watch = Watch()
    common = ["-q", "-m", "gpu", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(record.ROOT)]
    pytest.main([*common, *arguments], plugins=[watch])
    return watch


def tasks(folder: str = FOLDER) -> Iterator[Task]:
    for name in run("--collect-only", str(record.ROOT / folder)).names:
        yield Task(name, lambda name=name: passed(name), SECONDS)


def passed(name: str) -> Record:
    """Raises WrongError for a test that does not pass: what is skipped has shown nothing."""
    reports = run(str(record.ROOT / name)).reports
    for report in reports:
        if not report.passed:
            text = report.longreprtext.strip().splitlines() or ["?"]
            errors = [row[1:].strip() for row in text if row.startswith("E ")]
            raise WrongError(f"{report.outcome} in {report.when}: {' '.join(errors[:3]) or text[-1]}")
    if not any(report.when == "call" for report in reports):
        raise WrongError("it did not run")
    return {"seconds": sum(report.duration for report in reports)}


def launches(target: Target) -> Iterator[Launch]:
    """Of the layers by themselves, and of the networks."""
    for name in record.NETWORKS:
        graph = fused(name)
        for batch, dtypes in LAYERS.items():
            for dtype in dtypes:
                yield from (layer.dry(target) for layer in layers(lower(graph, batch, dtype, target), graph))
        for dtype in STORAGE:
            plans = Plans(graph, dtype)
            for batch in NETWORKS:
                found = dry_launches(plans.get(batch, target), plans.shapes)
                yield from (launch for launch in found if launch is not None)
