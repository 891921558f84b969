"""Cubins: keys, the JSON form, the cache, and real ones, compiled in processes of their own."""

from __future__ import annotations

import errno
import importlib.util
import io
import json
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
import torch

import optgraph
from optgraph.ahead import build as building
from optgraph.ahead import cubins
from optgraph.ahead.build import CompileError, Use, build, build_all, find_uses
from optgraph.ahead.cubins import Cubin, TensorMap, from_json, layout, ptx_layout, runs_on
from optgraph.base.devices import SM_80, SM_90, Target
from optgraph.base.errors import ArtifactError, InputError, OptgraphError
from optgraph.ir.graph import Graph
from optgraph.ir.values import BATCH, IDENTITY, RELU, Act, Window
from optgraph.kernels.conv2d import conv2d
from optgraph.kernels.elementwise import elementwise
from optgraph.kernels.frame import sources
from optgraph.kernels.frame.arguments import Jit
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.launch import targeting
from optgraph.kernels.frame.occupancy import blocks_per_sm
from optgraph.kernels.frame.tile import Tile
from optgraph.kernels.frame.variant import Variant
from optgraph.kernels.pointwise import pointwise
from optgraph.kernels.separable import SEPARABLE, specialised_samples
from optgraph.passes import pipeline
from optgraph.plan.buffers import Buffers
from optgraph.plan.lowering import lower
from optgraph.plan.plans import Plans
from optgraph.plan.weights import Weights
from optgraph.report.tables import variants_line
from optgraph.run.context import with_workspaces
from optgraph.run.driver import Kernels
from optgraph.tune.layers import Layer
from tests.support.cli_models import call, classifier, ok, ok_json, saved
from tests.support.cubin_samples import GPU, FakeCuda, sample
from tests.support.networks import Builder


def variant(size: int = 64, dtype: torch.dtype = torch.float16, act: Act = RELU) -> Variant:
    x, out = torch.empty(1, size, size, 8, dtype=dtype), torch.empty(1, size, size, 8, dtype=dtype)
    with targeting(SM_90):
        return elementwise(x, out, before=Prologue(act=act)).variant


# ---- keys


def test_a_key_is_of_types_and_constants_and_not_of_sizes() -> None:
    keys = {
        "itself": cubins.key(variant(), SM_90),
        "target": cubins.key(variant(), SM_80),
        "type": cubins.key(variant(dtype=torch.float32), SM_90),
        "a jit function": cubins.key(variant(act=IDENTITY), SM_90),
        "warps": cubins.key(replace(variant(), num_warps=8), SM_90),
        "alignment": cubins.key(replace(variant(), aligned=()), SM_90),
    }
    assert len(set(keys.values())) == len(keys)
    # A clip's limits are run-time arguments, as is a map's height.
    assert cubins.key(variant(act=Act("clip", 0.0, 6.0)), SM_90) == cubins.key(variant(act=Act("clip", 1.0)), SM_90)
    assert variant(63) == variant(64)


def test_a_key_is_of_the_kernels_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(name: str, text: str) -> str:
        path = tmp_path / f"{name}.py"
        path.write_text(f"import triton\n\n@triton.jit\ndef kernel(x):\n    {text}\n")
        spec = importlib.util.spec_from_file_location("their_kernel", path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setitem(sys.modules, "their_kernel", module)
        return cubins.key(replace(variant(), code=Jit("their_kernel", "kernel")), SM_90)

    assert made("a", "x + 1") == made("b", "x + 1") != made("c", "x + 2")
    before = cubins.key(variant(), SM_90)
    monkeypatch.setattr(sources, "source_digest", lambda file: "changed" if file.endswith("epilogue.py") else "same")
    changed = cubins.key(variant(), SM_90)
    monkeypatch.setattr(sources, "source_digest", lambda file: "same")
    assert len({before, changed, cubins.key(variant(), SM_90)}) == 3


def test_a_variant_survives_json() -> None:
    found = json.loads(json.dumps(cubins.variant_to_json(variant())))
    assert found["code"] == {"module": "optgraph.kernels.jit.elementwise", "name": "elementwise"}
    assert cubins.variant_from_json(found) == variant()


# ---- facts of hardware and PTX


@pytest.mark.parametrize(
    ("target", "capability", "runs"),
    [
        ("sm_90", (9, 0), True),
        ("sm_90", (10, 0), False),
        ("sm_100", (10, 0), True),
        ("sm_100", (10, 3), False),
        ("sm_80", (8, 0), True),
        ("sm_80", (8, 9), True),
        ("sm_86", (8, 0), False),
        ("sm_89", (9, 0), False),
        ("sm_80", (9, 0), False),
    ],
)
def test_where_code_runs(target: str, capability: tuple[int, int], runs: bool) -> None:
    assert runs_on(Target.parse(target), capability) is runs


@pytest.mark.parametrize(
    ("registers", "shared", "warps", "target", "blocks"),
    [
        (32, 0, 4, "sm_80", 16),  # warps: 64 of them
        (64, 0, 8, "sm_80", 4),  # registers: 32 warps
        (65, 0, 8, "sm_80", 3),  # 72 registers a thread by the unit, 7 warps a part
        (255, 0, 8, "sm_90", 1),
        (16, 0, 1, "sm_90", 32),  # blocks
        (16, 0, 1, "sm_86", 16),
        (32, 98_304, 4, "sm_80", 1),  # shared memory: 97 KB of 164
        (32, 98_304, 4, "sm_90", 2),  # of 228
        (32, 49_152, 4, "sm_86", 2),  # 49 KB of 100
        (255, 0, 16, "sm_90", 0),
    ],
)
def test_occupancy(registers: int, shared: int, warps: int, target: str, blocks: int) -> None:
    assert blocks_per_sm(registers, shared, warps, Target.parse(target).device) == blocks


PTX = """
.visible .entry conv(
	.param .align 64 .b8 conv_param_0[128],
	.param .u32 conv_param_1,
	.param .u64 .ptr .global .align 1 conv_param_2,
	.param .f32 conv_param_3,
	.param .b64 conv_param_4
)
.reqntid 256
{
	.param .u32 of_a_call;
}
"""


def test_parameters_as_ptx_declares_them() -> None:
    assert ptx_layout(PTX) == [(128, 64), (4, 4), (8, 8), (4, 4), (8, 8)]
    expected = [(128, 64), (4, 4), (4, 4), (8, 8), (8, 8), (8, 8), (4, 4), (8, 8), (4, 4), (8, 8), (8, 8)]
    assert layout(sample().parameters) == expected  # a map with its shape and strides, ..., and two of Triton's


def test_blocks_need_a_copy_engine() -> None:
    x, weight = torch.empty(1, 16, 16, 64, dtype=torch.float16), torch.empty(64, 64, dtype=torch.float16)
    with targeting(SM_90):
        found = pointwise(x, weight, [torch.empty_like(x)], tile=Tile(64, 64, 64, box=(1, 1, 64))).variant
    maps = [{"block_size": [64, 64], "swizzle": 3, "elem_type": 10}] * 2  # Triton's bf16 is the driver's 9
    parameters = cubins._parameters(found, maps)
    assert parameters[:2] == (TensorMap((64, 64), 3, 9),) * 2 and "pointer" in parameters and "i32" in parameters
    assert cubins.takes(sample(parameters=parameters), found)
    assert not cubins.takes(sample(parameters=parameters[1:]), found)
    with pytest.raises(OptgraphError, match="which the target lacks"):
        cubins._parameters(found, None)


# ---- the JSON form


def test_json_and_back() -> None:
    data = json.loads(json.dumps(sample().to_json()))
    assert from_json(data, sample().code) == sample()


FLAWS = {
    "key": "../../etc/passwd",
    "kernel": 7,
    "target": "cpu",
    "entry": ["_pointwise"],
    "num_warps": 33,
    "shared_bytes": 1 << 20,
    "registers": True,
    "spill_bytes": -1,
    "mma": "yes",
    "wgmma": 1,
    "tma": None,
    "waits": 1,
    "parameters": ["fp64"],
    "code": b"#!/bin/sh",
    "more": 1,
}


@pytest.mark.parametrize("name", FLAWS)
def test_what_is_no_cubin(name: str) -> None:
    data = {**sample().to_json(), name: FLAWS[name]}
    code = data.pop("code", sample().code)
    with pytest.raises(ArtifactError, match="a cubin"):
        from_json(data, code)


PARAMETERS = {
    "none": None,
    "no list": 5,
    "a list in it": [[]],
    "a map of another form": [{"box": [64], "swizzle": 3}],
    "a map of six dimensions": [{"box": [1] * 6, "swizzle": 3, "element": 6}],
    "a map of text": [{"box": "64", "swizzle": 3, "element": 6}],
    "a map of a huge box": [{"box": [1 << 40], "swizzle": 3, "element": 6}],
    "a thousand": ["i64"] * 1000,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_that_are_none(name: str) -> None:
    with pytest.raises(ArtifactError, match="a cubin"):
        from_json({**sample().to_json(), "parameters": PARAMETERS[name]}, sample().code)
    with pytest.raises(ArtifactError, match="a cubin"):
        from_json(PARAMETERS[name], sample().code)


def test_the_cache_forgives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assert cubins.cached(sample().key) is None
    cubins.keep(sample())
    assert cubins.cached(sample().key) == sample()
    (file,) = tmp_path.rglob("*.safetensors")
    other = "f" * 64
    file.rename(file.with_stem(other))
    assert cubins.cached(other) is None  # it says that it is another
    file.write_bytes(b"half a fi")
    assert cubins.cached(sample().key) is None


# ---- what a network launches


def network(batch: int | str = BATCH) -> Graph:
    """Pointwise, separable, a 3×3 convolution with a residual, and a pool; 64 channels, 16×16."""
    b = Builder(channels=64, size=16)
    value = b.graph.values[b.x]
    b.graph.values[b.x] = replace(value, shape=(batch, *value.shape[1:]))
    x = b.act(b.conv(b.x, 64))
    x = b.conv(b.depthwise(x), 64)
    graph = b.done(b.pool(b.add(b.conv(x, 64, 3), x), mode="max", stride=2))
    pipeline.apply(graph, pipeline.FUSE)
    return graph


def test_uses_count_every_launch() -> None:
    graph = network()
    for target in (SM_80, SM_90):
        uses = find_uses(Plans(graph, "fp16"), [1, 3], [target])
        assert len({use.key for use in uses}) == len(uses) and {use.target for use in uses} == {target}
        for batch in (1, 3, 8, 64):  # as asked, and what tiles are planned for
            counted = {}
            for use in uses:
                counted[use.variant.kernel] = counted.get(use.variant.kernel, 0) + use.launches[batch]
            assert {k: n for k, n in counted.items() if n} == lower(graph, batch, "fp16", target).launches_by_kernel()
        assert max(use.blocks for use in uses) >= 64 * 16 * 16 // 128
    assert find_uses(Plans(graph, "fp16"), [1], []) == []


def test_no_batch_size_needs_another_kernel() -> None:
    graph = network()
    keys = {use.key for use in find_uses(Plans(graph, "fp16"), [1], [SM_90])}
    assert {use.key for use in find_uses(Plans(graph, "fp16"), [2, 3, 5, 16, 17, 32, 100, 128], [SM_90])} == keys


def test_a_fixed_batch_is_the_only_one() -> None:
    (use, *_) = find_uses(Plans(network(4), "fp16"), [4], [SM_90])
    assert list(use.launches) == [4]


def test_a_use_describes_itself() -> None:
    x, weight = torch.empty(1, 16, 16, 64, dtype=torch.float16), torch.empty(64, 64, dtype=torch.float16)
    with targeting(SM_90):
        plain = pointwise(x, weight, [torch.empty_like(x)], tile=Tile(64, 32, 16), after=Epilogue(act=RELU, residual=x))
        assert Use("", plain.variant, SM_90, {}, 1).description == "64×32×16, flat, relu, residual"
        odd = torch.empty(1, 16, 16, 63, dtype=torch.float16)
        narrow = pointwise(odd, weight[:63], [torch.empty_like(x)], tile=Tile(64, 32, 16))
        assert Use("", narrow.variant, SM_90, {}, 1).description == "64×32×16, flat, align_k 1"
        window, out = torch.empty(1, 3, 3, 64, 64, dtype=torch.float16), torch.empty_like(x)
        padded = Window((3, 3), pads=(1, 1, 1, 1))
        boxed = conv2d(x, window, out, window=padded, tile=Tile(64, 32, 64, box=(1, 8, 8)))
        assert Use("", boxed.variant, SM_90, {}, 1).description == "64×32×64, box 1×8×8, tma"


# ---- compiled


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Use], list[Cubin], list[float]]:
    """The kernels of `network`, by two cold processes."""
    shares: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        uses = [use for use in find_uses(Plans(network(), "fp16"), [1], [SM_90]) if use.launches[1]]
        uses += [use for use in find_uses(Plans(network(), "fp16"), [1], [SM_80]) if use.variant.kernel == "pool"]
        found = build(uses, lambda what, done: shares.append(done))
        patch.setattr(building.subprocess, "Popen", None)
        assert build(uses) == found  # by the cache alone
    return uses, found, shares


def test_kernels_are_compiled_without_a_gpu(built: tuple[list[Use], list[Cubin], list[float]]) -> None:
    uses, found, shares = built
    assert [(c.key, c.kernel, c.target) for c in found] == [(u.key, u.variant.kernel, str(u.target)) for u in uses]
    assert {c.kernel for c in found} == {"pointwise", "separable", "conv2d", "pool"}
    assert all(c.code.startswith(b"\x7fELF") and 0 < c.registers <= 255 and c.spill_bytes == 0 for c in found)
    assert len(shares) == len(uses) and max(shares) == 1.0
    for cubin, use in zip(found, uses, strict=True):
        assert cubin.num_warps == use.variant.num_warps and cubin.entry == use.variant.code.name
        assert len(cubin.parameters) == len(use.variant.parameters)
        assert cubin.tma == any(isinstance(p, TensorMap) for p in cubin.parameters)
    tensor_cores = {c.kernel: c.mma or c.wgmma for c in found}
    assert tensor_cores == {"pointwise": True, "separable": True, "conv2d": True, "pool": False}


def test_the_copy_engine_is_used(built: tuple[list[Use], list[Cubin], list[float]]) -> None:
    maps = [p for cubin in built[1] for p in cubin.parameters if isinstance(p, TensorMap)]
    assert maps and all(p.element == 6 for p in maps)  # CU_TENSOR_MAP_DATA_TYPE_FLOAT16
    assert any(c.wgmma for c in built[1])


def test_every_launch_finds_its_cubin(
    built: tuple[list[Use], list[Cubin], list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, cpu, cuda = network(), torch.device("cpu"), FakeCuda(monkeypatch)
    plan = lower(graph, 1, "fp16", SM_90)
    buffers = Buffers(plan, Weights(graph.constants, cpu), cpu)
    launches = [buffers.bind(call) for call in plan.calls]
    kernels = Kernels(GPU, built[1], cuda)
    for launch in with_workspaces(launches, plan.schedule.stream, cpu):
        kernels.bind(launch)()
    assert kernels.compiled == 0
    assert len(cuda.named("cuLaunchKernelEx")) == len(plan.calls)
    by_code = {cubin.code: cubin for cubin in built[1]}
    loaded = [by_code[code] for _, code in cuda.named("cuModuleLoadData")]
    assert {cubin.target for cubin in loaded} == {"sm_90"} and len(loaded) == len({cubin.key for cubin in loaded})


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [("read task; echo ValueError: no power of 2", "ValueError: no power of 2"), ("exit 1", "the compiler broke down")],
)
def test_what_does_not_compile(compiler: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "compiler"
    script.write_text(f"#!/bin/sh\n{compiler}\n")
    script.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    with pytest.raises(OptgraphError, match=f"kernel 'elementwise' does not compile for sm_90: {reason}"):
        build([Use("0" * 64, variant(), SM_90, {1: 1}, 1)] * 3)


def test_what_does_not_compile_is_replaced_where_there_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    special = Layer(SEPARABLE, next(specialised_samples()).typed("fp16")).dry(SM_90)
    with targeting(SM_90):
        x = torch.empty(1, 16, 16, 64, dtype=torch.float16)
        plain = pointwise(x, torch.empty(64, 64, dtype=torch.float16), [torch.empty_like(x)], tile=Tile(64, 64))
    monkeypatch.setattr(building, "dry_launches", lambda *_: [plain, special, None, special])
    fails = {"separable_specialised"}

    def failing(uses: list[Use], progress: building.Progress) -> list[Cubin]:
        for use in uses:
            if use.variant.code.name in fails:
                raise CompileError(use, "no such instruction")
        return pretended(uses)

    monkeypatch.setattr(building, "build", failing)
    uses, cubins = build_all([Plans(network(1), "fp16")], [1], [SM_90])
    assert [use.variant.code.name for use in uses] == ["pointwise", "separable"]
    assert [use.reason for use in uses] == ["", "no such instruction"]
    assert [dict(use.launches) for use in uses] == [{1: 1}, {1: 2}]
    assert [cubin.key for cubin in cubins] == [use.key for use in uses]
    fails.add("separable")
    with pytest.raises(OptgraphError, match="kernel 'separable' does not compile for sm_90: no such instruction"):
        build_all([Plans(network(1), "fp16")], [1], [SM_90])


def test_a_compiler_answers_a_line_a_task(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    done = []

    def obtain(found: Variant, target: Target) -> None:
        print("noise")
        done.append((found, target))
        if target == SM_80:
            raise ValueError("two\nlines")

    monkeypatch.setattr(cubins, "obtain", obtain)
    tasks = [json.dumps([cubins.variant_to_json(variant()), str(target)]) for target in (SM_90, SM_80)]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(tasks)))
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # `main` takes it over
    building.main()
    assert done == [(variant(), SM_90), (variant(), SM_80)]
    assert capsys.readouterr().out == "\nValueError: two lines\n"


def test_a_kernel_in_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    scripted = replace(variant(), code=Jit("__main__", "mine"))
    with pytest.raises(InputError, match="kernel 'mine' is not in a module"):
        build([Use("0" * 64, scripted, SM_90, {1: 1}, 1)])


def test_targets_need_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    def found_by_halves(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    for name, replaced in (("find_spec", lambda name: None), ("version", found_by_halves)):
        monkeypatch.setattr(building, name, replaced)
        building.parse_targets([])
        with pytest.raises(OptgraphError, match="compiling for sm_90 needs Triton"):
            building.parse_targets(["sm_90"])
        monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(OptgraphError, match="compiling for sm_90 needs Triton"):
        building.parse_targets(["sm_90"])


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is blamed, and no kernel; before any of them is compiled."""
    (tmp_path / "file").touch()
    use = Use("0" * 64, variant(), SM_90, {1: 1}, 1)
    monkeypatch.setattr(building, "_serve", lambda *_: pytest.fail("it compiles"))
    for folder in ("file", "file/below"):
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / folder))
        with pytest.raises(InputError, match=r"cannot be kept there: .*: set TRITON_CACHE_DIR to a folder that can"):
            build([use])

    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(InputError, match="cannot be kept there: No space left on device"):
        build([use])


def test_unknown_targets() -> None:
    building.parse_targets(["sm_80", "sm_86", "sm_89", "sm_90"])
    for name in ("sm_70", "sm_", "90", "", "SM_90", "sm_90a"):
        with pytest.raises(InputError, match=f"unknown target '{name}': use sm_80, sm_86, sm_89, sm_90"):
            building.parse_targets(["sm_90", name])


# ---- as users see it


def pretended(uses: list[Use], progress: building.Progress = building.silent) -> list[Cubin]:
    """`build`, but for the compiling."""
    return [sample(key=use.key, kernel=use.variant.kernel, target=str(use.target)) for use in uses]


def test_a_net_keeps_its_cubins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "build", pretended)
    made = optgraph.compile(classifier(), "torch", "fp16", targets=["sm_90", "sm_80"])
    assert {cubin.target for cubin in made.cubins} == {"sm_80", "sm_90"} and len(made.cubins) == len(made.uses)
    made.save(tmp_path / "m.optgraph")
    back = optgraph.load(tmp_path / "m.optgraph", "torch")
    assert (back.cubins, back.uses) == (made.cubins, ())
    assert optgraph.load(tmp_path / "m.optgraph", "torch", cubins=False).cubins == ()
    assert optgraph.compile(classifier(), "torch").cubins == ()


def test_strict_comes_before_the_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(uses: list[Use], progress: building.Progress) -> list[Cubin]:
        raise AssertionError

    monkeypatch.setattr(building, "build", never)
    with pytest.raises(optgraph.ModelError, match="no kernel"):
        optgraph.compile(classifier(op="Atan"), "torch", targets=["sm_90"], strict=True)


def test_the_table_of_variants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "build", pretended)
    command = ("compile", saved(tmp_path), "--dtype", "fp16", "--batch", "1,2", "--target", "sm_90,sm_90,sm_80")
    data = ok_json(*command)
    variants = data["variants"]
    fields = {"kernel", "target", "registers", "spills", "shared_bytes", "wgmma", "tma", "launches", "blocks_per_sm"}
    assert all(fields <= set(v) for v in variants)
    for target in ("sm_80", "sm_90"):
        assert sum(v["launches"]["1"] for v in variants if v["target"] == target) == data["launches"]
    first = next(v for v in variants if v["target"] == "sm_90")
    assert list(first["launches"]) == ["1", "2", "8", "64"]
    assert (first["registers"], first["shared_bytes"], first["wgmma"], first["tma"]) == (168, 98_304, True, True)
    assert first["blocks_per_sm"] == 1 and first["waves"] == round(first["blocks"] / 132, 2)  # by its registers
    out = ok(*command)
    count = sum(v["target"] == "sm_80" for v in variants)
    assert data["cubins"] == {"sm_90": len(variants) - count, "sm_80": count}
    assert f"{count} kernels for sm_80" in ok("inspect", tmp_path / "model.optgraph")
    assert "launches at 1/2/8/64" in out and "wgmma" in out and "none spills registers" in out
    monkeypatch.setattr(building, "build", lambda uses, progress: [replace(c, spill_bytes=4) for c in pretended(uses)])
    assert f"{len(variants)} of them spill registers" in ok(*command)
    line = variants_line([v | {"reason": "no such instruction"} for v in variants])
    assert line.endswith(f"{len(variants)} in the place of others that do not compile: no such instruction")
    assert "in the place" not in variants_line(variants)


def test_without_targets_there_is_no_table(tmp_path: Path) -> None:
    path = saved(tmp_path)
    assert ok_json("compile", path)["variants"] == []
    assert "registers" not in ok("compile", path)


@pytest.mark.parametrize("name", ["sm_70", "gpu", "sm_90,", "sm_90;sm_80"])
def test_a_bad_target_is_one_line(name: str, tmp_path: Path) -> None:
    result = call("compile", saved(tmp_path), "--target", name)
    assert result.exit_code == 2 and result.stderr.startswith("error: unknown target '")
    assert not (tmp_path / "model.optgraph").exists()
