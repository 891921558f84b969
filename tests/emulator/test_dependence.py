"""From sm_90 on every kernel waits for earlier launches before it touches memory, whichever way it goes: by its PTX."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from optgraph.base.devices import SM_80, SM_90
from optgraph.kernels.dense import DENSE
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import targeting
from optgraph.kernels.frame.variant import Variant
from tests.emulator.compiler import CompileError, compile_all
from tests.emulator.machine import Machine
from tests.emulator.ptx import Program, Symbol, parse
from tests.emulator.test_kernels import chosen
from tests.support.kernel_checks import KERNELS

_MEMORY = {"ld", "st", "atom", "red", "cp"}


def before_wait(program: Program) -> list[str]:
    """What may be executed before a wait and is not to be: accesses of global memory, and ends. What
    is fetched ahead is no activation, as the emulator sees when it runs them."""
    found, seen, ahead = [], set(), [0]
    while ahead:
        at = ahead.pop()
        if at in seen:
            continue
        seen.add(at)
        i = program.code[at]
        if i.name == "griddepcontrol" and i.modifiers == ("wait",) and i.guard is None:
            continue
        if i.name in ("ret", "exit") or (
            i.name in _MEMORY and "global" in i.modifiers and "prefetch" not in i.modifiers
        ):
            found.append(i.text)
        if i.name == "bra":
            (label,) = i.operands
            assert isinstance(label, Symbol)
            ahead.append(program.labels[label.name])
        if i.name not in ("ret", "exit", "bra") or i.guard is not None:
            ahead.append(at + 1)
    return found


def variants(kernel: Kernel) -> list[Variant]:
    launches = [layer.dry(SM_90) for layer in chosen(kernel, SM_90)]
    # In Gluon each warp waits by itself where it must, or for pixels alone: `test_specialised.py` has what they touch.
    return [launch.variant for launch in launches if launch.otherwise is None]


@pytest.fixture(scope="module")
def compiled() -> None:
    """All kernels, by one process. One that does not compile must not hide the others."""
    with suppress(CompileError):
        compile_all((variant, SM_90) for kernel in KERNELS for variant in variants(kernel))


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.usefixtures("compiled")
def test_every_kernel_waits_first(kernel: Kernel) -> None:
    found = variants(kernel)
    for variant, cubin in zip(found, compile_all((variant, SM_90) for variant in found), strict=True):
        early = before_wait(parse(cubin.code.decode()))
        if dict(variant.constants).get("INTEGERS"):  # whose sums begin with a weight, which no launch writes
            early = [text for text in early if not re.search(r"\bld\.global\b", text)]
        assert early == []
        assert cubin.waits and cubin.code.count(b"griddepcontrol.launch_dependents;") == 1


def test_nothing_waits_before_sm_90() -> None:
    for cubin in compile_all((layer.dry(SM_80).variant, SM_80) for layer in chosen(KERNELS[0], SM_80)):
        assert not cubin.waits and b"griddepcontrol" not in cubin.code


CODE = """.version 8.7
.target sm_90a
.visible .entry kernel(.param .u64 .ptr .global .align 1 kernel_param_0)
.reqntid 128
{{
	.reg .pred %p<2>; .reg .b32 %r<9>; .reg .b64 %rd<3>;
	ld.param.b64 %rd1, [kernel_param_0];
{}
	ld.global.b32 %r1, [%rd1];
	ret;
}}
"""
WAIT = "griddepcontrol.wait;"


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (WAIT, []),
        ("@%p1 bra $L1; $L1: " + WAIT, []),
        ("", ["ld.global.b32 %r1, [%rd1]", "ret"]),
        ("@%p1 " + WAIT, ["ld.global.b32 %r1, [%rd1]", "ret"]),
        ("st.global.b32 [%rd1], %r2; " + WAIT, ["st.global.b32 [%rd1], %r2"]),
        ("cp.async.cg.shared.global [%r1], [%rd1], 16; " + WAIT, ["cp.async.cg.shared.global [%r1], [%rd1], 16"]),
        ("@%p1 ret; " + WAIT, ["@%p1 ret"]),
        ("@%p1 bra $L1; " + WAIT + " $L1:", ["ld.global.b32 %r1, [%rd1]", "ret"]),
    ],
)
def test_what_comes_before_a_wait_is_found(lines: str, found: list[str]) -> None:
    assert sorted(before_wait(parse(CODE.format(lines)))) == sorted(found)


def test_a_program_far_behind_the_last_share_fetches_nothing() -> None:
    """In a grid so large that its share would begin more than 2^31 bytes behind the weight."""
    layer = next(iter(chosen(DENSE, SM_90)))
    with targeting(SM_90):
        launch = layer.operands(torch.device("cpu")).launch()
    (cubin,) = compile_all([(launch.variant, SM_90)])
    code, found = re.subn(rb"%ctaid\.x;", b"131070;", cubin.code)
    assert found and b"bulk.prefetch" in code
    Machine(SM_90, [replace(cubin, code=code)]).bind(launch)()
