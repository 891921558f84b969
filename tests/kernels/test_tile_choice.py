"""The tile of every convolution of the three networks, as a GPU would get it: possible, not wasteful, and one of few.

The launchers run on tensors without memory, as if these lay on the target; nothing is compiled or run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import pytest

from optgraph.base.devices import Target
from optgraph.ir.graph import Graph
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.tile import cdiv
from optgraph.onnx import read
from optgraph.passes import pipeline
from optgraph.plan.lowering import lower
from optgraph.tune.layers import Layer, layers
from tests.support.paths import GRAPHS

KERNELS = ("pointwise", "conv2d", "separable", "pooled_pointwise")
BATCHES = (1, 8, 64, 128)
SHARED = {"sm_80": 166_912, "sm_90": 232_448}
SMS = {"sm_80": 108, "sm_90": 132}


@dataclass(frozen=True)
class Choice:
    """What was chosen for one launch of a product of `rows`, by `depth` in each tap, with `columns` by output.

    useful: the part of its tiles that is no padding. block_n: of all accumulators. tiles: before any is split.
    """

    layer: Layer
    batch: int
    launch: Launch

    @property
    def rows(self) -> int:
        return math.prod(self.launch.work.writes[0].shape[:-1])

    @property
    def columns(self) -> list[int]:
        return [out.shape[-1] for out in self.launch.work.writes]

    @property
    def depth(self) -> int:
        """Multiply-adds for one output, window left out."""
        return self.launch.work.reads[0].tensor.shape[-1]

    @property
    def block_m(self) -> int:
        return self.launch.tile.block_m

    @property
    def block_n(self) -> int:
        return self.launch.tile.columns

    @property
    def tiles(self) -> int:
        return self.launch.programs // self.launch.tile.splits

    @property
    def useful(self) -> float:
        return self.rows * sum(self.columns) / (self.tiles * self.block_m * self.block_n)

    @property
    def tile(self) -> tuple[object, ...]:
        tile = self.launch.tile
        return self.layer.name, self.block_m, self.block_n, tile.block_k, tile.num_warps, tile.num_stages

    def __str__(self) -> str:
        return f"{self.layer} {self.columns}: {self.launch.tile}, {self.launch.programs} programs"


@cache
def network(name: str) -> Graph:
    graph = read.read(GRAPHS / f"torch_{name}.onnx", allow_stripped=True)
    pipeline.apply(graph, pipeline.SIMPLIFY + pipeline.FUSE)
    return graph


@cache
def choices(name: str, target: str, dtype: str) -> tuple[Choice, ...]:
    """Of every distinct launch, at every batch size."""
    return tuple(choice for batch in BATCHES for choice in _choices(name, batch, Target.parse(target), dtype))


def _choices(name: str, batch: int, target: Target, dtype: str) -> Iterator[Choice]:
    graph = network(name)
    for layer in layers(lower(graph, batch, dtype, target), graph):
        if layer.name in KERNELS:
            yield Choice(layer, batch, layer.dry(target))


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
        tile = choice.launch.tile
        if choice.launch.code.name == "conv2d_specialised":  # whose registers and memory are its own
            assert tile.block_m % 128 == 0 and tile.block_m * tile.block_n <= 192 * 32 * tile.num_warps, choice
            continue
        for block in (tile.block_m, tile.block_k):
            assert block >= 16 and block & (block - 1) == 0, choice
        operands = (tile.block_m + tile.columns) * tile.block_k * (2 if dtype == "fp16" else 4)
        assert operands * tile.num_stages <= SHARED[target], choice
        assert tile.block_m * tile.columns <= 128 * 32 * tile.num_warps, f"{choice}: accumulators of a thread"


@everywhere
def test_little_of_a_tile_is_padding(name: str, target: str, dtype: str) -> None:
    """At least 45 % of any launch's tiles is work, and 80 % of all multiply-adds at a batch size."""
    found = choices(name, target, dtype)
    assert min(found, key=lambda choice: choice.useful).useful > 0.45
    for batch in BATCHES:
        of_batch = [choice for choice in found if choice.batch == batch]
        area = sum(choice.tiles * choice.block_m * choice.block_n * choice.depth for choice in of_batch)
        useful = sum(choice.rows * sum(choice.columns) * choice.depth for choice in of_batch)
        assert useful > 0.8 * area, batch


@everywhere
def test_one_image_gets_programs_for_the_sms(name: str, target: str, dtype: str) -> None:
    """Half of the SMs at least, or half of the 32x32 tiles that the output has."""
    for choice in choices(name, target, dtype):
        if choice.batch == 1:
            smallest = cdiv(choice.rows, 32) * sum(cdiv(size, 32) for size in choice.columns)
            assert choice.launch.programs >= 0.5 * min(SMS[target], smallest), choice


@everywhere
def test_a_big_batch_gets_big_tiles(name: str, target: str, dtype: str) -> None:
    for choice in choices(name, target, dtype):
        regular = all(size % 64 == 0 for size in (choice.depth, *choice.columns))
        if choice.batch == 128 and regular:
            assert choice.block_m * choice.block_n >= (128 * 64 if dtype == "fp16" else 64 * 64), choice
            assert choice.launch.programs == choice.tiles, f"{choice}: there is no need to split"


@everywhere
def test_a_network_needs_few_tiles(name: str, target: str, dtype: str) -> None:
    """16 pairs of a kernel and a tile at most, over all convolutions and batch sizes; 6 of specialised warps, and 20 of
    those that have a stage for every step."""
    found = choices(name, target, dtype)
    assert len(found) > 60
    specialised = {choice.tile for choice in found if choice.launch.code.name == "conv2d_specialised"}
    streamed = {choice.tile for choice in found if choice.launch.tile.streamed}
    assert len({choice.tile for choice in found} - specialised - streamed) <= 16
    assert len(specialised) <= 6 and len(streamed) <= 20
