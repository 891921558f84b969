"""Addresses at full size: what they are checked against, offsets that need more than 32 bits, and a network."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from optgraph.base.devices import SM_80, SM_90
from optgraph.ir.graph import Graph
from optgraph.ir.values import RELU
from optgraph.kernels.elementwise import elementwise
from optgraph.kernels.frame.ends import Prologue
from optgraph.kernels.frame.launch import Launch, targeting
from optgraph.kernels.frame.variant import Block
from optgraph.passes import pipeline
from optgraph.plan.plans import Plans
from tests.emulator import full_size
from tests.emulator.compiler import compile_all
from tests.emulator.extents import Extents
from tests.emulator.faults import FaultError
from tests.emulator.full_size import SOME, check, different, launches, reserved
from tests.emulator.machine import tensors
from tests.emulator.memory import Regions, Tensor
from tests.support.networks import Builder

# ---- extents


def test_extents_allow_what_a_map_of_every_byte_allows() -> None:
    """Of random channel slices, at all addresses around them."""
    random = np.random.default_rng(0)
    for _ in range(40):
        n, h, w, c = map(int, random.integers(1, 5, 4))
        wide = c + int(random.integers(0, 3))
        strides = (h * w * wide * 4 + 8 * int(random.integers(0, 2)), w * wide * 4, wide * 4, 4)
        given = [
            Tensor(0x10000, (n, h, w, c), strides, 4, writable=bool(random.integers(0, 2))),
            Tensor(0x12000, (w, c), (4, 4 * w), 4, writable=True),
        ]
        allowed = Regions(given), Extents(given)
        for tensor in given:
            for address in range(tensor.address - 16, tensor.span()[1] + 16, 4):
                size, write = int(random.choice([4, 8, 16])), bool(random.integers(0, 2))
                found = [refused(one, address, size, write) for one in allowed]
                assert found[0] == found[1], (given, address - tensor.address, size, write)


def refused(allowed: Regions | Extents, address: int, size: int, write: bool) -> bool:
    try:
        allowed.check(np.array([address], np.uint64), size, write)
    except FaultError:
        return True
    return False


def test_a_tensor_that_overlaps_itself_has_no_extents() -> None:
    with pytest.raises(ValueError, match="overlaps itself"):
        Extents([Tensor(0x10000, (4, 3), (4, 4), 4, writable=False)])


def test_what_was_written_is_known() -> None:
    tensor = Tensor(0x10000, (8, 8), (64, 4), 4, writable=True)
    extents = Extents([tensor])
    extents.check(np.array([0x10040, 0x10080], np.uint64), 8, write=True)
    extents.check(np.array([0x10000], np.uint64), 8, write=False)
    assert extents.written == {tensor: (0x40, 0x88)}


# ---- offsets beyond 2^31


def images(batch: int) -> Launch:
    """An activation of 1.4 million numbers an image: at 4,096 images 5.7e9 numbers, of 11 GB."""
    x, out = (reserved(batch, 147, 147, 64, dtype=torch.float16) for _ in range(2))
    with targeting(SM_80):
        return elementwise(x, out, before=Prologue(act=RELU))


def narrowed(extension: str) -> tuple[str, str]:
    """Makes each product that is widened to 64 bits one of 32 bits, extended to 64 again."""
    narrow = rf"{{\n.reg .b32 narrow;\nmul.lo.s32 narrow, \2, \3;\n{extension} \1, narrow;\n}}\n"
    return r"mul\.wide\.s32 \t(%rd\d+), (%r\d+), (%r\d+);", narrow


@pytest.mark.parametrize(
    ("extension", "fault"),
    [("cvt.s64.s32", "outside of the launch's tensors"), ("cvt.u64.u32", "bytes of its outputs are written")],
)
def test_an_offset_of_32_bits_shows_at_full_size_alone(
    extension: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check([images(4096)], SM_80)

    def broken(wanted: Any) -> Any:
        (cubin,) = compile_all(wanted)
        code, count = re.subn(*narrowed(extension), cubin.code.decode())
        assert count
        return [replace(cubin, code=code.encode())]

    monkeypatch.setattr(full_size, "compile_all", broken)
    check([images(1)], SM_80)
    with pytest.raises(FaultError, match=fault):
        check([images(4096)], SM_80)


# ---- a network


def network() -> Graph:
    b = Builder(channels=64, size=8)
    x = b.act(b.conv(b.x, 64, 3))
    x = b.concat(b.conv(x, 64), b.pool(x))
    return b.done(b.pool(b.depthwise(x), mode="max", stride=2))


def test_a_network_at_full_size() -> None:
    graph = network()
    pipeline.apply(graph, pipeline.FUSE)
    plans = Plans(graph, "fp16")
    batch = (1 << 18) + 3
    found = launches(plans.get(batch, SM_90), plans)
    assert any(isinstance(value, Block) for launch in found for value in launch.arguments.values())
    assert max(high - low for launch in found for low, high in map(Tensor.span, tensors(launch))) > 1 << 32
    check(different(found), SM_90)


def test_each_launch_is_checked_once() -> None:
    same = [images(2), images(2), images(3)]
    assert different(same) == same[1:]


def test_reserved_memory_is_zero_and_may_be_written() -> None:
    with patch.object(torch, "empty", reserved):
        x = torch.empty((3, 5), dtype=torch.float16, device=torch.device("cpu"))
    assert x.shape == (3, 5) and not x.any()
    assert float(x.add_(1).sum()) == 15
    assert SOME.order((100, 3, 50)).size == 3 * 3 * 3
