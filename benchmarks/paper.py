"""The GPU path with no GPU: compiled kernels and whole networks on the emulator of tests/emulator.

    python -m benchmarks.paper [--only SUBSTRING] [--dtypes fp16,bf16] [--targets sm_90] [--batches 1]

Writes benchmarks/results/paper.json row by row. Rows of the same code are kept and not run again: the whole takes hours
of one core, and may be stopped and gone on with.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TRITON_INTERPRET", "1")

import numpy as np
import onnx
import pytest
import torch

import optgraph
from benchmarks import record
from optgraph.base.devices import SM_80, SM_90, Target
from optgraph.compare.oracle import allowed, coarseness, distance
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import targeting
from optgraph.kernels.frame.sample import Sample
from optgraph.onnx.sessions import session
from optgraph.tune.layers import Layer
from tests.emulator.compiler import compile_all
from tests.emulator.machine import Machine
from tests.emulator.mutations import MUTATIONS, outcomes
from tests.emulator.networks import constants, kernels, launches, prepared, reordered
from tests.emulator.schedule import LATE, MIXED
from tests.support import family
from tests.support.kernel_checks import KERNELS
from tests.support.streams import Device

Row = dict[str, Any]
CPU = torch.device("cpu")
DTYPES, TARGETS, BATCHES = ("fp32", "tf32", "fp16", "bf16"), (SM_80, SM_90), (1, 3)
NETWORKS = (("inception_v3", 75), ("xception", 71), ("inception_resnet_v2", 75))
FROM_ARTIFACT = ("xception", "fp16", SM_90, 1)  # that case is run once more, by cubins out of a file
EVERY = 7  # of a kernel's samples, one of so many in each dtype


# ---- kernels


def boxed(sample: Sample) -> bool:
    """Whether the copy engine fetches it."""
    tile = sample.arguments.get("tile")
    return tile is not None and tile.box is not None


def kernel_row(kernel: Kernel, target: Target, dtype: str) -> Row:
    """Some of a kernel's samples against float64, in two schedules. Raises AssertionError if one is wrong."""
    found = [sample for _, sample in kernel.samples()]
    samples = found[DTYPES.index(dtype) % len(found) :: EVERY]
    layers = [Layer(kernel, sample.typed(dtype)) for sample in samples if target == SM_90 or not boxed(sample)]
    cubins = compile_all((layer.dry(target).variant, target) for layer in layers)
    worst = 0.0
    for layer, cubin in zip(layers, cubins, strict=True):
        with targeting(target):
            operands = layer.operands(CPU)
            launch = operands.launch()
        for schedule in (LATE, MIXED):
            error = operands.error(Machine(target, [cubin], schedule).bind(launch)) / layer.bound
            assert error <= 1, f"{layer}: {error:.2f} of its bound"
            worst = max(worst, error)
    return {"samples": len(layers), "of_bound": worst}


# ---- networks


def network_row(path: Path, size: int, dtype: str, target: Target, batch: int, artifact: bool) -> Row:
    """A network through the runtime, then in two more orders of its launches, which must give the same bits."""
    x = np.random.default_rng(0).standard_normal((batch, 3, size, size)).astype(np.float32)
    original = session(str(path), optimize=False)
    expected = original.run(None, {original.inputs[0]: x})[0]
    net = optgraph.compile(path, backend="torch", dtype=dtype)
    (name,), (output,) = net.inputs, net.outputs
    bound = allowed(dtype, coarseness(net, dtype, [{name: x}], [{output: expected}], {output: 0.0}))
    machine = _from_artifact(path, dtype, target, batch) if artifact else None
    machine = machine or Machine(target, kernels(net.plans, batch, target), LATE)
    with prepared(net.plans, batch, machine) as context, pytest.MonkeyPatch.context() as patch:
        context.load({name: torch.from_numpy(x)})
        context.run()
        (found,) = context.results().values()
        device = Device(patch)
        same = [torch.equal(found, reordered(context, device, seed)[1][0]) for seed in range(2)]
    error = distance(found, expected)[0]
    assert error <= bound and all(same) and machine.kernels.compiled == 0, f"{error:.1e} of {bound:.1e}, orders {same}"
    flags = constants(net.plans, batch, target)
    counts = {"launches": len(launches(net.plans, batch, target)), "tma": flags["TMA"], "split": flags["SPLIT"]}
    return {"size": size, "rel_l2": error, "bound": bound, "orders": len(same), **counts}


def _from_artifact(path: Path, dtype: str, target: Target, batch: int) -> Machine:
    """A machine with the cubins of a file; the emulator is told what PTX they were made of."""
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "network.optgraph"
        net = optgraph.compile(path, backend="torch", dtype=dtype, batches=[batch], targets=[str(target)])
        net.save(stored)
        found = optgraph.load(stored, backend="torch").cubins
    machine = Machine(target, found, LATE)
    ptx = compile_all((use.variant, use.target) for use in net.uses)
    texts = {cubin.key: cubin.code.decode() for cubin in ptx}
    for cubin in found:
        machine.cuda.learn(cubin.code, texts[cubin.key])
    return machine


# ---- all of it


def tasks(folder: Path) -> Iterator[tuple[str, Row, Any]]:
    """Table, what is said of the row beforehand, and what makes the rest of it."""
    for name in MUTATIONS:
        yield "paper_mutations", {"graph": name}, lambda name=name: {"outcomes": _short(outcomes(name))}
    for kernel in KERNELS:
        for target in TARGETS:
            for dtype in DTYPES:
                said = {"graph": str(kernel), "target": str(target), "dtype": dtype}
                yield "paper_kernels", said, lambda k=kernel, t=target, d=dtype: kernel_row(k, t, d)
    for network, size in NETWORKS:
        for dtype in DTYPES:
            for target in TARGETS:
                for batch in BATCHES:
                    for artifact in (False, True)[: 1 + ((network, dtype, target, batch) == FROM_ARTIFACT)]:
                        case = size, dtype, target, batch, artifact
                        said = {"graph": f"torch_{network}", "target": str(target), "dtype": dtype, "batch": batch}
                        said["cubins"] = "of an artifact" if artifact else "compiled"
                        yield "paper", said, lambda n=network, c=case: network_row(_model(folder, n, c[0]), *c)


def _short(found: list[str]) -> list[str]:
    return [text if text in ("right", "wrong") else "fault" for text in found]


def _model(folder: Path, network: str, size: int) -> Path:
    path = folder / f"{network}.onnx"
    if not path.exists():
        onnx.save(family.filled(family.resized(family.exported(f"torch_{network}"), size)), path)
    return path


def sources() -> str:
    """A digest of what the rows depend on."""
    return record.sources() + record.digest((record.ROOT / "tests" / "emulator").glob("*.py"))


def _kept() -> list[Row]:
    """The rows that this code has made."""
    path = record.RESULTS / "paper.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    return found["rows"] if found.get("sources") == sources() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose graph's name contains this")
    for name, default in (("dtypes", DTYPES), ("targets", map(str, TARGETS)), ("batches", map(str, BATCHES))):
        parser.add_argument(f"--{name}", default=",".join(default))
    options = parser.parse_args()
    wanted = {"dtype": options.dtypes, "target": options.targets, "batch": options.batches}
    rows = _kept()
    with tempfile.TemporaryDirectory() as folder:
        for table, said, make in tasks(Path(folder)):
            named = {"table": table, **said}
            asked = all(str(said.get(key, "")) in ("", *value.split(",")) for key, value in wanted.items())
            if not asked or options.only not in said["graph"] or any(named.items() <= row.items() for row in rows):
                continue
            start = time.perf_counter()
            rows.append(named | make() | {"seconds": time.perf_counter() - start})
            print(rows[-1], flush=True)
            record.write("paper", rows, sources=sources())


if __name__ == "__main__":
    main()
