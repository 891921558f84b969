"""What a row of a table has of a network's answer: the best classes of scores of classes, else all numbers.

A row is a numpy record, so that it is kept as bytes and comes back as it was. The names of classes are not in it: they
are looked up when the table is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import ml_dtypes
import numpy as np

from optgraph.base.errors import InputError
from optgraph.pictures.labels import classes
from optgraph.pictures.scores import LOGIT, best, kind_of_scores, softmax

PATH, ERROR = "path", "error"  # the columns around those of the answers
NOT_FINITE = "the network answered with numbers that are not finite"


class Column(NamedTuple):
    """A column that is written: of the numbers in a field of the rows, or of the names they are the places of."""

    name: str
    field: str
    labels: tuple[str, ...] = ()


class _Best(NamedTuple):
    """The best classes of an output."""

    output: str
    prefix: str
    kind: str
    top: int
    dtype: np.dtype
    labels: tuple[str, ...]

    def fields(self) -> list[tuple[str, np.dtype]]:
        several = [(self.kind, self.dtype)] + ([("softmax", np.dtype(np.float32))] if self.kind == LOGIT else [])
        kinds = [("class", np.dtype(np.int32)), *several]
        return [(self._named(name, i), dtype) for i in range(self.top) for name, dtype in kinds]

    def columns(self) -> list[Column]:
        found = []
        for name, _ in self.fields():
            found.append(Column(name, name))
            if self.labels and name.startswith(f"{self.prefix}class_"):
                found.append(Column(name.replace("class_", "name_"), name, self.labels))
        return found

    def fill(self, rows: np.ndarray, answer: np.ndarray) -> np.ndarray:
        """Puts the answers into their fields; returns which of them are finite."""
        scores = answer.reshape(len(answer), -1)
        order = best(scores, self.top)
        taken = np.take_along_axis(scores, order, 1)
        with np.errstate(invalid="ignore"):
            shares = np.take_along_axis(softmax(scores), order, 1) if self.kind == LOGIT else None
        for i in range(self.top):
            rows[self._named("class", i)] = order[:, i]
            rows[self._named(self.kind, i)] = taken[:, i]
            if shares is not None:
                rows[self._named("softmax", i)] = shares[:, i]
        finite: np.ndarray = np.isfinite(scores).all(1)
        return finite

    def _named(self, what: str, i: int) -> str:
        return f"{self.prefix}{what.replace('-', '_')}_{i + 1}"


class _Numbers(NamedTuple):
    """All numbers of an output."""

    output: str
    field: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def fields(self) -> list[tuple[str, np.dtype, tuple[int, ...]]]:
        return [(self.field, self.dtype, self.shape)]

    def columns(self) -> list[Column]:
        return [Column(self.field, self.field)]

    def fill(self, rows: np.ndarray, answer: np.ndarray) -> np.ndarray:
        rows[self.field] = answer.reshape(-1, *self.shape)
        return np.ones(len(answer), bool)  # whoever asks for the numbers sees which are none


class Columns:
    """The columns of a table.

    Attributes:
        record: the numpy type of a row's answers.
        shown: the columns to write, between `path` and `error`.
    """

    def __init__(
        self, answers: Mapping[str, np.ndarray], labels: Sequence[str] = (), top: int = 5, raw: bool = False
    ) -> None:
        """answers: of some batch, which tells shapes, types and the kind of scores. raw: all numbers, of classes too.

        Raises InputError for an answer that has no numbers.
        """
        self._parts: list[_Best | _Numbers] = []
        for name, given in answers.items():
            array = _plain(given)
            number = classes(array.shape) if array.dtype.kind == "f" and not raw else None
            if array.dtype.kind not in "fiub" or not array[0].size:
                raise InputError(f"output '{name}' is {array.dtype} {list(array.shape)}: a table is of numbers")
            if number:
                prefix = f"{name}_" if len(answers) > 1 else ""
                kind = kind_of_scores(array.reshape(len(array), -1))
                fitting = tuple(labels) if len(labels) == number else ()
                self._parts.append(_Best(name, prefix, kind, min(top, number), array.dtype, fitting))
            else:
                self._parts.append(_Numbers(name, f"{name}_" if name in (PATH, ERROR) else name, *_cell(array)))
        fields = [field for part in self._parts for field in part.fields()]
        names = [field[0] for field in fields]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"two outputs make a column '{twice}': cut the model at one of them (--cut)")
        self.record = np.dtype(fields)
        self.shown = tuple(column for part in self._parts for column in part.columns())

    def rows(self, answers: Mapping[str, np.ndarray], number: int) -> tuple[np.ndarray, list[str]]:
        """The first `number` rows of a batch, and of each what is wrong with its answer, or ''."""
        rows = np.zeros(number, self.record)
        finite = np.ones(number, bool)
        for part in self._parts:
            finite &= part.fill(rows, _plain(answers[part.output])[:number])
        return rows, ["" if fine else NOT_FINITE for fine in finite]


def _plain(array: np.ndarray) -> np.ndarray:
    """bfloat16, which neither CSV nor Parquet has, as float32: the same numbers."""
    return array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array


def _cell(array: np.ndarray) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of what a row has of an output; a number by itself is no list."""
    return array.shape[1:] if array[0].size > 1 else (), array.dtype
