"""A network at several sizes of its image: a graph of its own for each, which share their weights."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

import numpy as np

from optgraph.api.recipe import Made, Recipe
from optgraph.api.sized import AtSize, Content, Sized, content
from optgraph.base.errors import InputError, ModelError
from optgraph.ir.graph import Graph
from optgraph.onnx.sizes import OpenImage, Size, checked_sizes, size_text, sizes_text

KEPT = 8  # sizes made on demand that are kept: one more, and the one not used for longest goes

T = TypeVar("T")


class SharedArrays:
    """One array for all equal ones, as long as somebody holds it; for one thread at a time."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[Content, np.ndarray] = WeakValueDictionary()

    def share(self, graphs: Iterable[Graph]) -> None:
        """Puts the arrays known by now in place of equal constants of the graphs."""
        for graph in graphs:
            for name, array in graph.constants.items():
                graph.constants[name] = self._known.setdefault(content(array), array)


class Sizes(Generic[T]):
    """What a network is at each size of its image: T, made of `Made` on first use. Threads may share it.

    image:  the input that has these sizes.
    given:  the networks at the sizes it was compiled at, which stay.
    recipe: how those at other sizes are made, of which KEPT are kept; None if they cannot be.
    """

    def __init__(self, image: OpenImage, given: Mapping[Size, Made], recipe: Recipe | None) -> None:
        self.image = image
        self.given = dict(given)
        self.recipe = recipe
        self._ready: dict[Size, T] = {}
        self._on_demand: OrderedDict[Size, T] = OrderedDict()
        self._arrays = SharedArrays()
        self._lock = threading.Lock()
        self._making = threading.Lock()
        if recipe is not None:
            for made in self.given.values():
                self._arrays.share((made.simplified, made.fused))

    def __reduce__(self) -> tuple[Any, ...]:
        """Without what was made on demand, which can be made again."""
        return Sizes, (self.image, self.given, self.recipe)

    @classmethod
    def made(cls, recipe: Recipe, image: OpenImage, sizes: Iterable[Size]) -> Sizes[T]:
        """By `recipe`, which has its model loaded, at these sizes. Raises as `compile` does."""
        given: dict[Size, Made] = {}
        for size in sizes:
            try:
                given[size] = recipe.make(image, size)
            except ModelError as error:
                raise ModelError(f"at {size_text(size)}: {error}") from None
        return cls(image, given, recipe)

    def saved(self, any_size: bool) -> Sized:
        """What a file of it has beside the first network. Raises InputError for `any_size` without a recipe."""
        first, *others = self.given
        if any_size and self.recipe is None:
            raise InputError("any_size needs the ONNX model: compile it again")
        original = self.recipe.original() if self.recipe and any_size else None
        networks = {size: self.given[size] for size in others}
        at = {size: AtSize(m.simplified, m.fused, m.source.bytes_per_image) for size, m in networks.items()}
        return Sized(self.image, first, at, original)

    def get(self, size: Size, finish: Callable[[Size, Made], T]) -> T:
        """What it is at `size`. finish: what makes a T, where there is none yet.

        Raises InputError for a size at which it is not and cannot be made.
        """
        found = self._find(size)
        if found is None:
            with self._making:  # one at a time, and none twice; those there are go on being found
                found = self._find(size)
                if found is None:
                    found = finish(size, self._made(size))
                    self.keep(size, found)
        return found

    def _find(self, size: Size) -> T | None:
        with self._lock:
            if size in self._on_demand:
                self._on_demand.move_to_end(size)
            return self._ready[size] if size in self._ready else self._on_demand.get(size)

    def keep(self, size: Size, made: T) -> None:
        """Puts in what it is at `size`."""
        with self._lock:
            if size in self.given:
                self._ready[size] = made
                return
            self._on_demand[size] = made
            if len(self._on_demand) > KEPT:
                self._on_demand.popitem(last=False)

    def _made(self, size: Size) -> Made:
        if size in self.given:
            return self.given[size]
        text, at = size_text(size), sizes_text(self.given)
        if self.recipe is None:
            raise InputError(
                f"input '{self.image.input}' of {text}: the network was compiled at {at} and no other: "
                f"add {text} to --sizes (sizes=... in Python) and compile again, or with --any-size"
            )
        (size,) = checked_sizes([size])
        try:
            made = self.recipe.make(self.image, size)
        except ModelError as error:
            raise InputError(f"the network cannot be had at {text}: {error}; it was compiled at {at}") from None
        self._arrays.share((made.simplified, made.fused))
        return made
