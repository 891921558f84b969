"""Fills the rows of a table: pictures are found and decoded while the network runs on those before them.

Every batch is of the same size, the last filled up with its last picture: so a row is the same however often a run was
interrupted, and a GPU compiles and records for one size.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from optgraph.api.net import Net
from optgraph.base.errors import InputError
from optgraph.base.progress import Counted
from optgraph.compare.oracle import COUPLED, distance
from optgraph.ir.values import BATCH, Value
from optgraph.pictures.decode import Picture, quiet
from optgraph.pictures.preprocess import picture_input, picture_shape
from optgraph.table.columns import Columns
from optgraph.table.decoding import Decoded, decoded_ahead
from optgraph.table.found import Entry
from optgraph.table.rows import Made, Rows

AHEAD = 2  # batches that are decoded at most before they run
MOST_WORKERS = 16  # threads that decode


class Runner:
    """A network of one input that takes pictures, run on batches of the size `batch`."""

    def __init__(self, net: Net, batch: int | None, default: int) -> None:
        """batch: how many at a time, if anybody said. default: where nobody did, and the network leaves it open.

        Raises InputError for a network of other inputs, of outputs that are not one for each picture, or of another
        batch.
        """
        name = picture_input(net.inputs)
        if name is None or len(net.inputs) > 1:
            raise InputError(f"a table is of a network of one input, of pictures, and this has {_listed(net.inputs)}")
        if net.preprocessing is None:
            raise InputError("nothing says how pictures are made ready for the network: give --preprocess")
        self.net, self.input, self.preprocess = net, net.inputs[name], net.preprocessing
        fixed = self.input.shape[0]
        if isinstance(fixed, int) and batch not in (None, fixed):
            raise InputError(f"--batch {batch}: input '{name}' takes {fixed} at a time")
        self.batch = fixed if isinstance(fixed, int) else batch or default
        for output, value in net.outputs.items():
            if not value.shape or value.shape[0] not in (BATCH, fixed):
                raise InputError(f"output '{output}' {list(value.shape)} is not one for each picture: see --cut")

    def read(self, path: Path) -> np.ndarray:
        """A picture as a batch of one. Raises InputError if it cannot be read."""
        return self.preprocess(path, self.input)

    def example(self) -> Mapping[str, np.ndarray]:
        """The answers to a picture of noise, always the same: they tell types, shapes and kinds of scores.

        Raises InputError if they depend on the pictures that run with it, which others do after an interruption.
        """
        noise, other = self._noise(0), self._noise(1)
        alone = self([noise])
        for name, beside in (self([noise, other]) if self.batch > 1 else alone).items():
            mine, its = (
                np.nan_to_num(np.asarray(y[:1], np.float64), posinf=0, neginf=0) for y in (alone[name], beside)
            )
            if not distance(its, mine)[0] <= COUPLED:
                remedy = ": give --batch 1" if self.input.shape[0] == BATCH else ""
                raise InputError(f"what output '{name}' says of a picture depends on the others of its batch{remedy}")
        return alone

    def _noise(self, seed: int) -> np.ndarray:
        height, width, _ = picture_shape(self.input)
        noise = np.random.default_rng(seed).integers(0, 256, (2 * height, 2 * width, 3), np.uint8)
        return self.preprocess(Picture(Image.fromarray(noise)), self.input)

    def __call__(self, pictures: list[np.ndarray]) -> Mapping[str, np.ndarray]:
        """The answers to so many pictures, `batch` at most, and to what fills the batch up."""
        filled = pictures + pictures[-1:] * (self.batch - len(pictures))
        found: Any = self.net(np.concatenate(filled))
        return found if isinstance(found, Mapping) else {next(iter(self.net.outputs)): found}


def workers() -> int:
    """How many threads decode: one for each core that this process may use."""
    return min(MOST_WORKERS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def fill(
    runner: Runner,
    columns: Columns,
    rows: Rows,
    entries: Callable[[], Iterable[Entry]],
    tell: Counted,
    threads: int | None = None,
) -> int:
    """Adds the rows of all pictures that have none, and returns how many that were. What is made is kept, whatever
    happens.

    entries: the pictures, to be counted first and then read. threads: that decode; 0 for none of their own.
    """
    missing = sum(not rows.has(entry) for entry in entries())
    kept, made, failed = rows.count(), 0, 0
    tell(kept, kept + missing, failed)
    todo = (entry for entry in entries() if not rows.has(entry))
    decoding = decoded_ahead(todo, runner.read, workers() if threads is None else threads, AHEAD * runner.batch)
    with quiet(), closing(decoding) as found:
        for some in _answered(runner, columns, found):
            rows.add(some)
            made += len(some)
            failed += sum(bool(row.error) for row in some)
            tell(kept + made, kept + missing, failed)
    return made


def _answered(runner: Runner, columns: Columns, found: Iterable[tuple[Entry, Decoded]]) -> Iterator[list[Made]]:
    """The rows of pictures, a batch at a time, and of those that cannot be read."""
    waiting: list[tuple[Entry, np.ndarray]] = []
    for entry, picture in found:
        if isinstance(picture, str):
            yield [Made(entry, picture)]
            continue
        waiting.append((entry, picture))
        if len(waiting) == runner.batch:
            yield _batch(runner, columns, waiting)
            waiting = []
    if waiting:
        yield _batch(runner, columns, waiting)


def _batch(runner: Runner, columns: Columns, waiting: Sequence[tuple[Entry, np.ndarray]]) -> list[Made]:
    records, errors = columns.rows(runner([picture for _, picture in waiting]), len(waiting))
    rows = zip(waiting, records, errors, strict=True)
    return [Made(entry, error, b"" if error else record.tobytes()) for (entry, _), record, error in rows]


def _listed(inputs: Mapping[str, Value]) -> str:
    return ", ".join(f"'{name}' ({value.dtype}, {list(value.shape)})" for name, value in inputs.items())
