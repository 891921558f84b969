"""The rows of benchmarks/results/paper.json: a broken kernel, a kernel or a network on the emulator of tests/emulator.

Of each kind there is a function that makes the row, and one that digests what the row depends on: while that stays, the
row need not be made again.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import optgraph
from benchmarks import record
from optgraph.ahead import cubins
from optgraph.api.net import Net
from optgraph.base.devices import SM_90, Target
from optgraph.base.files import replacing
from optgraph.compare.oracle import allowed, coarseness, distance
from optgraph.compare.original import Original
from optgraph.kernels.frame.launch import Launch, targeting
from optgraph.kernels.frame.sample import Sample
from optgraph.onnx.load import load_model
from optgraph.onnx.sessions import InnerValues
from optgraph.tune.layers import Layer
from tests.emulator import full_size
from tests.emulator.compiler import compile_all
from tests.emulator.machine import Machine
from tests.emulator.mutations import outcomes
from tests.emulator.networks import counts, kernels, launches, prepared, reordered
from tests.emulator.schedule import LATE, MIXED
from tests.support import family
from tests.support.kernel_checks import KERNELS
from tests.support.streams import Device

Row = dict[str, Any]
CPU = torch.device("cpu")
DTYPES = ("fp32", "tf32", "fp16", "bf16")


@lru_cache
def _machinery() -> str:
    """The emulator, and our own code that it runs."""
    files = [*(record.ROOT / "tests" / "emulator").glob("*.py")]
    own = "ahead/cubins.py", "plan/buffers.py", "run/capture.py", "run/context.py", "run/driver.py"
    return record.digest([*files, *(record.ROOT / "optgraph" / name for name in own)])


@lru_cache
def kernels_key(*of: Any) -> str:
    """What a kernel's rows depend on, whatever row it is: the machinery and all kernels."""
    return _machinery() + record.digest((record.ROOT / "kernels").rglob("*.py"))


# ---- broken kernels


def mutation_row(name: str) -> Row:
    """What each schedule makes of a kernel with one mistake in it."""
    return {"outcomes": [text if text in ("right", "wrong") else "fault" for text in outcomes(name)]}


# ---- kernels


def boxed(sample: Sample) -> bool:
    """Whether the copy engine fetches it."""
    tile = sample.arguments.get("tile")
    return tile is not None and tile.box is not None


def kernel_row(name: str, target: Target, dtype: str) -> Row:
    """A kernel's samples against float64, in two schedules: each in one of the dtypes. Raises AssertionError if one is
    wrong."""
    (kernel,) = (kernel for kernel in KERNELS if str(kernel) == name)
    found = [sample for _, sample in kernel.samples()]
    samples = found[DTYPES.index(dtype) % len(found) :: len(DTYPES)]
    layers = [Layer(kernel, sample.typed(dtype)) for sample in samples if target == SM_90 or not boxed(sample)]
    compiled = compile_all((layer.dry(target).variant, target) for layer in layers)
    worst = 0.0
    for layer, cubin in zip(layers, compiled, strict=True):
        with targeting(target):
            operands = layer.operands(CPU)
            launch = operands.launch()
        for schedule in (LATE, MIXED):
            error = operands.error(Machine(target, [cubin], schedule).bind(launch)) / layer.bound
            assert error <= 1, f"{layer}: {error:.2f} of its bound"
            worst = max(worst, error)
    return {"samples": len(layers), "of_bound": worst}


# ---- networks


def network_row(network: str, size: int, dtype: str, target: Target, batch: int, artifact: bool) -> Row:
    """A network through the runtime, then in two more orders of its launches, which must give the same bits."""
    path, net = _compiled(network, size, dtype)
    x = np.random.default_rng(0).standard_normal((batch, 3, size, size)).astype(np.float32)
    (name,), (output,) = net.inputs, net.outputs
    original = Original(net, InnerValues(load_model(path)), [{name: x}], batch, seed=0)
    coarse = coarseness(net, dtype, original.feeds, original.answers, original.scales)
    bound = allowed(dtype, max(original.noise()[0], coarse))
    machine = _from_artifact(path, dtype, target, batch) if artifact else None
    machine = machine or Machine(target, kernels(net.plans, batch, target), LATE)
    with prepared(net.plans, batch, machine) as context, pytest.MonkeyPatch.context() as patch:
        context.load({name: torch.from_numpy(x)})
        context.run()
        (found,) = context.results().values()
        device = Device(patch)
        same = [torch.equal(found, reordered(context, device, seed)[1][0]) for seed in range(2)]
    error = distance(found, original.answers[0][output])[0]
    assert error <= bound and all(same) and machine.kernels.compiled == 0, f"{error:.1e} of {bound:.1e}, orders {same}"
    found = counts(net.plans, batch, target)
    return {"size": size, "rel_l2": error, "bound": bound, "orders": len(same), **found}


def addresses_row(network: str, size: int, dtype: str, target: Target, batch: int) -> Row:
    """The addresses of a network's launches in some of their blocks. Raises FaultError for a wrong one."""
    _, net = _compiled(network, size, dtype)
    plan = net.plans.get(batch, target)
    found = full_size.launches(plan, net.plans)
    tried = full_size.different(found)
    full_size.check(tried, target)
    return {"size": size, "launches": len(found), "different": len(tried), "gigabytes": plan.arena_bytes / 1e9}


def network_key(network: str, size: int, dtype: str, target: Target, batch: int, artifact: bool = False) -> str:
    """What a network's row depends on: the machinery, the weights and everything that is launched."""
    _, net = _compiled(network, size, dtype)
    found = hashlib.sha256(_machinery().encode())
    for name, array in net.plans.graph.constants.items():
        found.update(name.encode() + np.ascontiguousarray(array).tobytes())
    for launch in launches(net.plans, batch, target):
        found.update(repr(list(_described(launch, target))).encode())
    return found.hexdigest()[:16]


def _described(launch: Launch, target: Target) -> Iterator[Any]:
    yield cubins.key(launch.variant, target), launch.grid
    for path, value in launch.leaves():
        yield path, (value.shape, value.stride(), value.dtype) if isinstance(value, torch.Tensor) else value


@lru_cache(maxsize=1)
def _compiled(network: str, size: int, dtype: str) -> tuple[Path, Net]:
    """The network's file, with calibrated weights, and the net."""
    path = record.MODELS / f"{network}-{size}-{record.digest([Path(family.__file__)])}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        model = family.filled(family.resized(family.exported(f"torch_{network}"), size))
        with replacing(path) as file:  # at once, for several processes may make it
            file.write(model.SerializeToString())
    return path, optgraph.compile(path, backend="torch", dtype=dtype)


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
