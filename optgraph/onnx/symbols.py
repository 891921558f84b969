"""Arithmetic on dimensions of which some are the batch, or a multiple of it: 'N', '9*N'.

A number is an int, or a numpy scalar of a float type where a size was cast to one. What comes out is exact for any
batch of at least 1, or UnknownError.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from optgraph.ir.values import batches, per_image


class UnknownError(Exception):
    """An operand or a combination whose value is not known at import."""


def is_symbol(d: Any) -> bool:
    return isinstance(d, str)


def multiply(a: Any, b: Any) -> Any:
    if not is_symbol(a) and not is_symbol(b):
        return a * b
    if is_symbol(a) and is_symbol(b):
        raise UnknownError
    symbol, number = (a, b) if is_symbol(a) else (b, a)
    return symbol if number == 1 else _times(_factor(symbol) * number)


def add(a: Any, b: Any) -> Any:
    if not is_symbol(a) and not is_symbol(b):
        return a + b
    if is_symbol(a) and is_symbol(b):
        return _times(_factor(a) + _factor(b))
    return _neutral(a, b, 0)


def subtract(a: Any, b: Any) -> Any:
    if not is_symbol(a) and not is_symbol(b):
        return a - b
    if is_symbol(a) and is_symbol(b):
        return _times(_factor(a) - _factor(b)) if a != b else 0
    if is_symbol(b):
        raise UnknownError
    return _neutral(a, b, 0)


def divide(a: Any, b: Any) -> Any:
    """ONNX division: of integers, it truncates."""
    if is_symbol(a) and is_symbol(b):
        return 1 if a == b else _quotient(_factor(a), _factor(b))
    if is_symbol(b) or b == 0:
        raise UnknownError
    if is_symbol(a):
        return a if b == 1 else _times(_quotient(_factor(a), b))
    if isinstance(a, np.floating):
        return a / b
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


def largest(a: Any, b: Any) -> Any:
    if is_symbol(a) == is_symbol(b):
        if a != b and is_symbol(a):
            return a if _factor(a) > _factor(b) else b
        return max(a, b)
    if not is_symbol(b) and b <= _least(a):
        return a
    if not is_symbol(a) and a <= _least(b):
        return b
    raise UnknownError


def smallest(a: Any, b: Any) -> Any:
    if is_symbol(a) == is_symbol(b):
        if a != b and is_symbol(a):
            return a if _factor(a) < _factor(b) else b
        return min(a, b)
    if not is_symbol(b) and b <= _least(a):
        return b
    if not is_symbol(a) and a <= _least(b):
        return a
    raise UnknownError


def equal(a: Any, b: Any) -> bool:
    if is_symbol(a) == is_symbol(b):
        if a != b and is_symbol(a) and None in (per_image(a), per_image(b)):
            raise UnknownError
        return bool(a == b)
    symbol, number = (a, b) if is_symbol(a) else (b, a)
    factor = per_image(symbol)
    if number < _least(symbol) or (factor and number % factor):
        return False
    raise UnknownError


def less(a: Any, b: Any) -> bool:
    if is_symbol(a) and is_symbol(b):
        return a != b and _factor(a) < _factor(b)
    if is_symbol(a):
        if b <= _least(a):
            return False
        raise UnknownError
    if is_symbol(b):
        if a < _least(b):
            return True
        raise UnknownError
    return bool(a < b)


def _least(symbol: Any) -> int:
    """A batch is at least 1; of what only data tells, it is known that it is no less than 0."""
    return per_image(symbol) or 0


def _factor(symbol: str) -> int:
    factor = per_image(symbol)
    if factor is None:
        raise UnknownError
    return factor


def _times(factor: Any) -> Any:
    """The batch times a whole number, which may be a float's."""
    if factor < 0 or factor != int(factor):
        raise UnknownError
    return batches(int(factor))


def _quotient(a: int, b: Any) -> Any:
    """a / b where that is whole. Where it is not, it matters whether it is truncated."""
    if b < 0 or a % b:
        raise UnknownError
    return a // b


def _neutral(a: Any, b: Any, unit: int) -> Any:
    if not is_symbol(b) and b == unit:
        return a
    if not is_symbol(a) and a == unit:
        return b
    raise UnknownError
