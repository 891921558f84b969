"""The CUDA driver module against a driver that only takes notes: what it is handed, to the byte."""

from __future__ import annotations

import ctypes
import struct
import threading
from dataclasses import replace
from typing import Any

import pytest
import torch

from optgraph.ahead import cubins
from optgraph.ahead.cubins import Cubin, TensorMap, layout
from optgraph.base.devices import SM_90, Target
from optgraph.base.errors import OptgraphError
from optgraph.ir.values import RELU
from optgraph.kernels.elementwise import elementwise
from optgraph.kernels.frame import sources
from optgraph.kernels.frame.arguments import Jit
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.launch import Launch, targeting
from optgraph.kernels.frame.tile import Tile
from optgraph.kernels.frame.variant import Block
from optgraph.kernels.frame.work import Work
from optgraph.kernels.pointwise import pointwise
from optgraph.run import driver
from optgraph.run.driver import Bound, Driver, Kernels, LaunchAttribute, LaunchConfig
from tests.support.cubin_samples import GPU, STREAM, FakeCuda, sample


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda(monkeypatch)


def bytes_of(parameters: Any, sizes: list[int]) -> list[bytes]:
    """What cuLaunchKernelEx would copy."""
    return [ctypes.string_at(address, size) for address, size in zip(parameters, sizes, strict=True)]


def made_up(**arguments: Any) -> Launch:
    """A launch with these arguments, of a kernel that is not called."""
    tile = Tile(64, 64, num_warps=8)
    return Launch("pointwise", Jit("nowhere", "none"), (5, 3), arguments, {"BLOCK": 64}, tile, Work([], []))


# ---- loading


def test_a_function_is_loaded(cuda: FakeCuda) -> None:
    assert Driver(cuda).load(sample(), 0).value == 0xF0
    names = [name for name, _ in cuda.calls]
    loading = ["cuCtxGetCurrent", "cuModuleLoadData", "cuModuleGetFunction"]
    assert names == [*loading, "cuFuncSetCacheConfig", "cuFuncSetAttribute"]
    assert cuda.named("cuModuleLoadData")[0][1] == sample().code
    _, module, entry = cuda.named("cuModuleGetFunction")[0]
    assert (module.value, entry) == (0x30D, b"_pointwise")
    function, attribute, amount = (argument.value for argument in cuda.named("cuFuncSetAttribute")[0])
    assert (function, attribute, amount) == (0xF0, 8, 98_304)


def test_48_kib_of_shared_memory_need_no_asking(cuda: FakeCuda) -> None:
    Driver(cuda).load(sample(shared_bytes=48 << 10), 0)
    assert not cuda.named("cuFuncSetAttribute")
    Driver(cuda).load(sample(shared_bytes=(48 << 10) + 1), 0)
    assert cuda.named("cuFuncSetAttribute")


def test_a_thread_without_a_context_gets_the_devices(cuda: FakeCuda) -> None:
    cuda.context = 0
    Driver(cuda).load(sample(), 3)
    assert cuda.named("cuDevicePrimaryCtxRetain")[0][1].value == 3
    assert cuda.named("cuCtxSetCurrent")[0][0].value == 0xC1


# ---- launching


def bound(launch: Launch, cuda: FakeCuda, **changes: Any) -> Bound:
    return Bound(Driver(cuda), launch, sample(**changes), ctypes.c_void_p(0xF0), GPU)


def config(found: bytes) -> list[int]:
    """Grid, block, shared bytes, stream, where the attributes are and how many: as cuda.h has CUlaunchConfig."""
    return list(struct.unpack("<7I4xQQI4x", found))


def test_a_launch_to_the_byte(cuda: FakeCuda) -> None:
    x, out = torch.empty(128, 64, dtype=torch.float16), torch.empty(8)
    block = Block(x, (128, 60), (64, 1), (64, 32))
    run = bound(made_up(x=block, out=out, rows=-2, big=2**40, none=None, a=1.5), cuda)
    assert not cuda.configs
    run(), run()
    (_, function, parameters, extra), _ = cuda.named("cuLaunchKernelEx")
    assert (function.value, extra) == (0xF0, None)
    for found, _ in cuda.configs:
        assert [*config(found)[:8], config(found)[9]] == [5, 3, 1, 256, 1, 1, 98_304, STREAM, 0]
    found = bytes_of(parameters, [size for size, _ in layout(sample().parameters)])
    expected = [
        bytes(range(128)),  # what the driver encoded
        *(n.to_bytes(4, "little") for n in (128, 60)),
        *(n.to_bytes(8, "little") for n in (64, 1)),
        out.data_ptr().to_bytes(8, "little"),
        (-2).to_bytes(4, "little", signed=True),
        (2**40).to_bytes(8, "little"),
        bytes.fromhex("0000c03f"),  # 1.5 as float32
        bytes(8),
        bytes(8),
    ]
    assert found == expected
    assert len(cuda.named("cuTensorMapEncodeTiled")) == 1  # when bound, not when called


def test_structures_are_as_large_as_the_drivers() -> None:
    """By cuda.h: CUlaunchConfig and CUlaunchAttribute, the union of which is padded to 64 bytes and lies on 8."""
    assert (ctypes.sizeof(LaunchConfig), ctypes.sizeof(LaunchAttribute)) == (56, 72)
    assert (LaunchConfig.stream.offset, LaunchConfig.attributes.offset) == (32, 40)  # type: ignore[attr-defined]
    assert LaunchAttribute.value.offset == 8 and ctypes.alignment(LaunchAttribute) == 8  # type: ignore[attr-defined]


EARLY = (6).to_bytes(8, "little") + (1).to_bytes(64, "little")  # programmatic stream serialization: allowed


@pytest.fixture
def chained(cuda: FakeCuda) -> Bound:
    """A kernel that waits by itself."""
    return bound(made_up(out=torch.empty(8)), cuda, parameters=("pointer",), waits=True)


def test_a_launch_begins_early_by_an_attribute(cuda: FakeCuda, chained: Bound) -> None:
    for how in (chained.early, chained, chained.early):
        how()
    assert [attribute for _, attribute in cuda.configs] == [EARLY, b"", EARLY]
    assert [config(found)[9] for found, _ in cuda.configs] == [1, 0, 1]


def test_a_kernel_that_does_not_wait_begins_when_the_one_before_has_ended(cuda: FakeCuda) -> None:
    bound(made_up(out=torch.empty(8)), cuda, parameters=("pointer",)).early()
    assert [attribute for _, attribute in cuda.configs] == [b""]


@pytest.mark.parametrize(("version", "early"), [(12020, False), (12030, True), (13010, True)])
def test_an_old_driver_records_no_early_launch(version: int, early: bool, cuda: FakeCuda, chained: Bound) -> None:
    cuda.version = version
    chained.early()
    assert [bool(attribute) for _, attribute in cuda.configs] == [early]


def test_early_launches_can_be_turned_off(cuda: FakeCuda, chained: Bound, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTGRAPH_EARLY_LAUNCH", "0")
    chained.early()
    assert [attribute for _, attribute in cuda.configs] == [b""]


def test_what_a_driver_does_not_support_is_not_asked_for_again(cuda: FakeCuda, chained: Bound) -> None:
    cuda.early = 801
    chained.early(), chained.early()
    assert [attribute for _, attribute in cuda.configs] == [EARLY, b"", b""]


def test_another_error_of_an_early_launch_is_one(cuda: FakeCuda, chained: Bound) -> None:
    cuda.early = 1
    with pytest.raises(OptgraphError, match="cuLaunchKernelEx failed"):
        chained.early()


@pytest.mark.parametrize("grid", [(7,), (7, 5), (7, 5, 3)])
def test_a_grid_has_three_dimensions(grid: tuple[int, ...], cuda: FakeCuda) -> None:
    launch = replace(made_up(out=torch.empty(8)), grid=grid)
    bound(launch, cuda, parameters=("pointer",))()
    assert config(cuda.configs[0][0])[:3] == [*grid, 1, 1][:3]


def test_a_tensor_map(cuda: FakeCuda) -> None:
    """As Triton's own launcher encodes it: dimensions innermost first, strides in bytes and without the innermost."""
    image = torch.empty(2, 9, 11, 24, dtype=torch.float16)
    block = Block(image, (2, 9, 11, 20), (2376, 264, 24, 1), (1, 8, 16, 64))
    kept = [Driver(cuda).tensor_map(block, TensorMap((1, 8, 16, 32), 2, 6)) for _ in range(20)]
    assert not any(ctypes.addressof(one) % 128 for one in kept)
    made = kept[0]
    assert ctypes.sizeof(made) == 128 and bytes(made) == bytes(range(128))
    into, element, rank, address, shape, strides, box, steps, *rest = cuda.named("cuTensorMapEncodeTiled")[0]
    assert into is made and (element.value, rank.value, address.value) == (6, 4, image.data_ptr())
    assert (shape._type_, list(shape)) == (ctypes.c_uint64, [20, 11, 9, 2])
    assert (strides._type_, list(strides)[:3]) == (ctypes.c_uint64, [48, 528, 4752])
    assert (box._type_, list(box)) == (ctypes.c_uint32, [32, 16, 8, 1])
    assert (steps._type_, list(steps)) == (ctypes.c_uint32, [1, 1, 1, 1])
    assert [value.value for value in rest] == [0, 2, 2, 0]  # interleave, swizzle, L2 promotion, zeros beyond the edge


@pytest.mark.parametrize(
    ("version", "shape", "cleared"),
    [
        (13010, (1024, 64), True),  # its last element begins at byte 131,070: 128 KiB less two bytes
        (13010, (1025, 64), False),
        (12080, (2, 64), True),
        (13020, (2, 64), False),
    ],
)
def test_a_bit_of_small_tensor_maps_is_cleared(
    version: int, shape: tuple[int, int], cleared: bool, cuda: FakeCuda
) -> None:
    """For Blackwell, as Triton's launcher does with drivers that do not do it themselves."""
    cuda.version, cuda.encoded = version, b"\xff" * 128
    block = Block(torch.empty(shape, dtype=torch.float16), shape, (64, 1), (64, 32))
    made = Driver(cuda).tensor_map(block, TensorMap((64, 32), 2, 6))
    bits = int.from_bytes(bytes(made), "little")
    assert bits == (1 << 1024) - 1 - (cleared << (64 + 21))


def test_parameters_of_real_kernels_are_as_large_as_compiled(cuda: FakeCuda) -> None:
    half, tile = torch.empty(1, 32, 32, 64, dtype=torch.float16), Tile(64, 64, 64, box=(1, 1, 64))
    biased = Epilogue(torch.empty(64))
    with targeting(SM_90):
        launches = [
            pointwise(half, half[0, 0].new_empty(64, 64), [torch.empty_like(half)], after=biased, tile=tile),
            elementwise(half, torch.empty_like(half), before=Prologue(act=RELU)),
        ]
    for launch in launches:
        taken = launch.kernel == "pointwise"  # blocks, of x and weight
        maps = [{"block_size": [64, 64], "swizzle": 3, "elem_type": 6}] * (2 * taken)
        kinds = cubins._parameters(launch.variant, maps)
        values = Driver(cuda).parameters(launch, kinds)
        assert [ctypes.sizeof(value) for value in values] == [size for size, _ in layout(kinds)]
    assert len(cuda.named("cuTensorMapEncodeTiled")) == 2


def test_errors_are_the_drivers_words(cuda: FakeCuda) -> None:
    run = bound(made_up(out=torch.empty(8)), cuda, parameters=("pointer",))
    cuda.broken = "cuLaunchKernelEx"
    with pytest.raises(
        OptgraphError, match=r"cuLaunchKernelEx failed: an illegal memory access was encountered \(700\)"
    ):
        run()


def test_a_stream_does_not_wait_for_the_default_one(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "open_library", lambda: cuda)
    assert driver.new_stream() == 0x57A
    assert cuda.named("cuStreamCreate")[0][1].value == 1  # CU_STREAM_NON_BLOCKING


def test_a_machine_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_LIBRARY", "libno_such_driver.so.1")
    with pytest.raises(OptgraphError, match="needs NVIDIA's driver"):
        driver.open_library()


# ---- which cubin


def launch() -> Launch:
    x = torch.empty(1, 8, 8, 8, dtype=torch.float16)
    with targeting(SM_90):
        return elementwise(x, torch.empty_like(x), before=Prologue(act=RELU))


def made(target: str, like: Launch) -> Cubin:
    """The cubin of `like` for `target`; its entry tells them apart."""
    return sample(
        key=cubins.key(like.variant, Target.parse(target)), target=target, entry=target, parameters=kinds(like)
    )


def kinds(like: Launch) -> tuple[Any, ...]:
    return cubins._parameters(like.variant, None)


@pytest.mark.parametrize(
    ("capability", "there", "entry"),
    [
        ((9, 0), ["sm_80", "sm_90"], b"sm_90"),
        ((9, 0), ["sm_80"], b"compiled"),
        ((8, 0), ["sm_80", "sm_86", "sm_90"], b"sm_80"),
        ((8, 6), ["sm_80", "sm_86", "sm_89"], b"sm_86"),
        ((8, 9), ["sm_80"], b"sm_80"),
        ((9, 0), [], b"compiled"),
    ],
)
def test_a_miss_is_compiled(
    capability: tuple[int, int], there: list[str], entry: bytes, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[Target] = []

    def obtain(variant: Any, target: Target) -> Cubin:
        wanted.append(target)
        return sample(entry="compiled", parameters=kinds(launch()))

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(cubins, "obtain", obtain)
    kernels = Kernels(GPU, [made(target, launch()) for target in there], cuda)
    kernels.bind(launch())()
    kernels.bind(launch())()  # of the same variant
    assert [call[2] for call in cuda.named("cuModuleGetFunction")] == [entry]
    assert len(cuda.named("cuLaunchKernelEx")) == 2
    assert kernels.compiled == len(wanted) == (entry == b"compiled")
    assert wanted in ([], [Target(capability)])


def test_a_kernel_that_does_not_compile_is_replaced_where_there_is_another(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = launch()
    special = replace(plain, code=Jit("nowhere", "none"), otherwise=lambda: plain)
    tried: list[Any] = []

    def obtain(variant: Any, target: Target) -> Cubin:
        tried.append(variant)
        raise NotImplementedError("no such kernel")

    monkeypatch.setattr(cubins, "obtain", obtain)
    monkeypatch.setenv("OPTGRAPH_DEBUG", "1")
    kernels = Kernels(GPU, [made("sm_90", plain)], cuda)
    for bound in kernels.bind_all([special, special]):
        assert isinstance(bound, Bound) and bound._holds[1] is plain
    assert tried == [special.variant], "once"
    assert "it does not compile: NotImplementedError('no such kernel')" in capsys.readouterr().err
    with pytest.raises(NotImplementedError):
        kernels.bind(special)  # whoever measures this one is to have no other
    found = Kernels(GPU, [made("sm_90", plain), made("sm_90", special)], cuda)
    (carried,) = found.bind_all([special])
    assert isinstance(carried, Bound) and carried._holds[1] is special and found.compiled == 0


def test_other_sources_are_a_miss(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    old = made("sm_90", launch())
    monkeypatch.setattr(sources, "source_digest", lambda file: "edited")
    monkeypatch.setattr(cubins, "obtain", lambda variant, target: made("sm_90", launch()))
    kernels = Kernels(GPU, [old], cuda)
    kernels.bind(launch())
    assert kernels.compiled == 1


@pytest.mark.parametrize("wrong", [("pointer",), ("i64",) * 20])
def test_a_forged_cubin_is_a_miss(wrong: tuple[str, ...], cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cubins, "obtain", lambda variant, target: made("sm_90", launch()))
    kernels = Kernels(GPU, [replace(made("sm_90", launch()), parameters=wrong)], cuda)
    kernels.bind(launch())()
    assert kernels.compiled == 1


def test_a_fallback_is_left_alone(cuda: FakeCuda) -> None:
    def fallback() -> None: ...

    assert Kernels(GPU, [], cuda).bind(fallback) is fallback


def test_a_workspace_must_be_there(cuda: FakeCuda) -> None:
    kernels = Kernels(GPU, [made("sm_90", launch())], cuda)
    split = replace(launch(), workspace=64)
    with pytest.raises(ValueError, match="without the workspace"):
        kernels.bind(split)


def test_threads_load_a_kernel_once(cuda: FakeCuda) -> None:
    kernels = Kernels(GPU, [made("sm_90", launch())], cuda)
    threads = [threading.Thread(target=lambda: kernels.bind(launch())()) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cuda.named("cuModuleLoadData")) == 1 and len(cuda.named("cuLaunchKernelEx")) == 8
