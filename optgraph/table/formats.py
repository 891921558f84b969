"""A table as a file: CSV, which needs nothing, and Parquet, by pyarrow. Some rows are in memory at a time."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from optgraph.base.errors import InputError
from optgraph.table.columns import ERROR, PATH, Column, Columns
from optgraph.table.rows import Row, Rows, text

AT_ONCE = 1 << 24  # bytes of records: a row group of Parquet's, or what becomes lines of CSV
MOST_ROWS = 1 << 16
MOST_COLUMNS = 10_000  # of a CSV file: spreadsheets end at 16,384

Block = tuple[list[Row], np.ndarray]  # rows, and their records


def check_format(path: Path) -> None:
    """Raises InputError if the table cannot be written for want of a package."""
    if path.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
        raise InputError(f"{path}: Parquet needs pyarrow: pip install optgraph[parquet], or name a .csv file")


def check_columns(path: Path, columns: Columns) -> None:
    """Raises InputError for a CSV file of too many columns."""
    width = sum(int(np.prod(columns.record[column.field].shape)) for column in columns.shown)
    if path.suffix.lower() == ".csv" and width > MOST_COLUMNS:
        raise InputError(f"{path}: would have {width:,} columns, a number each: name a .parquet file")


def write(output: Path, columns: Columns, rows: Rows, about: Mapping[str, str]) -> Callable[[Path], None]:
    """What writes the table of `output`'s format to a path, down to the disk. about: what made it, for Parquet."""
    if output.suffix.lower() == ".csv":
        return lambda path: _write_csv(path, columns, rows)
    return lambda path: _write_parquet(path, columns, rows, about)


def _blocks(columns: Columns, rows: Rows) -> Iterator[Block]:
    empty = bytes(columns.record.itemsize)
    for some in rows.in_order(max(1, min(MOST_ROWS, AT_ONCE // columns.record.itemsize))):
        yield some, np.frombuffer(b"".join(record or empty for _, _, record in some), columns.record)


def _write_csv(path: Path, columns: Columns, rows: Rows) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(_Lines(file))
        header = [name for column in columns.shown for name in _numbered(column, columns)]
        lines.writerow([PATH, *header, ERROR])
        for some, records in _blocks(columns, rows):
            for (name, error, _), record in zip(some, records, strict=True):
                cells = [cell for each in columns.shown for cell in _cells(each, record)]
                lines.writerow([text(name), *([""] * len(cells) if error else cells), error])
        file.flush()
        os.fsync(file.fileno())


class _Lines:
    """A file that takes the csv module's lines and ends them by a line feed. Told of that ending, the module would not
    quote a carriage return, which ends a line for whoever reads it."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, line: str) -> None:
        self._file.write(line.removesuffix("\r\n") + "\n")


def _numbered(column: Column, columns: Columns) -> list[str]:
    """The columns of CSV that one is: of several numbers, one each, from 0."""
    size = int(np.prod(columns.record[column.field].shape))
    return [column.name] if size == 1 else [f"{column.name}_{i}" for i in range(size)]


def _cells(column: Column, record: np.void) -> list[str]:
    """Each number in as few digits as tell it from all others of its type."""
    value = record[column.field]
    return [column.labels[value]] if column.labels else [str(number) for number in np.ravel(value)]


def _write_parquet(path: Path, columns: Columns, rows: Rows, about: Mapping[str, str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [pa.field(PATH, pa.string(), nullable=False)]
    fields += [_field(column, columns.record[column.field]) for column in columns.shown]
    schema = pa.schema([*fields, pa.field(ERROR, pa.string())], metadata={"optgraph": json.dumps(dict(about))})
    with path.open("wb") as file:
        with pq.ParquetWriter(file, schema) as table:
            for some, records in _blocks(columns, rows):
                failed = np.array([bool(error) for _, error, _ in some])
                arrays = [pa.array([text(name) for name, _, _ in some])]
                arrays += [_array(column, records[column.field], failed) for column in columns.shown]
                arrays.append(pa.array([error or None for _, error, _ in some], pa.string()))
                table.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=MOST_ROWS)
        file.flush()
        os.fsync(file.fileno())


def _field(column: Column, dtype: np.dtype) -> Any:
    import pyarrow as pa

    if column.labels:
        return pa.field(column.name, pa.string())
    kind = pa.from_numpy_dtype(dtype.base)
    if not dtype.shape:
        return pa.field(column.name, kind)
    return pa.field(column.name, pa.list_(kind), metadata={"shape": json.dumps(dtype.shape)})


def _array(column: Column, numbers: np.ndarray, failed: np.ndarray) -> Any:
    import pyarrow as pa

    if column.labels:
        return pa.array([None if no else column.labels[i] for i, no in zip(numbers, failed, strict=True)], pa.string())
    if numbers.ndim == 1:
        return pa.array(np.ascontiguousarray(numbers), mask=failed)
    flat = np.ascontiguousarray(numbers).reshape(len(numbers), -1)
    ends = np.concatenate([[0], np.cumsum(np.where(failed, 0, flat.shape[1]))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(flat[~failed].ravel()), mask=pa.array(failed))
