"""Random models of a generator that is not ours, in half, single and double: NNSmith's, against ONNX Runtime.

    PYTHONPATH=DIR python -m benchmarks.nnsmith [--count 1000]

DIR has NNSmith (benchmarks/README.md says how to put it there). Each model runs on the backends that need no GPU;
benchmarks/agreement.py says what is right. Writes benchmarks/results/nnsmith.json; exits with 1 if an answer differed
or a backend failed. What is done is kept for the same code, and it can be stopped and gone on with.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TRITON_INTERPRET", "1")

import numpy as np
import onnx
import torch
from onnx import helper

import optgraph
from benchmarks import record
from benchmarks.agreement import VERDICTS, Theirs
from optgraph.base.errors import OptgraphError
from optgraph.onnx.sessions import Feeds

BACKENDS = ("torch", "onnxruntime", "interpret")
OUTCOMES = (*VERDICTS, "refused", "failed")
NUMBERS = {"float16": "half", "float64": "double"}  # what a model with such numbers in it counts as; else single
SIZE = {"max_nodes": 8, "max_elem_per_tensor": 2**16, "timeout_ms": 8000}  # timeout: of the solver of shapes

Row = dict[str, Any]


def generator() -> Callable[[int], onnx.ModelProto]:
    """What makes the model of a seed. Raises SystemExit if NNSmith is not there."""
    try:
        from nnsmith.abstract.extension import activate_ext
        from nnsmith.graph_gen import model_gen
        from nnsmith.materialize import Model
        from nnsmith.narrow_spec import auto_opset
        from nnsmith.util import op_filter
    except ImportError as error:
        raise SystemExit(f"{error}: benchmarks/README.md says how to install NNSmith") from None
    export = torch.onnx.export
    torch.onnx.export = lambda *args, **named: export(*args, **{"dynamo": False, **named})  # NNSmith is older than it
    kind = Model.init("onnx")
    kind.add_seed_setter()
    operators = op_filter(auto_opset(kind, None), None, None)
    activate_ext(opset=operators, factory=None)

    def make(seed: int) -> onnx.ModelProto:
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        choices = {"rank_choices": None, "dtype_choices": None}
        found = model_gen(opset=operators, method="symbolic-cinit", seed=seed, **SIZE, **choices)
        model = kind.from_gir(found.make_concrete())
        model.refine_weights()
        return model.native_model

    return make


def fill(model: onnx.ModelProto, seed: int) -> Feeds:
    """An input: floating numbers from 1 to 2, integers from 1 to 3."""
    rng, weights = np.random.default_rng(seed), {tensor.name for tensor in model.graph.initializer}
    feeds = {}
    for info in (info for info in model.graph.input if info.name not in weights):
        dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        numbers = (
            rng.uniform(1, 2, shape) if dtype.kind == "f" else rng.integers(*((0, 2), (1, 4))[dtype.kind != "b"], shape)
        )
        feeds[info.name] = np.asarray(numbers, dtype)
    return feeds


def compared(model: onnx.ModelProto, seed: int) -> Row:
    """What became of a model: 'none' has the reason if there is nothing to compare with, else each backend its row."""
    feeds = fill(model, seed)
    try:
        theirs = Theirs(model, feeds)
    except OptgraphError as error:
        return {"none": _reason(error)}
    if not all(np.isfinite(array).all() for array in theirs.outputs.values() if array.dtype.kind == "f"):
        return {"none": "its answer is not finite"}
    return {"numbers": NUMBERS.get(theirs.numbers(), "single")} | {
        backend: _outcome(model, feeds, theirs, backend) for backend in BACKENDS
    }


def _outcome(model: onnx.ModelProto, feeds: Feeds, theirs: Theirs, backend: str) -> Row:
    try:
        answer = optgraph.compile(model, backend=backend)(feeds)
    except OptgraphError as error:
        return {"outcome": "refused", "reason": str(error)}
    except Exception as error:  # counted, whatever it is
        return {"outcome": "failed", "reason": f"{type(error).__name__}: {error}"}
    named = answer if isinstance(answer, dict) else {next(iter(theirs.outputs)): answer}
    found = theirs.judge(named)
    worst = max(found, key=lambda one: (VERDICTS.index(one.verdict), one.error))
    row: Row = {"outcome": worst.verdict, "error": worst.error}
    return row if worst.verdict == "agrees" else row | {"bound": worst.bound, "moved": worst.moved}


def _reason(error: Exception) -> str:
    """An error of ONNX Runtime's without what is of this model only, so that equal ones can be counted."""
    text = str(error).partition("[ONNXRuntimeError]")[2].lstrip(" :0123456789") or str(error)
    operator = text.partition("implementation for ")[2].split("(")[0]
    return f"ONNX Runtime has no {operator}" if operator else text[:160]


# ---- all of it


def outcomes(make: Callable[[int], onnx.ModelProto], seeds: range, kept: Path) -> Iterator[Row]:
    """A row a seed; those in the file `kept` as they are, the others added to it."""
    done = {row["seed"]: row for row in map(json.loads, kept.read_text().splitlines())} if kept.exists() else {}
    with kept.open("a") as file:
        for seed in seeds:
            if seed not in done:
                try:
                    with contextlib.redirect_stdout(io.StringIO()):
                        model = make(seed)
                except Exception as error:  # NNSmith's own, of which it has many
                    done[seed] = {"seed": seed, "none": f"NNSmith makes none: {type(error).__name__}"}
                else:
                    done[seed] = {"seed": seed} | compared(model, seed)
                file.write(json.dumps(done[seed]) + "\n")
                file.flush()
            yield done[seed]


def summary(found: list[Row]) -> tuple[list[Row], dict[str, Any]]:
    """A row for each kind of numbers and backend, and what is said of the whole."""
    rows = []
    for numbers in ("single", "half", "double"):
        for backend in BACKENDS:
            ours = [row[backend] for row in found if row.get("numbers") == numbers]
            counts = Counter(row["outcome"] for row in ours)
            worst = max((row["error"] for row in ours if row["outcome"] == "agrees"), default=None)
            said = {"graph": numbers, "backend": backend, "models": len(ours), "worst_rel_l2": worst}
            rows.append(said | {outcome: counts[outcome] for outcome in OUTCOMES})
    others = [
        {"seed": row["seed"], "numbers": row["numbers"], "backend": backend} | row[backend]
        for row in found
        for backend in BACKENDS
        if backend in row and row[backend]["outcome"] != "agrees"
    ]
    none = Counter(row["none"] for row in found if "none" in row)
    return rows, {"models": len(found), "nothing_to_compare": dict(none.most_common()), "not_within_bounds": others}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    record.MODELS.mkdir(parents=True, exist_ok=True)
    kept = record.MODELS / f"nnsmith-{record.sources()}.jsonl"
    start, found = time.perf_counter(), []
    for row in outcomes(generator(), range(options.count), kept):
        found.append(row)
        if len(found) % 100 == 0:
            print(f"{len(found)} models, {time.perf_counter() - start:.0f} s", flush=True)
    rows, figures = summary(found)
    for line in (*rows, *figures["not_within_bounds"], figures["nothing_to_compare"]):
        print(line)
    print(record.write("nnsmith", rows, **figures))
    sys.exit(any(row["differs"] + row["failed"] for row in rows))


if __name__ == "__main__":
    main()
