# mypy: disable-error-code="no-untyped-def,untyped-decorator,assignment"
"""Blocks of a program that computes several rows of an output: one a row, in a tuple."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def repeated(block, ROWS: tl.constexpr):
    """`block` for each row."""
    blocks = ()
    for _ in tl.static_range(ROWS):
        blocks += (block,)
    return blocks


@triton.jit
def replaced(blocks, row: tl.constexpr, block):
    """`blocks`, but for that of a row."""
    return blocks[:row] + (block,) + blocks[row + 1 :]  # noqa: RUF005 (Triton unpacks no tuple inside another)
