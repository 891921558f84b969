"""What an .optgraph of several sizes has beside its first network: the others, and maybe the ONNX model itself.

Arrays are numbered, and equal ones are stored once: each graph says which of its constants is which. The model is kept
without its data, for most of which one of these arrays stands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from optgraph.api.graph_json import graph_from_json, graph_to_json
from optgraph.base.errors import ArtifactError
from optgraph.ir.graph import Graph
from optgraph.ir.op import Op
from optgraph.onnx.external_data import is_external, tensors
from optgraph.onnx.inputs import InputShape
from optgraph.onnx.sizes import OpenImage, Size, checked_sizes
from optgraph.onnx.stripped import copied

_SMALL = 64  # bytes; a tensor of fewer stays in the model

Content = tuple[str, tuple[int, ...], bytes]


def content(array: np.ndarray) -> Content:
    """Equal for equal arrays only: dtype, shape, SHA-256 of the numbers."""
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    return str(array.dtype), array.shape, hashlib.sha256(data).digest()


@dataclass(frozen=True)
class AtSize:
    """A network at one size. bytes_per_image: of its model there."""

    simplified: Graph
    fused: Graph
    bytes_per_image: int


@dataclass(frozen=True)
class Original:
    """The ONNX model, cut off as it was compiled, and the shapes that were given for some of its inputs."""

    model: onnx.ModelProto
    input_shape: Mapping[str, InputShape]


@dataclass(frozen=True)
class Sized:
    """image: which input has sizes. size: of the first network. others: the rest, in order."""

    image: OpenImage
    size: Size
    others: Mapping[Size, AtSize]
    original: Original | None = None


@dataclass
class Store:
    """Arrays by number, each once."""

    arrays: list[np.ndarray] = field(default_factory=list)
    _numbers: dict[Content, int] = field(default_factory=dict)

    def number(self, array: np.ndarray) -> int:
        """That of an equal array: a new one if there is none."""
        key = content(array)
        if key not in self._numbers:
            self._numbers[key] = len(self.arrays)
            self.arrays.append(array)
        return self._numbers[key]


def sized_to_json(sized: Sized, store: Store, ops: Sequence[type[Op]]) -> dict[str, Any]:
    """As plain data; arrays go into `store`. Raises as `graph_to_json`."""
    original = sized.original
    return {
        "input": sized.image.input,
        "axes": sized.image.axes,
        "size": sized.size,
        "others": [
            {
                "size": size,
                "simplified": graph_to_json(at.simplified, ops),
                "fused": graph_to_json(at.fused, ops),
                "weights": {
                    name: store.number(array) for name, array in (at.simplified.constants | at.fused.constants).items()
                },
                "bytes_per_image": at.bytes_per_image,
            }
            for size, at in sized.others.items()
        ],
        "original": None
        if original is None
        else {
            "model": store.number(np.frombuffer(_without_data(original.model, store), np.uint8)),
            "input_shape": {name: list(shape) for name, shape in original.input_shape.items()},
        },
    }


def sized_from_json(data: Any, arrays: Sequence[np.ndarray], ops: Sequence[type[Op]]) -> Sized:
    """What `sized_to_json` wrote. Raises ArtifactError for anything else, or what Python raises for the wrong types."""
    height_axis, width_axis = data["axes"]
    if (height_axis, width_axis) not in ((1, 2), (2, 3)):
        raise ArtifactError(f"height and width are no axes {data['axes']}")
    others = {}
    for entry in data["others"]:
        weights = {name: array_of(number, arrays) for name, number in entry["weights"].items()}
        simplified, fused = (graph_from_json(entry[key], weights, ops) for key in ("simplified", "fused"))
        share((simplified, fused), weights)
        others[_size(entry["size"])] = AtSize(simplified, fused, int(entry["bytes_per_image"]))
    original = None
    if data["original"] is not None:
        proto = onnx.ModelProto()
        proto.ParseFromString(array_of(data["original"]["model"], arrays).tobytes())
        _with_data(proto, arrays)
        shapes = {
            name: [None if d is None else int(d) for d in s] for name, s in data["original"]["input_shape"].items()
        }
        original = Original(proto, shapes)
    image = OpenImage(str(data["input"]), (height_axis, width_axis))
    return Sized(image, _size(data["size"]), others, original)


def sizes_in(data: Any) -> list[Size]:
    """The sizes in what `sized_to_json` wrote, that of the first network first. Raises as `sized_from_json`."""
    return [_size(data["size"]), *(_size(entry["size"]) for entry in data["others"])]


def check_sized(sized: Sized, first: AtSize) -> None:
    """Raises ArtifactError unless all the networks are the same but for their size, which is what is said of it."""
    outputs = list(first.fused.outputs)
    for size, at in {**sized.others, sized.size: first}.items():
        for graph in (at.simplified, at.fused):
            shape = graph.values[sized.image.input].shape if sized.image.input in graph.inputs else ()
            if sized.image.size(shape) != size or list(graph.outputs) != outputs or graph.inputs != first.fused.inputs:
                raise ArtifactError("its networks are not one network at several sizes")


def share(graphs: Iterable[Graph], arrays: Mapping[str, np.ndarray]) -> None:
    """Has the graphs' constants be these very arrays, which they are views of: so what is equal is the same."""
    for graph in graphs:
        for name in graph.constants:
            arrays[name].flags.writeable = False
            graph.constants[name] = arrays[name]


def _without_data(model: onnx.ModelProto, store: Store) -> bytes:
    model = copied(model)
    for tensor in tensors(model):
        if is_external(tensor) or len(tensor.raw_data) < _SMALL:
            continue
        array = numpy_helper.to_array(tensor)
        if array.dtype.kind in "fiub":
            number = store.number(array)
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=str(number))
    return bytes(model.SerializeToString(deterministic=True))


def _with_data(model: onnx.ModelProto, arrays: Sequence[np.ndarray]) -> None:
    for tensor in tensors(model):
        if is_external(tensor):
            array = array_of(int(tensor.external_data[0].value), arrays)
            whole = numpy_helper.from_array(array, tensor.name)
            if (whole.dims, whole.data_type) != (tensor.dims, tensor.data_type):
                raise ArtifactError(f"weight '{tensor.name}' is another")
            tensor.CopyFrom(whole)


def array_of(number: Any, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The array of a number that a file gives. Raises ArtifactError if there is none."""
    if type(number) is not int or not 0 <= number < len(arrays):
        raise ArtifactError(f"it has no array {number}")
    return arrays[number]


def _size(data: Any) -> Size:
    (size,) = checked_sizes([tuple(data)])
    return size
