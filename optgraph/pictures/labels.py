"""The names of classes: from a file, or from what an exporter wrote into the model."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from optgraph.base.errors import InputError
from optgraph.ir.values import Dim, Value

MOST = 1 << 24  # bytes of a file of names
MOST_METADATA = 1 << 20  # characters: twice 20,000 names, and the parser takes a thousand times as much memory
_KEYS = ("names", "labels", "classes", "class_names")
_SYNSET = re.compile(r"n\d{8}\s+")  # what lists of ImageNet's classes have before the name


def read_labels(path: Path) -> tuple[str, ...]:
    """The names in a file, in order: one a line, or JSON, a list or a dict of the classes' numbers.

    In JSON, a name may be the last of a list, as in Keras's imagenet_class_index.json. Raises InputError.
    """
    try:
        if path.stat().st_size > MOST:
            raise InputError(f"{path}: too large for a list of names")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text of UTF-8: expects a name a line, or JSON") from None
    if path.suffix.lower() != ".json":
        lines = text.rstrip().splitlines()
        return tuple(_SYNSET.sub("", line.strip(), count=1) for line in lines)
    try:
        return _names(json.loads(text))
    except (ValueError, TypeError, RecursionError):
        raise InputError(
            f'{path}: no names of classes: expects ["cat", "dog"], {{"0": "cat", "1": "dog"}} or '
            '{"0": ["n02124075", "cat"], ...}, from 0 with none missing'
        ) from None


def labels_in(model: onnx.ModelProto) -> tuple[str, ...]:
    """The names in a model's metadata: JSON, a Python literal (Ultralytics') or a list with commas or lines.

    () if it has none, or nothing that can be read.
    """
    found = {entry.key.lower(): entry.value for entry in model.metadata_props}
    for key in _KEYS:
        text = found.get(key, "").strip()
        if not text or len(text) > MOST_METADATA:
            continue
        if text[0] not in "[{(":
            names = re.split(r"\s*\n\s*" if "\n" in text else r"\s*,\s*", text)  # names in lines may have commas
            if len(names) > 1:
                return tuple(names)
            continue
        for parse in (json.loads, ast.literal_eval):
            try:
                return _names(parse(text))
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                continue
    return ()


def classes(shape: Sequence[Dim]) -> int | None:
    """How many classes an output of this shape, N×C or N×C×1×1, has scores of; None if it is no such output."""
    if len(shape) < 2 or any(d != 1 for d in shape[2:]) or not isinstance(shape[1], int) or shape[1] < 2:
        return None
    return shape[1]


def fitting(labels: Sequence[str], outputs: Mapping[str, Value]) -> bool:
    """Whether an output has scores of as many classes."""
    return len(labels) in {classes(value.shape) for value in outputs.values()}


def check_labels(labels: Sequence[str], outputs: Mapping[str, Value], source: str) -> None:
    """Raises InputError unless they are names, and an output has as many classes. source: where they are from."""
    if not isinstance(labels, Sequence) or not all(map(_is_text, labels)):
        raise InputError(f"{source}: expects the names of the classes, or the path of a file of them")
    if fitting(labels, outputs):
        return
    numbers = {name: classes(value.shape) for name, value in outputs.items()}
    told = ", ".join(f"output '{name}' has {number} classes" for name, number in numbers.items() if number)
    raise InputError(f"{source}: {len(labels)} names, and {told or 'no output has scores of classes'}")


def _names(data: Any) -> tuple[str, ...]:
    """Raises ValueError or TypeError for what has no names of classes."""
    if isinstance(data, dict):
        numbered = {int(str(number)): name for number, name in data.items()}
        if sorted(numbered) != list(range(len(data))):
            raise ValueError("a class is missing")
        data = [numbered[number] for number in range(len(data))]
    if not data or not isinstance(data, list | tuple):
        raise TypeError("no list")
    names = [entry[-1] if isinstance(entry, list | tuple) and entry else entry for entry in data]
    if not all(map(_is_text, names)):
        raise TypeError("no names")
    return tuple(names)


def _is_text(name: object) -> bool:
    """JSON can have half a surrogate pair for a character, which no file could be written with."""
    return isinstance(name, str) and not any("\ud800" <= c <= "\udfff" for c in name)
