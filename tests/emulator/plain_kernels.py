# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Plain Triton kernels to try the emulator on. Imported by the process that compiles them only."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def add(x, y, out, n, BLOCK: tl.constexpr):
    """4 divides n, so that loads are wide."""
    n = n // 4 * 4
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, i < n) + tl.load(y + i, i < n), i < n)


@triton.jit
def integers(x, out, BLOCK: tl.constexpr):
    """Division, remainder, shift and xor of signed numbers; the most and the least of all."""
    lane = tl.arange(0, BLOCK)
    i = tl.load(x + lane).to(tl.int32)
    signed = lane - 64
    tl.store(out + lane, signed // 7 + signed % 5 + (i >> 3) + (i ^ signed) + tl.max(signed % 37) * tl.min(i))


@triton.jit
def compared(x, y, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a, b = tl.load(x + i), tl.load(y + i)
    tl.store(out + i, (a == b).to(tl.int32) + 2 * (a < b).to(tl.int32) + 4 * (a != b).to(tl.int32))


@triton.jit
def matmul(a, b, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PREC: tl.constexpr):
    """c = a @ b, row by row; 8 divides N and K."""
    N, K = N // 8 * 8, K // 8 * 8  # noqa: N806
    m, n, k = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN), tl.arange(0, BK)
    acc = tl.zeros((BM, BN), tl.float32)
    for i in range(tl.cdiv(K, BK)):
        rest = K - i * BK
        x = tl.load(a + m[:, None] * K + k[None, :] + i * BK, (m[:, None] < M) & (k[None, :] < rest), other=0.0)
        y = tl.load(b + (k[:, None] + i * BK) * N + n[None, :], (k[:, None] < rest) & (n[None, :] < N), other=0.0)
        acc = tl.dot(x, y, acc, input_precision=PREC)
    tl.store(c + m[:, None] * N + n[None, :], acc.to(c.dtype.element_ty), (m[:, None] < M) & (n[None, :] < N))


@triton.jit
def matmul_integers(a, b, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """c = a @ b^T of int8, in int32, plus what c has; 8 divides N and K."""
    N, K = N // 8 * 8, K // 8 * 8  # noqa: N806
    m, n, k = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN), tl.arange(0, BK)
    place, inside = c + m[:, None] * N + n[None, :], (m[:, None] < M) & (n[None, :] < N)
    acc = tl.load(place, inside, other=0)
    for i in range(tl.cdiv(K, BK)):
        rest = K - i * BK
        x = tl.load(a + m[:, None] * K + k[None, :] + i * BK, (m[:, None] < M) & (k[None, :] < rest), other=0)
        y = tl.load(b + n[:, None] * K + k[None, :] + i * BK, (n[:, None] < N) & (k[None, :] < rest), other=0)
        acc = tl.dot(x, y.T, acc, out_dtype=tl.int32)
    tl.store(place, acc, inside)


@triton.jit
def matmul_tma(a, b, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PREC: tl.constexpr):
    """The same with operands that the copy engine fetches."""
    N = N // 8 * 8  # noqa: N806
    row, column = tl.program_id(0) * BM, tl.program_id(1) * BN
    acc = tl.zeros((BM, BN), tl.float32)
    for i in range(tl.cdiv(K, BK)):
        acc = tl.dot(a.load([row, i * BK]), b.load([i * BK, column]), acc, input_precision=PREC)
    m, n = row + tl.arange(0, BM), column + tl.arange(0, BN)
    tl.store(c + m[:, None] * N + n[None, :], acc.to(c.dtype.element_ty), (m[:, None] < M) & (n[None, :] < N))
