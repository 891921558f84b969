"""Random convolutional networks: ONNX Runtime on the original against every stage of ours.

    python -m benchmarks.random_models [--count 1000] [--seed 0]

The networks are those of tests/support/random_models.py. Each is compared as imported, simplified (exported, in ONNX
Runtime) and fused, and every twentieth through the Triton kernels in the interpreter. Writes
benchmarks/results/random_models.json; exits with 1 if a stage was off or failed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from typing import Any, NamedTuple

os.environ.setdefault("TRITON_INTERPRET", "1")

import numpy as np
import onnx
import onnx.printer
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from benchmarks import record
from optgraph.compare import oracle
from optgraph.onnx import read, write
from optgraph.onnx.sessions import InnerValues, session
from optgraph.passes import pipeline
from optgraph.plan.plans import Plans
from optgraph.run import reference
from optgraph.run.engine import Engine
from tests.support.random_models import models

INTERPRET_EVERY = 20


class MismatchError(AssertionError):
    """A stage answers otherwise than ONNX Runtime on the original. The first line says which, the rest is the model."""


class Checked(NamedTuple):
    """errors: the worst relative L2 of each stage's outputs. sensitivity: the least between the reference's outputs
    for two inputs."""

    errors: dict[str, float]
    sensitivity: float


def check(model: onnx.ModelProto, interpret: bool = False) -> Checked:
    """Compares every stage with ONNX Runtime, nothing optimised, on the original. Raises MismatchError."""
    shape = [d.dim_value or 2 for d in model.graph.input[0].type.tensor_type.shape.dim]
    feeds, other = ({"x": np.random.default_rng(s).standard_normal(shape, dtype=np.float32)} for s in (1, 2))
    names = [output.name for output in model.graph.output]
    original = InnerValues(model)
    expected, moved = original.run(names, feeds, other)
    (optimized,) = original.run(names, feeds, optimize=True)
    noise = max(oracle.distance(optimized[name], expected[name])[0] for name in names)
    bound = oracle.allowed("fp32", noise)

    graph = read.read(model)
    answers: dict[str, Any] = {"imported": reference.run(graph, feeds)}
    pipeline.apply(graph, pipeline.SIMPLIFY)
    running = session(write.to_onnx(graph).SerializeToString(), optimize=False)
    answers["simplified"] = dict(zip(names, running.run(names, feeds), strict=True))
    pipeline.apply(graph, pipeline.FUSE)
    answers["fused"] = reference.run(graph, feeds)
    if interpret:
        x = torch.from_numpy(feeds["x"])
        answers["interpret"] = Engine(Plans(graph, "fp32"), torch.device("cpu"))({"x": x}, len(x))

    errors = {
        stage: max(oracle.distance(answer[name], expected[name])[0] for name in names)
        for stage, answer in answers.items()
    }
    for stage, error in errors.items():
        if not error <= bound:
            raise MismatchError(f"{stage} is off by {error:.1e}, over {bound:.1e}\n{onnx.printer.to_text(model)}")
    return Checked(errors, min(oracle.distance(moved[name], expected[name])[0] for name in names))


def measure(count: int, number: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row a stage, and the figures of the whole: the models are the same ones for the same seed `number`."""
    checked: list[Checked] = []
    failures: list[str] = []

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(models())
    def run(model: onnx.ModelProto) -> None:
        done = len(checked) + len(failures)
        try:
            checked.append(check(model, interpret=done % INTERPRET_EVERY == 0))
        except Exception as error:  # all are counted, whatever they are
            failures.append(f"model {done}: {type(error).__name__}: {error}")

    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    rows = []
    for stage in ("imported", "simplified", "fused", "interpret"):
        errors = [found.errors[stage] for found in checked if stage in found.errors]
        rows.append({"stage": stage, "models": len(errors), "worst_rel_l2": max(errors, default=None)})
    sensitivities = [found.sensitivity for found in checked]
    return rows, {
        "models": len(checked) + len(failures),
        "failures": [failure.splitlines()[0] for failure in failures],
        "median_input_sensitivity": statistics.median(sensitivities) if sensitivities else None,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows, figures = measure(options.count, options.seed)
    for row in rows:
        print(row)
    print(figures)
    print(record.write("random_models", rows, seed=options.seed, **figures))
    sys.exit(bool(figures["failures"]))


if __name__ == "__main__":
    main()
