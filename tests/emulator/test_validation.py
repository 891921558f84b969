"""The emulator itself: plain Triton kernels, compiled, against numpy and float64, in every schedule."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optgraph.ahead.cubins import Cubin, TensorMap
from optgraph.base.devices import SM_80, SM_90, Target
from optgraph.kernels.frame.arguments import Jit
from optgraph.kernels.frame.variant import Block, Variant, type_of
from tests.emulator import tensor_maps
from tests.emulator.blocks import Parameters
from tests.emulator.compiler import CompileError, compile_all
from tests.emulator.faults import FaultError
from tests.emulator.instructions import executable
from tests.emulator.memory import Regions, Tensor
from tests.emulator.schedule import EARLY, SCHEDULES, Schedule, run

MODULE = "tests.emulator.plain_kernels"
SIZES = (70, 72, 88)  # M, N, K: no multiples of a block
TYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
BOUNDS = {"fp32": 1e-6, "tf32": 1e-3, "fp16": 5e-4, "bf16": 4e-3}


@dataclass(frozen=True)
class Call:
    """A kernel of `plain_kernels`: its arguments and constants in order; the last tensor is its output."""

    name: str
    arguments: dict[str, Any]
    constants: dict[str, Any]
    warps: int = 4
    stages: int = 3

    def variant(self) -> Variant:
        signature = [(name, type_of(value)) for name, value in self.arguments.items()]
        aligned = tuple(name for name, value in self.arguments.items() if isinstance(value, torch.Tensor))
        constants = tuple(self.constants.items())
        kinds = (*signature, *((name, "constexpr") for name in self.constants))
        return Variant(self.name, Jit(MODULE, self.name), kinds, constants, aligned, self.warps, self.stages)

    def run(self, cubin: Cubin, grid: tuple[int, ...], schedule: Schedule = EARLY) -> None:
        raw: list[bytes] = []
        maps, tensors = {}, []
        for value, kind in zip(self.arguments.values(), cubin.parameters, strict=True):
            tensor = value.tensor if isinstance(value, Block) else value
            if isinstance(kind, TensorMap):
                maps[len(raw)] = _map(tensor, kind)
                raw += [bytes(128), *map(_i32, tensor.shape), *map(_i64, tensor.stride())]
            else:
                raw.append(_i64(tensor.data_ptr()) if isinstance(tensor, torch.Tensor) else _i32(tensor))
            if isinstance(tensor, torch.Tensor):
                item = tensor.element_size()
                strides = tuple(s * item for s in tensor.stride())
                tensors.append(Tensor(tensor.data_ptr(), tuple(tensor.shape), strides, item, value is self.output))
        program = executable(cubin.code.decode())
        parameters = Parameters([*raw, bytes(8), bytes(8)], maps)
        assert [len(part) for part in parameters.raw] == [param.size for param in program.program.params]
        full = (*grid, 1, 1)[:3]
        run(program, (full[0], full[1], full[2]), cubin.shared_bytes, parameters, Regions(tensors), schedule)

    @property
    def output(self) -> torch.Tensor:
        return [value for value in self.arguments.values() if isinstance(value, torch.Tensor)][-1]


def _i32(value: int) -> bytes:
    return int(value).to_bytes(4, "little", signed=True)


def _i64(value: int) -> bytes:
    return int(value).to_bytes(8, "little")


def _map(tensor: torch.Tensor, kind: TensorMap) -> tensor_maps.TensorMap:
    item = tensor.element_size()
    strides = (tensor.stride(0) * item,)
    return tensor_maps.TensorMap(
        item, tensor.data_ptr(), tuple(tensor.shape[::-1]), strides, kind.box[::-1], kind.swizzle
    )


def product(dtype: str, tma: bool, blocks: tuple[int, int, int], warps: int, stages: int) -> Call:
    """A matrix product."""
    m, n, k = SIZES
    kind = TYPES[dtype]
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=random).to(kind) for shape in ((m, k), (k, n)))
    out = torch.full((m, n), float("nan")).to(kind)
    given: dict[str, Any] = {"a": a, "b": b}
    if tma:
        given = {
            name: Block(x, tuple(x.shape), tuple(x.stride()), box)
            for (name, x), box in zip(given.items(), ((blocks[0], blocks[2]), (blocks[2], blocks[1])), strict=True)
        }
    arguments = {**given, "c": out, "M": m, "N": n, "K": k}
    constants = dict(zip(("BM", "BN", "BK"), blocks, strict=True), PREC="tf32" if dtype == "tf32" else "ieee")
    return Call("matmul_tma" if tma else "matmul", arguments, constants, warps, stages)


WGMMA, SMALL = ((64, 64, 32), 4, 3), ((32, 16, 16), 1, 1)
PRODUCTS: list[Any] = [
    *((SM_80, dtype, False, *form) for dtype in ("fp16", "bf16", "tf32") for form in (((64, 32, 32), 4, 3), SMALL)),
    *((SM_90, dtype, tma, *WGMMA) for dtype in ("fp16", "bf16", "tf32") for tma in (False, True)),
    (SM_90, "fp16", True, (128, 32, 64), 8, 2),
    (SM_90, "fp16", False, *SMALL),
    (SM_80, "fp32", False, *SMALL),
]


def integer_product() -> Call:
    """Of all int8, their least among them."""
    m, n, k = SIZES
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randint(-128, 128, shape, generator=random, dtype=torch.int8) for shape in ((m, k), (n, k)))
    a[:8], b[:8] = -128, -128
    arguments = {"a": a, "b": b, "c": torch.zeros(m, n, dtype=torch.int32), "M": m, "N": n, "K": k}
    return Call("matmul_integers", arguments, dict(zip(("BM", "BN", "BK"), WGMMA[0], strict=True)))


@pytest.fixture(scope="module")
def cubins() -> dict[tuple[Variant, Target], Cubin]:
    wanted = [(product(*form).variant(), target) for target, *form in PRODUCTS]
    wanted += [(call.variant(), SM_90) for call in (addition(), rounding(), comparison())]
    wanted += [(integer_product().variant(), target) for target in (SM_80, SM_90)]
    return dict(zip(wanted, compile_all(wanted), strict=True))


@pytest.mark.parametrize(("target", "word"), [(SM_80, "m16n8k32.row.col.satfinite.s32.s8"), (SM_90, "k32.s32.s8.s8")])
@pytest.mark.parametrize("before", [0, 2**31 - 1 - 128 * 128 * 44])
def test_products_of_integers(target: Target, word: str, before: int, cubins: Any) -> None:
    """Of what is too large for 32 bits, mma saturates, as it is compiled; wgmma does not."""
    call = integer_product()
    cubin = cubins[call.variant(), target]
    assert word in cubin.code.decode()
    a, b = (call.arguments[name].double() for name in "ab")
    exact = before + a @ b.t()
    expected = exact.clamp(-(2**31), 2**31 - 1) if target == SM_80 else exact
    assert (exact.max() >= 2**31) == (before > 0)
    for schedule in SCHEDULES:
        call.output.fill_(before)
        call.run(cubin, (-(-SIZES[0] // 64), -(-SIZES[1] // 64)), schedule)
        assert torch.equal(call.output, expected.to(torch.int64).to(torch.int32))


@pytest.mark.parametrize(("target", "dtype", "tma", "blocks", "warps", "stages"), PRODUCTS, ids=str)
def test_products(target: Target, dtype: str, tma: bool, blocks: Any, warps: int, stages: int, cubins: Any) -> None:
    call = product(dtype, tma, blocks, warps, stages)
    cubin = cubins[call.variant(), target]
    a, b = (getattr(call.arguments[name], "tensor", call.arguments[name]).double() for name in "ab")
    grid = -(-SIZES[0] // blocks[0]), -(-SIZES[1] // blocks[1])
    for schedule in SCHEDULES:
        call.output.fill_(float("nan"))
        call.run(cubin, grid, schedule)
        assert ((call.output.double() - a @ b).norm() / (a @ b).norm()) < BOUNDS[dtype]


def test_the_products_use_what_they_are_to_prove(cubins: Any) -> None:
    texts = {key: cubin.code.decode() for key, cubin in cubins.items()}
    for word in ("wgmma.mma_async", "cp.async.bulk.tensor", "mbarrier.try_wait", "ldmatrix", "cp.async.cg", "mma.sync"):
        assert any(word in text for text in texts.values()), word


def test_what_was_edited_since_it_was_asked_for_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("optgraph.ahead.cubins.digest", lambda files: "as the kernels were before")
    with pytest.raises(CompileError, match="kernels were edited"):
        compile_all([(addition().variant(), SM_90)])
    assert not list(tmp_path.rglob("*.json"))


def addition(size: int = 1000) -> Call:
    x, y = torch.randn(size), torch.randn(size)
    return Call("add", {"x": x, "y": y, "out": torch.full_like(x, float("nan")), "n": size}, {"BLOCK": 512})


def test_an_addition_touches_nothing_else(cubins: Any) -> None:
    call = addition()
    cubin = cubins[call.variant(), SM_90]
    x, y, out, _ = call.arguments.values()
    call.run(cubin, (2,))
    assert torch.equal(out, x + y)
    with pytest.raises(FaultError, match=r"write of .* outside of the launch's tensors"):
        Call(call.name, {**call.arguments, "out": out[:996]}, call.constants).run(cubin, (2,))
    with pytest.raises(FaultError, match=r"read of .* outside of the launch's tensors"):
        Call(call.name, {**call.arguments, "x": x[:996]}, call.constants).run(cubin, (2,))
    with pytest.raises(FaultError, match="misaligned"):
        Call(call.name, {**call.arguments, "x": torch.randn(1001)[1:]}, call.constants).run(cubin, (2,))


def rounding() -> Call:
    x = torch.tensor([0.5, 1.5, -2.5, 3.49, 1e9, -7.0, 0.0, 123456.7] * 16)
    return Call("integers", {"x": x, "out": torch.zeros(128, dtype=torch.int32)}, {"BLOCK": 128})


def test_integers(cubins: Any) -> None:
    call = rounding()
    call.run(cubins[call.variant(), SM_90], (1,))
    i = call.arguments["x"].numpy().astype(np.int32)
    lane = np.arange(128, dtype=np.int32) - 64
    remainder = partial(np.fmod, lane)
    expected = np.trunc(lane / 7).astype(np.int32) + remainder(np.int32(5)) + (i >> 3) + (i ^ lane)
    expected += np.fmod(lane, np.int32(37)).max() * i.min()
    assert "redux.sync" in cubins[call.variant(), SM_90].code.decode()
    assert np.array_equal(call.output.numpy(), expected)


def comparison() -> Call:
    numbers = torch.tensor([0.0, -0.0, 1.5, -2.0, float("inf"), float("nan"), 3e38, 1e-40], dtype=torch.bfloat16)
    x, y = numbers.repeat(8), numbers.repeat_interleave(8)
    return Call("compared", {"x": x, "y": y, "out": torch.zeros(64, dtype=torch.int32)}, {"BLOCK": 64})


def test_comparisons_of_bf16(cubins: Any) -> None:
    call = comparison()
    call.run(cubins[call.variant(), SM_90], (1,))
    x, y, out = call.arguments.values()
    assert "setp.eq.bf16" in cubins[call.variant(), SM_90].code.decode()
    assert torch.equal(out, (x == y) + 2 * (x < y) + 4 * (x != y))
