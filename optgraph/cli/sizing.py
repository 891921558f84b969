"""Images of several sizes on the command line: which size a command is for, and what it says of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from optgraph.base.errors import InputError, ModelError
from optgraph.base.files import is_artifact
from optgraph.cli.images import array_shape, image_size, sources_by_name
from optgraph.cli.options import ModelOptions

if TYPE_CHECKING:
    from optgraph.api.net import Net
    from optgraph.onnx.sizes import Size

MULTIPLE = 32  # pixels: what most detectors need their sizes to be a multiple of


def by_size(
    found: Mapping[Size | None, Any], shown: Callable[[Any], Sequence[RenderableType]]
) -> tuple[dict[str, Any], list[RenderableType]]:
    """What a command found at each size, as data and for people; as it is where that is only one."""
    from optgraph.onnx.sizes import size_text

    if len(found) == 1:
        (data,) = found.values()
        return data, list(shown(data))
    named = {size_text(size): data for size, data in found.items() if size}
    parts = [part for name, data in named.items() for part in (f"at {name}", *shown(data))]
    return {"sizes": named}, parts


def net_for(model: Path, backend: str, options: ModelOptions, arguments: Sequence[str]) -> tuple[Net, str]:
    """The net to run these --input on, at the size that suits them, and how an image file was resized to it.

    That is the nearest of its sizes, or of those that --sizes says; where a model leaves it open and nobody says, the
    image's own, or else, since a network may take only some, that in multiples of MULTIPLE.
    """
    if not is_artifact(model) and not options.sizes and not options.input_shape:
        own = _at_own_size(model, backend, options, arguments)
        if own is not None:
            return own
    net = options.net(model, backend)
    if net.image is None:
        return net, ""
    found = image_size(sources_by_name(arguments, list(net.inputs)), net.image.input)
    if found is None:
        return net, ""
    sizes = options.asked_sizes() or net.sizes
    size = min(sizes, key=lambda each: _apart(found, each))
    return net.at(*size), _resized(found, size, "the nearest of its sizes" if len(sizes) > 1 else "its one size")


def _at_own_size(model: Path, backend: str, options: ModelOptions, arguments: Sequence[str]) -> tuple[Net, str] | None:
    """The net at the size of what is given for its image; None if the model has sizes, or that has none."""
    from optgraph.onnx.load import load_model
    from optgraph.onnx.sizes import input_names, open_image, size_text

    proto = load_model(model, external=False)
    try:
        image = open_image(proto)
    except InputError:
        return None
    sources = sources_by_name(arguments, input_names(proto))
    size = image_size(sources, image.input)
    if size is None:
        size = image.size(array_shape(sources, image.input))
        return None if size is None else (replace(options, sizes=size_text(size)).net(model, backend), "")
    try:
        return replace(options, sizes=size_text(size)).net(model, backend), _resized(size, size, "")
    except ModelError:
        height, width = (max(1, round(pixels / MULTIPLE)) * MULTIPLE for pixels in size)
        if (height, width) == size:
            raise
    net = replace(options, sizes=size_text((height, width))).net(model, backend)
    return net, _resized(size, (height, width), f"multiples of {MULTIPLE}, for the network cannot be had at its own")


def _apart(a: Size, b: Size) -> float:
    """How far two sizes are from each other: in their proportions, and in their scale."""
    height, width = (math.log(p / q) for p, q in zip(a, b, strict=True))
    return abs(height - width) + abs(height + width) / 2


def _resized(found: Size, size: Size, why: str) -> str:
    from optgraph.onnx.sizes import size_text

    if found == size:
        return f"the image is {size_text(size)}, and ran at that"
    return f"the image is {size_text(found)}, resized to {size_text(size)}: {why}"
