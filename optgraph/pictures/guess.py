"""What is to be done to pictures for a model of which nobody says: by what is known of it, and why.

Sound is what the model itself shows: an input of integers, a first step that normalises, the metadata of Ultralytics.
The rest is what most networks of an exporter want. Whatever it is, people are told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from optgraph.base.errors import InputError
from optgraph.ir.graph import Graph
from optgraph.ir.values import Value, channels_last
from optgraph.onnx.external_data import is_external
from optgraph.onnx.load import load_model
from optgraph.onnx.stripped import parameters
from optgraph.pictures.labels import check_labels, classes, fitting, labels_in, read_labels
from optgraph.pictures.preprocess import CENTRE, NAMED, Preprocess, picture_input

# The spread of a picture's numbers as networks want them: x/255 has 1, torchvision's 4.4. Of an input from 0 to 1, less
# than 1.5 may be anything.
_SPREADS = {1.0: (0.9, 6.0), 255.0: (1.5, 6.0)}
_MOVES = ("Identity", "Cast", "Transpose")
_STEPS = 16  # at the beginning of a network, that are looked at


def for_pictures(
    source: str | Path | onnx.ModelProto,
    graph: Graph,
    open_sizes: bool,
    preprocess: Preprocess | str | None,
    labels: Sequence[str] | str | Path,
) -> tuple[Preprocess | None, tuple[str, ...]]:
    """What is done to pictures for a network, None if it takes none, and what its classes are called: what is said, or
    else what its model, `source`, says.

    graph: of the network. open_sizes: it runs at sizes that suit the pictures. A guess cuts nothing off them then,
    nor for a network that answers with no classes but, say, with boxes.
    Raises InputError for a preprocessing that there is not, and for labels of another number than the classes.
    """
    model = load_model(source, external=False)
    inputs = {name: graph.values[name] for name in graph.inputs}
    outputs = {public: graph.values[name] for public, name in graph.outputs.items()}
    if isinstance(labels, str | Path):
        labels, told = read_labels(Path(labels)), str(labels)
    else:
        told = "labels"
    if labels:
        check_labels(labels, outputs, told)
    else:
        found = labels_in(model)
        labels = found if fitting(found, outputs) else ()
    name = picture_input(inputs)
    if isinstance(preprocess, str):
        preprocess = Preprocess.named(preprocess)
    elif preprocess is None and name is not None:
        preprocess = guess(model, name, inputs[name])
        if open_sizes or not any(classes(value.shape) for value in outputs.values()):
            preprocess = preprocess.changed(crop=None)
    if not isinstance(preprocess, Preprocess | None):
        raise InputError(f"preprocess: expects a name or a Preprocess, got {type(preprocess).__name__}")
    return preprocess if name is not None else None, tuple(labels)


def guess(model: onnx.ModelProto, name: str, value: Value) -> Preprocess:
    """For the input called `name` of a model. `why` is for people: 'a guess: ...'."""
    if not value.dtype.startswith("float"):
        return replace(NAMED["none"], why="for its input is of integers")
    torch_like = model.producer_name == "pytorch" and not channels_last(value.shape)
    scale = _scale_wanted(model, name)
    if scale is not None:
        why = f"for the network scales pixels from 0 to {255 / scale:g} itself"
        return Preprocess("none" if scale == 1 else "", scale, crop=CENTRE if torch_like else None, why=why)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if metadata.get("author") == "Ultralytics" or {"names", "stride"} <= metadata.keys():  # the latter of YOLOv5
        if metadata.get("task") == "classify":
            return Preprocess(scale=255.0, crop=1.0, why="as Ultralytics does, whose metadata the model has")
        return Preprocess(scale=255.0, why="of Ultralytics, which would not stretch it, but pad it")
    if torch_like and value.shape[1] == 3:
        return replace(NAMED["torch"], why="a guess: pytorch wrote the model; see --preprocess")
    if model.producer_name == "tf2onnx":
        return replace(NAMED["keras"], why="a guess: tf2onnx wrote the model; see --preprocess")
    return replace(NAMED["keras"], why="by default: the model does not say; see --preprocess")


def _scale_wanted(model: onnx.ModelProto, name: str) -> float | None:
    """What pixels are to be divided by, 1 or 255, for a model that goes on from there itself; None if it does not.

    Then its first steps are sums and products with constants that bring pixels to the numbers that networks learn from.
    """
    found = _first_steps(model, name)
    if found is None:
        return None
    factor, shift = found
    for scale, (least, most) in _SPREADS.items():
        spread = factor * 255 / scale
        if (least <= spread).all() and (spread <= most).all() and (-spread <= shift).all() and (shift <= 0).all():
            return scale
    like_caffe = (factor == 1).all() and (shift > -160).all() and (shift < -80).all()
    return 1.0 if like_caffe else None


def _first_steps(model: onnx.ModelProto, name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """What the first steps that read an input make of it: x * factor + shift, by channel. None if there are none."""
    constants = {
        key: numpy_helper.to_array(tensor).astype(np.float64).reshape(-1)
        for key, tensor in parameters(model).items()
        if not is_external(tensor) and np.prod(tensor.dims) in (1, 3)
    }
    factor, shift, steps = np.ones(3), np.zeros(3), 0
    for _ in range(_STEPS):
        readers = [node for node in model.graph.node if name in node.input]
        if len(readers) != 1:
            break
        (node,) = readers
        if node.op_type not in _MOVES:
            constant = constants.get(next((other for other in node.input if other != name), ""))
            turned = node.input[0] != name and node.op_type not in ("Add", "Mul")
            if constant is None or turned or node.op_type not in ("Add", "Sub", "Mul", "Div"):
                break
            if node.op_type in ("Add", "Sub"):
                shift = shift + (constant if node.op_type == "Add" else -constant)
            else:
                with np.errstate(divide="ignore", invalid="ignore"):
                    by = constant if node.op_type == "Mul" else 1 / constant
                    factor, shift = factor * by, shift * by
            steps += 1
        name = node.output[0]
    return (factor, shift) if steps else None
