# mypy: disable-error-code="no-untyped-def,untyped-decorator,assignment"
"""int8 outside tensor cores: several values an instruction, all exact.

Sums of products: a byte by itself is taken out of its register before it is multiplied, which takes as long as the
product. Four bytes of a channel in one register are multiplied and added in one instruction (dp4a); and to put them
there, of four registers with four channels each, takes eight.

Maxima and sums: two values share a register, 16 bits each. For a maximum a byte is the upper half of its 16 bits, with
any below: of two such numbers the larger has the larger byte. So a register of four bytes is two of them as it is, and
the other two when it is shifted. For a sum it is raised by 128: numbers without a sign are added a register at a time,
for nothing is carried from one to the other.
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
_RAISED = tl.constexpr("shl.b32 $0, $2, 8; mov.b32 $1, $2;")
_LOWERED = tl.constexpr("prmt.b32 $0, $1, $2, 0x7351;")
_WIDENED = tl.constexpr("""{
.reg .b32 %all;
xor.b32 %all, $2, 0x80808080;
prmt.b32 $0, %all, 0, 0x4140;
prmt.b32 $1, %all, 0, 0x4342;
}""")
_NUMBERS = tl.constexpr("prmt.b32 $0, $2, 0x4b000000, 0x7410; prmt.b32 $1, $2, 0x4b000000, 0x7432;")


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


@triton.jit
def raised(x):
    """A block of int8 as one of int16 whose upper halves are these bytes, in an order of its own; see `lowered`."""
    if interpreted():
        return x.to(tl.int16) << 8
    return tl.inline_asm_elementwise(_RAISED, "=&r,=r,r", [x], tl.int16, is_pure=True, pack=4)


@triton.jit
def larger(x, y, PAIRS: tl.constexpr):
    """The maximum of what `raised` gave. PAIRS: the target has an instruction for two of them."""
    if interpreted() or not PAIRS:
        return tl.maximum(x, y)
    return tl.inline_asm_elementwise("max.s16x2 $0, $1, $2;", "=r,r,r", [x, y], tl.int16, is_pure=True, pack=2)


@triton.jit
def lowered(x):
    """The upper halves of what `raised` gave, or of maxima of it."""
    if interpreted():
        return (x >> 8).to(tl.int8)
    return tl.inline_asm_elementwise(_LOWERED, "=r,r,r", [x], tl.int8, is_pure=True, pack=4)


@triton.jit
def widened(x):
    """128 more than a block of int8, as one of int16."""
    if interpreted():
        return x.to(tl.int16) + 128
    return tl.inline_asm_elementwise(_WIDENED, "=&r,=r,r", [x], tl.int16, is_pure=True, pack=4)


@triton.jit
def total(x, y):
    """x + y of int16 without a sign, which is to hold the sum."""
    if interpreted():
        return x + y
    return tl.inline_asm_elementwise("add.s32 $0, $1, $2;", "=r,r,r", [x, y], tl.int16, is_pure=True, pack=2)


@triton.jit
def numbers(x):
    """2^23 + x in float32, of int16 without a sign."""
    if interpreted():
        return x.to(tl.uint16, bitcast=True).to(tl.float32) + 8388608.0
    return tl.inline_asm_elementwise(_NUMBERS, "=&r,=r,r", [x], tl.float32, is_pure=True, pack=2)
