"""Open height and width: which input is the image, and the shapes of all inputs at a size of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from optgraph.base.errors import InputError
from optgraph.ir.values import BATCH, Dim, Pair, Shape, channels_last
from optgraph.onnx.inputs import InputShape, overrides_by_name

Size = Pair  # height and width of an image, in pixels

_UNNAMED = ("", "?", "None")  # what exporters write for a dimension that they have no name for


@dataclass(frozen=True)
class OpenImage:
    """The input whose height or width a model leaves open. axes: where they stand, (2, 3) or, channels last, (1, 2)."""

    input: str
    axes: Pair

    def size(self, shape: Sequence[Dim]) -> Size | None:
        """Height and width of such an input of this shape; None if it is no image, or leaves them open."""
        if len(shape) != 4:
            return None
        height, width = (shape[axis] for axis in self.axes)
        return (height, width) if isinstance(height, int) and isinstance(width, int) else None

    def opened(self, shape: Sequence[Dim]) -> Shape:
        """Such an input's shape with 'H' and 'W' for the two."""
        return tuple("HW"[self.axes.index(axis)] if axis in self.axes else d for axis, d in enumerate(shape))


def size_text(size: Size) -> str:
    """'480x640': height, then width."""
    return f"{size[0]}x{size[1]}"


def sizes_text(sizes: Iterable[Size]) -> str:
    """'480x480, 480x640'."""
    return ", ".join(map(size_text, sizes))


def checked_sizes(sizes: Iterable[Size]) -> tuple[Size, ...]:
    """The sizes without repetition; one size by itself is that. Raises InputError for what is none."""
    given: list[Any] = list(sizes)
    given = [tuple(given)] if len(given) == 2 and all(isinstance(d, int) for d in given) else given
    for size in given:
        if not isinstance(size, Sequence) or len(size) != 2 or not all(isinstance(d, int) and d >= 1 for d in size):
            raise InputError(f"{size} is no size: expects a height and a width in pixels, each at least 1")
    return tuple(dict.fromkeys((int(height), int(width)) for height, width in given))


def input_names(model: onnx.ModelProto) -> list[str]:
    """The inputs that are no weights."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [info.name for info in model.graph.input if info.name not in weights]


def open_image(model: onnx.ModelProto, override: InputShape | Mapping[str, InputShape] | None = None) -> OpenImage:
    """The first input of rank 4 that leaves its height or width open, to `override` too.

    Raises InputError if there is none.
    """
    dims = _dims(model, override)
    for name, shape in dims.items():
        axes = _axes(shape)
        if axes and any(_is_open(shape[axis]) for axis in axes):
            return OpenImage(name, axes)
    listed = ", ".join(f"'{name}' is {_text(shape)}" for name, shape in dims.items())
    raise InputError(
        "sizes are for a model that leaves its image's height or width open, which this one does not: "
        f"{listed}: leave them out, or export it with open ones"
    )


def shapes_at(
    model: onnx.ModelProto, override: InputShape | Mapping[str, InputShape] | None, image: OpenImage, size: Size
) -> dict[str, InputShape]:
    """The shapes of all inputs where that of `image` has this size, the batch left open.

    Other inputs have the sizes that the model says are the same, by their names.
    Raises InputError for a size that does not fit, and for another image whose size is its own.
    """
    dims = _dims(model, override)
    names = [dims[image.input][axis] for axis in image.axes]
    for what, name, wanted in zip(("height", "width"), names, size, strict=True):
        if isinstance(name, int) and name != wanted:
            raise InputError(f"{size_text(size)} does not fit input '{image.input}', which has a {what} of {name}")
    return {name: _filled(name, list(shape), image, names, size) for name, shape in dims.items() if shape or override}


def _filled(name: str, shape: list[Dim], image: OpenImage, names: Sequence[Dim], size: Size) -> InputShape:
    """The shape of input `name` with what is known of its open dimensions."""
    axes = _axes(shape)
    pairs = [shape[axis] for axis in axes] if axes else []
    named = not any(n in _UNNAMED for n in names)
    if name == image.input or (pairs == list(names) and named):
        for axis, pixels in zip(axes or (), size, strict=True):
            shape[axis] = pixels
    elif names[0] != names[1]:
        known = {n: pixels for n, pixels in zip(names, size, strict=True) if isinstance(n, str) and n not in _UNNAMED}
        shape[1:] = [known.get(d, d) if isinstance(d, str) else d for d in shape[1:]]
    left = {axis: letter for axis, letter in zip(axes or (), "HW", strict=False) if _is_open(shape[axis])}
    if left:
        option = ",".join(left.get(axis, text) for axis, text in enumerate(_text(shape).split(",")))
        raise InputError(
            f"input '{name}' ({_text(shape)}) leaves its size open too, under other names than '{image.input}': "
            f"fix it with --input-shape {name}={option}, with numbers for {' and '.join(left.values())}"
        )
    channels = 1 if axes == (2, 3) else 3
    if name == image.input and _is_open(shape[channels]):
        example = _text([d if axis == 0 else 3 if axis == channels else "" for axis, d in enumerate(shape)])
        raise InputError(
            f"input '{name}' ({_text(shape)}) leaves its channels open: give their number, --input-shape {example}"
        )
    return [None if _is_open(d) else d for d in shape]


def _axes(shape: Sequence[Dim]) -> Pair | None:
    """Where height and width of an image of this shape stand; None for what is of another rank."""
    if len(shape) != 4:
        return None
    open_sizes = _is_open(shape[1]) and _is_open(shape[2]) and not _is_open(shape[3])
    return (1, 2) if channels_last(shape) or open_sizes else (2, 3)


def _dims(model: onnx.ModelProto, override: InputShape | Mapping[str, InputShape] | None) -> dict[str, list[Dim]]:
    """The dimensions of each input; open ones by the name they have, '' for none. `override` fixes some."""
    names = input_names(model)
    given = overrides_by_name(override, names) if names else {}
    dims: dict[str, list[Dim]] = {}
    for info in (info for info in model.graph.input if info.name in names):
        declared: list[Dim] = [d.dim_value if d.dim_value > 0 else d.dim_param for d in info.type.tensor_type.shape.dim]
        fixed = given.get(info.name)
        if fixed is not None and len(declared) in (0, len(fixed)):
            known = declared or [""] * len(fixed)
            declared = [f if isinstance(f, int) and f > 0 else d for f, d in zip(fixed, known, strict=True)]
        dims[info.name] = declared
    return dims


def _is_open(dim: Dim | None) -> bool:
    return not isinstance(dim, int)


def _text(shape: Sequence[Dim]) -> str:
    """'N,3,?,?'."""
    return ",".join(str(d) if isinstance(d, int) else "?" if i else BATCH for i, d in enumerate(shape))
