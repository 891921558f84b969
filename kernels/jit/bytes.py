# mypy: disable-error-code="no-untyped-def,untyped-decorator,assignment"
"""Sums of products of int8 outside tensor cores: four at once, exact in int32.

A byte by itself is taken out of its register before it is multiplied, which takes as long as the product. Four bytes of
a channel in one register are multiplied and added in one instruction (dp4a); and to put them there, of four registers
with four channels each, takes eight.
"""

from __future__ import annotations

import triton
import triton.language as tl

from optgraph.kernels.jit.grid import interpreted

# Of four channels, whose bytes are in $4, $5, $6 and $7: $0 gets those of the first channel, and so on.
_FOUR = tl.constexpr("""{
.reg .b32 %a0, %a1, %b0, %b1;
prmt.b32 %a0, $4, $5, 0x5140;
prmt.b32 %a1, $4, $5, 0x7362;
prmt.b32 %b0, $6, $7, 0x5140;
prmt.b32 %b1, $6, $7, 0x7362;
prmt.b32 $0, %a0, %b0, 0x5410;
prmt.b32 $1, %a0, %b0, 0x7632;
prmt.b32 $2, %a1, %b1, 0x5410;
prmt.b32 $3, %a1, %b1, 0x7632;
}""")
_THREE = tl.constexpr("""{
.reg .b32 %a0, %a1;
prmt.b32 %a0, $4, $5, 0x5140;
prmt.b32 %a1, $4, $5, 0x7362;
prmt.b32 $0, %a0, $6, 0x4410;
prmt.b32 $1, %a0, $6, 0x5532;
prmt.b32 $2, %a1, $6, 0x6610;
prmt.b32 $3, %a1, $6, 0x7732;
}""")
_WORDS = tl.constexpr("=&r,=&r,=&r,=&r")


@triton.jit
def joined(a, b, c, d):
    """Blocks of int8 as one of int32, whose bytes they are, `a` the lowest."""
    if interpreted():
        return joined_three(a, b, c) | (d.to(tl.int32) << 24)
    return tl.inline_asm_elementwise(_FOUR, _WORDS + ",r,r,r,r", [a, b, c, d], tl.int32, is_pure=True, pack=4)


@triton.jit
def joined_three(a, b, c):
    """The same of three; the highest byte is any."""
    if interpreted():
        return (a.to(tl.int32) & 255) | ((b.to(tl.int32) & 255) << 8) | ((c.to(tl.int32) & 255) << 16)
    return tl.inline_asm_elementwise(_THREE, _WORDS + ",r,r,r", [a, b, c], tl.int32, is_pure=True, pack=4)


@triton.jit
def dotted(words, others, sums):
    """sums + the products of the four bytes of `words` with those of `others`."""
    if interpreted():
        for k in tl.static_range(4):
            sums += ((words << (24 - 8 * k)) >> 24) * ((others << (24 - 8 * k)) >> 24)
        return sums
    dot: tl.constexpr = "dp4a.s32.s32 $0, $1, $2, $3;"
    return tl.inline_asm_elementwise(dot, "=r,r,r,r", [words, others, sums], tl.int32, is_pure=True, pack=1)


@triton.jit
def words(blocks, FIRST: tl.constexpr, COUNT: tl.constexpr, rest, ANY: tl.constexpr):
    """COUNT of the blocks of int8, from FIRST on, as blocks of words of four. What the last lacks is `rest`; or, of its
    highest byte, ANY."""
    found = ()
    for k in tl.static_range(0, COUNT, 4):
        a = blocks[FIRST + k]
        b = blocks[FIRST + k + 1] if k + 1 < COUNT else rest
        c = blocks[FIRST + k + 2] if k + 2 < COUNT else rest
        if ANY and k + 3 >= COUNT:
            found += (joined_three(a, b, c),)
        else:
            found += (joined(a, b, c, blocks[FIRST + k + 3] if k + 3 < COUNT else rest),)
    return found
