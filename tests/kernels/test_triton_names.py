"""Kernels use of Triton's language what its oldest version has that the package takes: 3.6, as pyproject.toml says.

Tests run with a newer one, which compiles more. A name that is not listed here is to be looked up in Triton 3.6, by
installing that or in its source, before it is added.
"""

from __future__ import annotations

import ast

import pytest

from tests.support.paths import ROOT

# All of these are attributes of triton.language in 3.6.0; those of Gluon's language and its modules have that before.
IN_3_6 = {
    *(
        "PropagateNan",
        "PropagateNan.ALL",
        "abs",
        "arange",
        "atomic_add",
        "cdiv",
        "ceil",
        "constexpr",
        "core",
        "core.to_tensor",
        "cos",
    ),
    *("gdc_launch_dependents", "gdc_wait"),  # of triton.language.extra.cuda
    *("debug_barrier", "dot", "erf", "exp", "exp2", "float16", "float32", "floor", "full", "inline_asm_elementwise"),
    *("broadcast_to", "div_rn", "fma", "int8", "int16", "int32", "uint16"),
    *("int64", "load", "log", "log2", "max", "maximum", "min", "minimum", "num_programs", "pointer_type", "program_id"),
    *("gl.BlockedLayout", "gl.NVMMADistributedLayout", "gl.NVMMASharedLayout", "gl.NVMMASharedLayout.get_default_for"),
    *("gl.SliceLayout", "gl.allocate_shared_memory", "gl.arange", "gl.cdiv", "gl.constexpr", "gl.convert_layout"),
    *("gl.float16", "gl.float32", "gl.full", "gl.int64", "gl.load", "gl.num_warps", "gl.program_id", "gl.static_range"),
    *(
        "gl.warp_specialize",
        "gl.where",
        "mbarrier.MBarrierLayout",
        "mbarrier.arrive",
        "mbarrier.expect",
        "mbarrier.init",
    ),
    *("gl.DistributedLinearLayout", "gl.SwizzledSharedLayout", "gl.atomic_add", "gl.int8", "gl.int32", "gl.maximum"),
    *("gl.minimum", "gl.num_programs", "gl.pointer_type", "gl.store", "gl.inline_asm_elementwise"),
    *("async_copy", "mbarrier.invalidate"),
    *("mbarrier.wait", "tma.async_copy_global_to_shared", "fence_async_shared", "mbarrier", "tma", "warpgroup_mma"),
    *("warpgroup_mma_wait", "language"),  # of triton.experimental.gluon
    *("range", "sin", "sqrt_rn", "static_range", "store", "sum", "uint32", "where", "zeros", "zeros_like"),
}
FILES = sorted((ROOT / "kernels" / "jit").glob("*.py"))


def used(source: str) -> set[str]:
    """The names, with their dots, that a file takes from `tl` and from Gluon, and what it imports from there."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            if text.startswith(("tl.", "gl.", "mbarrier.", "tma.")) and text.replace(".", "").isidentifier():
                found.add(text.removeprefix("tl."))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            ("triton.language", "triton.experimental.")
        ):
            found.update(alias.name for alias in node.names)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_kernel_needs_a_newer_triton(path) -> None:
    stray = used(path.read_text()) - IN_3_6
    assert not stray, f"{path.name} uses {sorted(stray)}: does Triton 3.6 have it?"


def test_what_only_a_newer_triton_exports_is_found() -> None:
    assert used("if tl.to_tensor(a).dtype.is_ptr():\n    tl.core.to_tensor(a)") - IN_3_6 == {"to_tensor"}
