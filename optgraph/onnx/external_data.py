"""Weights in files beside the model, read only where a model may read: in its own folder.

A path comes from the file, and so from anybody: it is relative, has no '..', and leads to no link out of the folder.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from onnx import TensorProto, helper

from optgraph.base.errors import ModelError

STRIPPED = "stripped"


def is_external(tensor: TensorProto) -> bool:
    """Whether a tensor's data is in another file, or nowhere."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def is_stripped(tensor: TensorProto) -> bool:
    """Whether a tensor's data was left out (external location 'stripped')."""
    return is_external(tensor) and any(e.key == "location" and e.value == STRIPPED for e in tensor.external_data)


def load(model: onnx.ModelProto, folder: Path) -> None:
    """Reads all external data of `model`, which is in `folder`, into it; what was stripped stays so.

    Raises ModelError for a path out of the folder, or data that is not there or not of the tensor's size.
    """
    for tensor in tensors(model):
        if is_external(tensor) and not is_stripped(tensor):
            try:
                data = _read(tensor, folder)
            except (OSError, ValueError) as error:
                reason = error.strerror or error if isinstance(error, OSError) else error
                raise ModelError(
                    f"weight '{tensor.name}' cannot be read from its external file ({reason})",
                    "keep it beside the model",
                ) from None
            tensor.raw_data = data
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]


def files(model: onnx.ModelProto) -> set[str]:
    """The files that its external data is in, as it names them."""
    external = (tensor for tensor in tensors(model) if is_external(tensor) and not is_stripped(tensor))
    return {entry.value for tensor in external for entry in tensor.external_data if entry.key == "location"}


def _read(tensor: TensorProto, folder: Path) -> bytes:
    entries = {e.key: e.value for e in tensor.external_data}
    path = _inside(folder.resolve(), entries.get("location", ""))
    offset, size = int(entries.get("offset", 0)), path.stat().st_size
    length = int(entries.get("length", size - offset))
    expected = math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    if offset < 0 or length < 0 or offset + length > size:
        raise ValueError(f"bytes {offset} to {offset + length} of a file of {size}")
    if length > expected:  # one of too few is noticed when the bytes become an array
        raise ValueError(f"{length} bytes for a {list(tensor.dims)} tensor of {expected}")
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def _inside(folder: Path, location: str) -> Path:
    parts = PureWindowsPath(location)  # knows both separators
    if not location or PurePosixPath(location).is_absolute() or parts.anchor or ".." in parts.parts:
        raise ValueError(f"'{location}' is no path within the model's folder")
    path = (folder / location).resolve()
    if not path.is_relative_to(folder):
        raise ValueError(f"'{location}' is a link out of the model's folder")
    if not path.is_file():
        raise ValueError(f"'{location}' is not a file" if path.exists() else f"no file '{location}'")
    return path


def tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """All tensors of the model: initializers and attributes, in subgraphs and functions too."""
    nodes = list(model.graph.node)
    yield from model.graph.initializer
    for function in model.functions:
        nodes.extend(function.node)
    while nodes:
        for attribute in nodes.pop().attribute:
            yield attribute.t
            yield from attribute.tensors
            for graph in (attribute.g, *attribute.graphs):
                yield from graph.initializer
                nodes.extend(graph.node)
