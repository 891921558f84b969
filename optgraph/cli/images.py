"""Inputs for a network from the command line: pictures, .npy and .npz files, random numbers."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from optgraph.base.errors import InputError
from optgraph.ir.values import BATCH, Shape, Value
from optgraph.pictures.decode import FORMATS, decoded, is_picture, picture_size, quiet
from optgraph.pictures.preprocess import Preprocess, picture_input

ARRAYS = (".npy", ".npz")
RANDOM = "random"
AT_ONCE = 32  # pictures that run as one batch, if nobody says

Feeds = dict[str, np.ndarray]


def sources_by_name(arguments: Sequence[str], inputs: Sequence[str]) -> dict[str, list[str]]:
    """What each input is read from, of arguments such as 'cat.png', 'mask=mask.npy' or 'random'.

    An argument without a name is for the only input, or a .npz for those it has arrays of; 'random' without one is for
    all that have no other. Raises InputError for anything else.
    """
    sources: dict[str, list[str]] = {}
    fill = False
    for argument in arguments:
        name, equals, source = argument.partition("=")
        if argument == RANDOM:
            fill = True
            continue
        names: Sequence[str] = [name]
        if not equals or name not in inputs:
            names, source = inputs, argument
            if len(inputs) > 1:
                names = [each for each in inputs if each in _names_in(Path(argument))]
                if not names and equals and not Path(argument).exists():
                    raise InputError(f"--input {argument}: no input '{name}': the network has {', '.join(inputs)}")
                if not names:
                    raise InputError(f"--input {argument}: say for which input, NAME={argument}: {', '.join(inputs)}")
            elif equals and source == argument and not Path(argument).exists():
                raise InputError(
                    f"--input {argument}: no such file, and no input '{name}': the network has {inputs[0]}"
                )
        for each in names:
            sources.setdefault(each, []).extend(_files(source))
    for name, files in sources.items():
        if len(files) > 1 and RANDOM in files:
            raise InputError(f"input '{name}' is given 'random' and more: give either, or several with --batch")
    missing = [name for name in inputs if name not in sources]
    if missing and not fill:
        listed = f" (inputs: {', '.join(inputs)})" if len(inputs) > 1 else ""
        raise InputError(f"input '{missing[0]}' is missing: --input {missing[0]}=FILE, or --input random{listed}")
    return {name: sources.get(name, [RANDOM]) for name in inputs}


def image_size(sources: Mapping[str, Sequence[str]], name: str) -> tuple[int, int] | None:
    """Height and width, in pixels, of the picture that input `name` is read from, the first if there are several.

    None if it is no picture. Raises InputError if it cannot be read.
    """
    path = Path(sources[name][0])
    with quiet():
        return picture_size(path) if is_picture(path) else None


def array_shape(sources: Mapping[str, Sequence[str]], name: str) -> tuple[int, ...]:
    """The shape of the array that input `name` is read from; () if it is none. Raises InputError as above."""
    path = Path(sources[name][0])
    return _array(path, name).shape if path.suffix.lower() in ARRAYS else ()


@dataclass
class Reader:
    """Reads what arguments name for the inputs of a network, and remembers what was done to pictures.

    Whether an array fits its input is for the network to say. All raise InputError for what cannot be read.
    """

    inputs: Mapping[str, Value]
    preprocess: Preprocess | None
    done: list[str] = field(default_factory=list)

    def batches(self, sources: Mapping[str, Sequence[str]], batch: int | None = None) -> Iterator[Feeds]:
        """The inputs, `batch` images at a time, which is how many random ones there are, too.

        By default an only source as it is, several in batches of AT_ONCE, or of what the network takes.
        """
        given = {name: files for name, files in sources.items() if [*files] != [RANDOM]}
        if not given:
            yield {name: self._random(name, batch or 1) for name in self.inputs}
            return
        streams = [self._chunks(name, files, batch) for name, files in given.items()]
        try:
            for arrays in zip(*streams, strict=True):
                found = dict(zip(given, arrays, strict=True))
                images = next(len(array) if array.ndim else 1 for array in arrays)
                yield {name: found[name] if name in found else self._random(name, images) for name in self.inputs}
        except ValueError:
            numbers = ", ".join(f"{len(files)} for '{name}'" for name, files in given.items())
            raise InputError(f"--input: each input of the network gets as many images: got {numbers}") from None

    def batch(self, arguments: Sequence[str]) -> Feeds:
        """All images that these arguments name, as one batch."""
        batches = list(self.batches(sources_by_name(arguments, list(self.inputs))))
        return {name: np.concatenate([each[name] for each in batches]) for name in self.inputs}

    def feeds(self, arguments: Sequence[str]) -> list[Feeds]:
        """Several inputs, a dict of arrays for each, from arguments such as 'a.png', 'b.png' or a folder of images.

        Where a network has several inputs, NAME= says which an argument is for, and each gets as many.
        """
        if not arguments:
            return []
        sources = sources_by_name(arguments, list(self.inputs))
        most = max(map(len, sources.values()))
        for name, files in sources.items():
            if len(files) not in (most, 1) or (len(files) < most and [*files] != [RANDOM]):
                numbers = ", ".join(f"{len(files)} for '{name}'" for name, files in sources.items())
                raise InputError(f"--input: each input of the network gets as many: got {numbers}")
        rows = ({name: [files[min(i, len(files) - 1)]] for name, files in sources.items()} for i in range(most))
        return [feeds for row in rows for feeds in self.batches(row)]

    def _chunks(self, name: str, files: Sequence[str], batch: int | None) -> Iterator[np.ndarray]:
        shape = self.inputs[name].shape
        fixed = shape[0] if shape and isinstance(shape[0], int) else None
        if fixed is not None and batch not in (None, fixed):
            raise InputError(f"--batch {batch}: input '{name}' takes {fixed} at a time")
        if len(files) == 1 and batch is None:
            yield self._read(name, files[0])
            return
        size = fixed or batch or AT_ONCE
        waiting: list[np.ndarray] = []
        for file in files:
            array = self._read(name, file)
            if array.ndim != len(shape):
                expected = ", ".join(map(str, shape))
                raise InputError(f"{file}: has shape {list(array.shape)}, and '{name}' expects [{expected}]")
            if array.shape[1:] != (waiting or [array])[0].shape[1:]:
                raise InputError(f"{file}: its shape {list(array.shape)} is not that of the others: run it by itself")
            waiting.append(array)
            while sum(map(len, waiting)) >= size:
                together = np.concatenate(waiting)
                yield together[:size]
                waiting = [together[size:]] if len(together) > size else []
        if waiting:
            yield np.concatenate(waiting)

    def _read(self, name: str, source: str) -> np.ndarray:
        path, value = Path(source), self.inputs[name]
        if source == RANDOM:
            return self._random(name, 1)
        if is_picture(path):
            if self.preprocess is None and picture_input(self.inputs) is not None:
                raise InputError(f"{path}: nothing says how pictures are made ready for the network: give --preprocess")
            if self.preprocess is None:
                raise InputError(
                    f"{path}: input '{name}' ({value.dtype}, {list(value.shape)}) takes no picture: pass a .npy file"
                )
            with quiet():
                picture = decoded(path)
            try:
                array = self.preprocess(picture, value)
            except InputError as error:
                raise InputError(f"{path}: {error}") from None
            self.done.append(self.preprocess.told(picture, value))
            return array
        if path.suffix.lower() not in ARRAYS:
            known = ", ".join((*FORMATS, *ARRAYS))
            raise InputError(f"--input {source}: expects a file ({known}), a folder of them or 'random'")
        return _array(path, name)

    def _random(self, name: str, batch: int) -> np.ndarray:
        value = self.inputs[name]
        if not value.dtype.startswith("float"):
            raise InputError(f"input '{name}' is {value.dtype}, and random numbers are for floats: pass a .npy file")
        return np.random.default_rng(0).standard_normal(_of_batch(value.shape, batch)).astype(value.dtype)


def _files(source: str) -> list[str]:
    """The pictures and arrays of a folder, but for hidden ones, such as ._cat.jpg; or what `source` is itself."""
    if not Path(source).is_dir():
        return [source]
    known = (*FORMATS, *ARRAYS)
    seen = (path for path in Path(source).iterdir() if not path.name.startswith("."))
    found = sorted(str(path) for path in seen if path.suffix.lower() in known)
    if not found:
        raise InputError(f"--input {source}: a folder without images ({', '.join(FORMATS)}) or arrays (.npy, .npz)")
    return found


def _array(path: Path, name: str) -> np.ndarray:
    """The array in a .npy file; in a .npz that of this name, or its only one."""
    try:
        found: Any = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            names = list(found.files)
            if name not in names and len(names) != 1:
                raise InputError(f"{path}: has arrays {', '.join(names) or 'none'}, and the input is '{name}'")
            return np.asarray(found[name if name in names else names[0]])
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, zipfile.BadZipFile):
        raise InputError(
            f"{path}: not a file of numbers, or a truncated one: write it with numpy.save or numpy.savez"
        ) from None


def _names_in(path: Path) -> list[str]:
    """The names of the arrays in a .npz file; none in another."""
    if path.suffix.lower() != ".npz":
        return []
    try:
        with np.load(path, allow_pickle=False) as found:
            return list(found.files)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return []


def _of_batch(shape: Shape, batch: int) -> tuple[int, ...]:
    return tuple(batch if d == BATCH else int(d) for d in shape)
