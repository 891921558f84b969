"""Models as files for ONNX Runtime, their weights in one that they share: a message holds 2 GB at most, a file any.

It is also how parts of one model cost little: each weight is written once, however many of them have it.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import IO

import onnx
from onnx import TensorProto, helper

SMALLEST = 1024  # numbers: what has fewer stays in the model, where ONNX Runtime infers shapes from it
ALIGNMENT = 4096  # bytes: of a weight in the file, so that it can be mapped into memory
WEIGHTS = "weights"


def weight_bytes(model: onnx.ModelProto) -> int:
    """Of its initializers. Its own `ByteSize` fails where that is over 2 GB."""
    return sum(
        math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        for tensor in model.graph.initializer
    )


class OnDisk:
    """A folder of models, which goes when this does. Weights of one name and type are the same in all of them."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="optgraph-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._places: dict[tuple[str, int], tuple[int, int]] = {}  # of weights: where they start, and how many bytes
        self._saved = 0

    def save(self, model: onnx.ModelProto) -> str:
        """The path of `model`, which loses its large weights to their file."""
        with (self._folder / WEIGHTS).open("ab") as file:
            for tensor in model.graph.initializer:
                if tensor.HasField("raw_data") and math.prod(tensor.dims) >= SMALLEST:
                    self._move(tensor, file)
        path = self._folder / f"{self._saved}.onnx"
        self._saved += 1
        path.write_bytes(model.SerializeToString())
        return str(path)

    def _move(self, tensor: TensorProto, file: IO[bytes]) -> None:
        key = tensor.name, tensor.data_type
        if key not in self._places:
            file.write(bytes(-file.tell() % ALIGNMENT))
            start, data = file.tell(), tensor.raw_data
            file.write(data)
            self._places[key] = start, len(data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        start, length = self._places[key]
        for name, value in (("location", WEIGHTS), ("offset", start), ("length", length)):
            tensor.external_data.add(key=name, value=str(value))
