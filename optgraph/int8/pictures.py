"""Pictures to quantise on: whatever they are given as, batch by batch, and again for each pass over them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from optgraph.api.feeds import ARRAYS, as_feeds, named
from optgraph.api.net import Net
from optgraph.base.errors import InputError
from optgraph.ir.values import BATCH
from optgraph.onnx.sessions import Feeds
from optgraph.pictures.decode import FORMATS, is_picture
from optgraph.pictures.preprocess import picture_input


@dataclass(frozen=True)
class Pictures:
    """What `given` has for a net, at most `batch` images at a time. Only one batch is in memory.

    given: a folder of pictures, or a picture (a file or an image of Pillow's), an array, a dict of arrays by input, or
    any number of these.
    """

    net: Net
    given: Any
    batch: int

    @classmethod
    def of(cls, net: Net, given: Any, batch: int) -> Pictures:
        """The same, of what can be gone through but once, too."""
        return cls(net, list(given) if isinstance(given, Iterator) else given, batch)

    def __call__(self) -> Iterator[Feeds]:
        """Raises InputError for what is none, or does not fit."""
        size = self._size()
        waiting: list[np.ndarray] = []
        for each in self._each():
            if not isinstance(each, str | Path | Image.Image):
                given = named(each, self.net.inputs)
                yield from (as_feeds(part, self.net.inputs) for part in _split(given, size))
                continue
            waiting.append(self.net.preprocess(each))
            if len(waiting) == size:
                yield self._together(waiting)
                waiting = []
        if waiting:
            yield self._together(waiting)

    def single(self, count: int) -> list[Feeds]:
        """The first `count` of them, one at a time where the batch is open."""
        found: list[Feeds] = []
        for feeds in self():
            found += _split(feeds, 1 if self._open else self._size())
            if len(found) >= count:
                break
        return found[:count]

    @property
    def _open(self) -> bool:
        return all(value.shape and value.shape[0] == BATCH for value in self.net.inputs.values())

    def _size(self) -> int:
        if self._open:
            return self.batch
        fixed = [value.shape[0] for value in self.net.inputs.values() if value.shape and value.shape[0] != BATCH]
        return int(fixed[0]) if fixed and isinstance(fixed[0], int) else 1

    def _each(self) -> Iterable[Any]:
        given = self.given
        if isinstance(given, str | Path) and Path(given).is_dir():
            seen = (path for path in Path(given).iterdir() if is_picture(path) and not path.name.startswith("."))
            found = sorted(seen)
            if not found:
                raise InputError(f"{given}: a folder without pictures ({', '.join(FORMATS)})")
            return found
        single = isinstance(given, (str, Path, Image.Image, Mapping, *ARRAYS))
        return [given] if single else given

    def _together(self, pictures: list[np.ndarray]) -> Feeds:
        name = picture_input(self.net.inputs)
        assert name is not None  # for pictures were made ready for it
        return as_feeds({name: np.concatenate(pictures)}, self.net.inputs)


@dataclass
class Variety:
    """What pictures show, as they go by: how many different ones there are, and whether they show anything."""

    _seen: set[bytes] = field(default_factory=set)
    _even: bool = True  # each input has the same number all over, in all pictures
    _first: dict[str, Any] = field(default_factory=dict)

    @property
    def different(self) -> int:
        """How many pictures, not counting any twice."""
        return len(self._seen)

    def watch(self, batches: Iterable[Feeds]) -> Iterator[Feeds]:
        """The same, looked at."""
        for feeds in batches:
            for name, array in feeds.items():
                first = self._first.setdefault(name, array.flat[0])
                self._even = self._even and bool((array == first).all())
            for image in _split(feeds, 1):
                digest = hashlib.blake2b(digest_size=16)
                for array in image.values():
                    digest.update(np.ascontiguousarray(array).data)
                self._seen.add(digest.digest())
            yield feeds

    def check(self) -> None:
        """Raises InputError if ranges can be told nothing by them."""
        if self._even:
            (value, *_) = self._first.values()
            raise InputError(f"the pictures are {value:g} all over: give some of the kind the network is for")


def _split(feeds: Mapping[str, Any], size: int) -> Iterator[dict[str, Any]]:
    """The same in parts of `size` images, if all of them are so many."""
    images = {len(array) for array in feeds.values() if getattr(array, "ndim", 0)}
    if len(images) != 1 or max(images) <= size:
        yield dict(feeds)
        return
    for start in range(0, max(images), size):
        yield {name: array[start : start + size] for name, array in feeds.items()}
