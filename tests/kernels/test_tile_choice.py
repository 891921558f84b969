"""The tile of every convolution of the three networks, as a GPU would get it: possible, not wasteful, and one of few.

The launchers run on tensors without memory, as if these lay on the target; nothing is compiled or run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import pytest
import torch

from optgraph.ahead.build import _Weights
from optgraph.ir.graph import Graph
from optgraph.kernels.frame.choice import cdiv
from optgraph.kernels.frame.launch import Launch, targeting
from optgraph.onnx import read
from optgraph.passes import pipeline
from optgraph.plan.buffers import Buffers
from optgraph.plan.lowering import lower
from optgraph.plan.plan import Call, Plan
from tests.support.paths import GRAPHS

META = torch.device("meta")
KERNELS = ("pointwise", "conv2d", "separable", "pooled_pointwise")
BATCHES = (1, 8, 64, 128)
SHARED = {"sm_80": 166_912, "sm_90": 232_448}
SMS = {"sm_80": 108, "sm_90": 132}


@dataclass(frozen=True)
class Choice:
    """What was chosen for one launch. rows, columns: of the product, columns by output; tiles: before any is split."""

    call: Call
    batch: int
    rows: int
    columns: tuple[int, ...]
    itemsize: int
    block_m: int
    block_n: int  # of all accumulators
    block_k: int
    warps: int
    stages: int
    programs: int
    tiles: int

    @property
    def useful(self) -> float:
        """The part of its tiles that is no padding."""
        return self.rows * sum(self.columns) / (self.tiles * self.block_m * self.block_n)

    @property
    def tile(self) -> tuple[object, ...]:
        return self.call.name, self.block_m, self.block_n, self.block_k, self.warps, self.stages

    def __str__(self) -> str:
        x, out = self.call.reads["x"].shape, self.call.written()[0].shape
        return f"{self.call.name} {x} -> {out} {self.columns}: {self.tile[1:]}, {self.programs} programs"


@cache
def network(name: str) -> Graph:
    graph = read.read(GRAPHS / f"torch_{name}.onnx", allow_stripped=True)
    pipeline.apply(graph, pipeline.SIMPLIFY + pipeline.FUSE)
    return graph


@cache
def weights(name: str) -> _Weights:
    return _Weights(network(name).constants, META)


@cache
def plan_of(name: str, batch: int, dtype: str) -> Plan:
    return lower(network(name), batch, dtype)


@cache
def choices(name: str, target: str, dtype: str) -> tuple[Choice, ...]:
    """Of every distinct launch, at every batch size."""
    return tuple(choice for batch in BATCHES for choice in _choices(name, batch, target, dtype))


def _choices(name: str, batch: int, target: str, dtype: str) -> Iterator[Choice]:
    plan = plan_of(name, batch, dtype)
    buffers = Buffers(plan, weights(name), META, poison=False)
    seen = set()
    for call in plan.calls:
        views = (*call.reads.values(), *call.written())
        key = call.kernel, tuple((view.shape, view.strides) for view in views), repr(call.options)
        if call.name not in KERNELS or key in seen:
            continue
        seen.add(key)
        with targeting(target):
            launch = buffers.bind(call)
        assert isinstance(launch, Launch)
        splits, programs = launch.args.get("splits", 1), math.prod(launch.grid)
        assert isinstance(splits, int)
        block_m, block_n, block_k = (launch.constants[f"BLOCK_{axis}"] for axis in "MNK")
        yield Choice(
            call=call,
            batch=batch,
            rows=math.prod(call.written()[0].shape[:-1]),
            columns=tuple(view.shape[-1] for view in call.written()),
            itemsize=2 if dtype == "fp16" else 4,
            block_m=block_m,
            block_n=block_n * launch.constants.get("ACCUMULATORS", 1),
            block_k=block_k,
            warps=launch.num_warps,
            stages=launch.num_stages,
            programs=programs,
            tiles=programs // splits,
        )


everywhere = pytest.mark.parametrize(
    ("name", "target", "dtype"),
    [
        (name, target, dtype)
        for name in ("inception_v3", "xception", "inception_resnet_v2")
        for target in ("sm_80", "sm_90")
        for dtype in ("fp16", "fp32")
    ],
)


@everywhere
def test_tiles_fit_shared_memory_and_registers(name: str, target: str, dtype: str) -> None:
    for choice in choices(name, target, dtype):
        for block in (choice.block_m, choice.block_k):
            assert block >= 16 and block & (block - 1) == 0, choice
        operands = (choice.block_m + choice.block_n) * choice.block_k * choice.itemsize
        assert operands * choice.stages <= SHARED[target], choice
        assert choice.block_m * choice.block_n <= 128 * 32 * choice.warps, f"{choice}: accumulators of a thread"


@everywhere
def test_little_of_a_tile_is_padding(name: str, target: str, dtype: str) -> None:
    """At least 45 % of any launch's tiles is work, and 80 % of all multiply-adds at a batch size."""
    found = choices(name, target, dtype)
    assert min(found, key=lambda choice: choice.useful).useful > 0.45
    for batch in BATCHES:
        of_batch = [choice for choice in found if choice.batch == batch]
        area = sum(choice.tiles * choice.block_m * choice.block_n * _depth(choice) for choice in of_batch)
        useful = sum(choice.rows * sum(choice.columns) * _depth(choice) for choice in of_batch)
        assert useful > 0.8 * area, batch


def _depth(choice: Choice) -> int:
    """Multiply-adds for one output, window left out."""
    return choice.call.reads["x"].shape[-1]


@everywhere
def test_one_image_gets_programs_for_the_sms(name: str, target: str, dtype: str) -> None:
    """Half of the SMs at least, or half of the 32x32 tiles that the output has."""
    for choice in choices(name, target, dtype):
        if choice.batch == 1:
            smallest = cdiv(choice.rows, 32) * sum(cdiv(size, 32) for size in choice.columns)
            assert choice.programs >= 0.5 * min(SMS[target], smallest), choice


@everywhere
def test_a_big_batch_gets_big_tiles(name: str, target: str, dtype: str) -> None:
    for choice in choices(name, target, dtype):
        regular = all(size % 64 == 0 for size in (choice.call.reads["x"].shape[-1], *choice.columns))
        if choice.batch == 128 and regular:
            assert choice.block_m * choice.block_n >= (128 * 64 if dtype == "fp16" else 64 * 64), choice
            assert choice.programs == choice.tiles, f"{choice}: there is no need to split"


@everywhere
def test_a_network_needs_few_tiles(name: str, target: str, dtype: str) -> None:
    """16 pairs of a kernel and a tile at most, over all convolutions and batch sizes."""
    found = choices(name, target, dtype)
    assert len(found) > 70
    assert len({choice.tile for choice in found}) <= 16
