"""The .optgraph file: one safetensors file, weights as tensors and everything else as JSON in its metadata.

It holds the simplified and the fused graph, which share their weights by name, and the compile options. There is no
offset in it that a kernel would follow: a loaded network is rebuilt, checked and planned from the graphs. One of
several sizes has these two graphs at the first, and the rest beside them (`sized.py`).

It may hold cubins: machine code, which a GPU runs as it is. A file without them is data, and safe to load from
anywhere; with them it is a program, to be run only if it comes from where one would run programs from. `load` leaves
them out if asked to. Their digest shows damage, not who made them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from optgraph.ahead.cubins import Cubin
from optgraph.ahead.cubins import from_json as cubin_from_json
from optgraph.api.graph_json import graph_from_json, graph_to_json
from optgraph.api.sized import (
    AtSize,
    Sized,
    Store,
    array_of,
    check_sized,
    share,
    sized_from_json,
    sized_to_json,
    sizes_in,
)
from optgraph.base.dtypes import DTYPES
from optgraph.base.errors import ArtifactError, InputError
from optgraph.base.files import replacing
from optgraph.base.version import version
from optgraph.ir.graph import Graph
from optgraph.ir.op import Op
from optgraph.onnx.sizes import Size
from optgraph.pictures.preprocess import Preprocess

FORMATS = ("2", "3")  # of one size, and of several

# What reading one raises that is none, or damaged.
DAMAGE = (
    SafetensorError,
    DecodeError,
    InputError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    OSError,
    RecursionError,
)


@dataclass(frozen=True)
class Options:
    """How the network was compiled, and the figures about its ONNX model that only that has.

    keep_fp32: the ONNX nodes whose regions stay in float32.
    """

    dtype: str
    batches: tuple[int, ...]
    nodes: int
    bytes_per_image: int
    keep_fp32: tuple[str, ...] = ()


@dataclass(frozen=True)
class Artifact:
    """A compiled network at rest. source_name, source_digest: file name and SHA-256 of the ONNX model.

    preprocessing, labels: what is done to pictures for it, and what its classes are called, where that is known.
    """

    simplified: Graph
    fused: Graph
    options: Options
    source_digest: str
    source_name: str
    cubins: tuple[Cubin, ...] = ()
    sized: Sized | None = None
    preprocessing: Preprocess | None = None
    labels: tuple[str, ...] = ()


def save(path: Path, artifact: Artifact, ops: Sequence[type[Op]] = ()) -> None:
    """Writes `artifact` to `path` at once or not at all.

    ops: operators of one's own that the graphs contain. Raises ArtifactError for one that is not there, InputError if
    the file cannot be written.
    """
    weights = artifact.fused.constants | artifact.simplified.constants
    for name, array in artifact.fused.constants.items():
        if artifact.simplified.constants.get(name, array) is not array and not np.array_equal(array, weights[name]):
            raise ArtifactError(f"weight '{name}' differs between the two graphs: a fuse pass changed it in place")
    options = artifact.options
    metadata = {
        "format": FORMATS[artifact.sized is not None],
        "optgraph": version(),
        "dtype": options.dtype,
        "batches": json.dumps(options.batches),
        "nodes": str(options.nodes),
        "bytes_per_image": str(options.bytes_per_image),
        "keep_fp32": json.dumps(options.keep_fp32),
        "source_name": artifact.source_name,
        "source_digest": artifact.source_digest,
        "simplified": json.dumps(graph_to_json(artifact.simplified, ops)),
        "fused": json.dumps(graph_to_json(artifact.fused, ops)),
    }
    if artifact.preprocessing is not None:
        metadata["preprocessing"] = json.dumps(artifact.preprocessing.to_json())
    if artifact.labels:
        metadata["labels"] = json.dumps(artifact.labels)
    # safetensors has no empty names and no place for other byte orders; weights are numbered in their order.
    arrays = list(weights.values())
    if artifact.sized is not None:
        store = Store()
        metadata["numbers"] = json.dumps([store.number(array) for array in arrays])
        metadata["sized"] = json.dumps(sized_to_json(artifact.sized, store, ops))
        arrays = store.arrays
    tensors = {f"{i:06}": np.asarray(array, order="C") for i, array in enumerate(arrays)}
    metadata["weights"] = json.dumps(list(weights))
    metadata["weights_digest"] = _digest(tensors.values())
    if artifact.cubins:
        codes = {f"cubin{i:06}": np.frombuffer(cubin.code, np.uint8) for i, cubin in enumerate(artifact.cubins)}
        metadata["cubins"] = json.dumps([cubin.to_json() for cubin in artifact.cubins])
        metadata["cubins_digest"] = _digest(codes.values(), metadata["cubins"])
        tensors |= codes
    with replacing(path) as file:
        file.write(to_bytes(tensors, metadata))


def load(path: Path, ops: Sequence[type[Op]] = (), cubins: bool = True) -> Artifact:
    """Reads what `save` wrote. ops: as there. cubins: read them too, if it has some.

    Raises InputError if there is no such file, ArtifactError for one that is no artifact, is damaged, or was made by
    another version of the format.
    """
    with _reading(path) as file:
        metadata = file.metadata() or {}
        _check_format(path, metadata)
        names = _json(metadata, "weights", list)
        described = _json(metadata, "cubins", list) if "cubins" in metadata else []
        several, count = "sized" in metadata, len(list(file.keys())) - len(described)
        numbers = _json(metadata, "numbers", list) if several else range(len(names))
        if len(set(names)) != len(names) or len(names) != len(numbers) or (len(names) != count and not several):
            raise ArtifactError("its weights are not the ones it names")
        arrays = [file.get_tensor(f"{i:06}") for i in range(count)]
        if _digest(arrays) != metadata["weights_digest"]:
            raise ArtifactError("its weights are damaged (SHA-256 differs)")
        weights = {name: array_of(number, arrays) for name, number in zip(names, numbers, strict=True)}
        found = _cubins(file, metadata, described) if cubins else ()
        options = Options(
            dtype=metadata["dtype"],
            batches=tuple(int(b) for b in _json(metadata, "batches", list)),
            nodes=int(metadata["nodes"]),
            bytes_per_image=int(metadata["bytes_per_image"]),
            keep_fp32=tuple(map(str, _json(metadata, "keep_fp32", list))) if "keep_fp32" in metadata else (),
        )
        if options.dtype not in DTYPES or min(options.batches) < 1:
            raise ArtifactError(f"dtype '{options.dtype}' and batches {list(options.batches)} are none")
        graphs = [graph_from_json(_json(metadata, key, dict), weights, ops) for key in ("simplified", "fused")]
        sized = None
        if several:
            share(graphs, weights)
            sized = sized_from_json(_json(metadata, "sized", dict), arrays, ops)
            check_sized(sized, AtSize(graphs[0], graphs[1], options.bytes_per_image))
        return Artifact(
            graphs[0],
            graphs[1],
            options,
            metadata["source_digest"],
            metadata["source_name"],
            found,
            sized,
            Preprocess.from_json(_json(metadata, "preprocessing", dict)) if "preprocessing" in metadata else None,
            _labels(_json(metadata, "labels", list)) if "labels" in metadata else (),
        )


def sizes(path: Path) -> list[Size]:
    """The sizes of the networks in a file, none if there is only one; the rest of it is not looked at.

    Raises as `load`.
    """
    with _reading(path) as file:
        metadata = file.metadata() or {}
        _check_format(path, metadata)
        return sizes_in(_json(metadata, "sized", dict)) if "sized" in metadata else []


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """The open file; what goes wrong in it is said in one line, with the path."""
    if not path.is_file():
        raise InputError(f"{path}: no such file" if not path.exists() else f"{path}: not a file")
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except ArtifactError as error:
        text = str(error)
        raise ArtifactError(
            text if text.startswith(str(path)) else f"{path}: {text}: compile the .onnx again"
        ) from None
    except DAMAGE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactError(
            f"{path}: not an .optgraph file, or a damaged one ({reason}): compile the .onnx again"
        ) from None


def _check_format(path: Path, metadata: dict[str, str]) -> None:
    if "format" not in metadata or "optgraph" not in metadata:
        raise ArtifactError(f"{path}: not an .optgraph file")
    if metadata["format"] not in FORMATS:
        raise ArtifactError(
            f"{path}: made by optgraph {metadata['optgraph']} (format {metadata['format']}), and this one reads "
            f"formats {' and '.join(FORMATS)}: compile the .onnx again"
        )


def _cubins(file: Any, metadata: dict[str, str], described: list[Any]) -> tuple[Cubin, ...]:
    codes = [file.get_tensor(f"cubin{i:06}") for i in range(len(described))]
    if described and _digest(codes, metadata["cubins"]) != metadata["cubins_digest"]:
        raise ArtifactError("its cubins are damaged (SHA-256 differs)")
    return tuple(cubin_from_json(data, code.tobytes()) for data, code in zip(described, codes, strict=True))


def _labels(data: list[Any]) -> tuple[str, ...]:
    if not all(type(name) is str for name in data):
        raise ArtifactError("its labels are no names")
    return tuple(data)


def _digest(arrays: Iterable[np.ndarray], text: str = "") -> str:
    digest = hashlib.sha256(text.encode())
    for array in arrays:
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _json(metadata: dict[str, str], key: str, kind: type) -> Any:
    value = json.loads(metadata[key])
    if type(value) is not kind:
        raise ArtifactError(f"its {key} are no {kind.__name__}")
    return value
