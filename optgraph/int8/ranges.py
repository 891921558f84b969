"""What numbers each tensor of a network takes on pictures: by `onnxruntime.quantization`, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx

from optgraph.base.errors import InputError
from optgraph.base.progress import Progress, silent
from optgraph.onnx.sessions import Feeds, session
from optgraph.onnx.stripped import copied

# By name: ONNX Runtime's, and the bins of its histograms. The time it takes for an entropy grows with their square.
METHODS = {"minmax": ("MinMax", 0), "percentile": ("Percentile", 2048), "entropy": ("Entropy", 512)}
LEVELS = 128  # of an entropy: what numbers are rounded to
PERCENTILE = 99.999

# What ONNX Runtime, or a kernel of ours, computes in integers, and what only moves numbers between these.
PRODUCTS = ("Conv", "Gemm", "MatMul")
COMPUTE = (*PRODUCTS, "Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool")
ACTIVATE = ("Relu", "Clip", "LeakyRelu", "Sigmoid")
MOVE = ("MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Pad", "Slice", "Split", "Resize")
OPERATORS = (*COMPUTE, *ACTIVATE, *MOVE)


def check_method(method: str) -> None:
    """Raises InputError for one that there is not."""
    if method not in METHODS:
        raise InputError(f"calibrate '{method}': use {', '.join(METHODS)}")


def ranges(model: onnx.ModelProto, batches: Iterable[Feeds], method: str, progress: Progress = silent) -> Any:
    """The range of every tensor that may be quantised, as ONNX Runtime's `TensorsData`.

    model: in float, with the shapes of its values. Of the activations only those of one batch are in memory, and
    nothing is written to disk. Raises InputError for a method that there is not, for no pictures, and for numbers that
    are not finite.
    """
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import HistogramCollector, TensorData, TensorsData

    check_method(method)
    kind, bins = METHODS[method]
    names = _touched(model)
    running = session(_giving(model, names).SerializeToString(), optimize=False)
    collector = HistogramCollector(kind.lower(), False, bins, LEVELS, PERCENTILE, "same")
    limits: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    seen = 0
    for feeds in batches:
        progress(f"ranges, batch {seen + 1}", 0.0)
        if not all(np.isfinite(array).all() for array in feeds.values()):
            raise InputError("pictures with numbers that are not finite: are they made ready right?")
        values = {**feeds, **dict(zip(running.outputs, running.run(None, feeds), strict=True))}
        values = {name: values[name] for name in names if values[name].size}
        for name, array in values.items():
            low, high = array.min(), array.max()
            if not (np.isfinite(low) and np.isfinite(high)):
                raise InputError(
                    f"the numbers of '{name}' are not finite on these pictures: are they made ready right?"
                )
            before = limits.get(name, (low, high))
            limits[name] = np.minimum(low, before[0]), np.maximum(high, before[1])
        if bins:
            try:
                collector.collect_value(values)
            except ValueError as error:  # of numpy, for a histogram from or to infinity
                raise InputError(f"the network's numbers on these pictures have no range: {error}") from None
        seen += 1
    if not seen:
        raise InputError("no pictures to quantise on: give some of the kind the network is for")
    if bins:  # what `compute_data` of a calibrator does, which prints, too
        limit = percentile if method == "percentile" else collector.get_entropy_threshold
        limits = {name: limit(found, LEVELS) for name, found in collector.histogram_dict.items()}
    data = {name: TensorData(lowest=np.asarray(low), highest=np.asarray(high)) for name, (low, high) in limits.items()}
    return TensorsData(CalibrationMethod[kind], data)


def _touched(model: onnx.ModelProto) -> list[str]:
    """The values of floats that what may be quantised reads or gives."""
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    known = (*graph.value_info, *graph.output, *graph.input)
    floats = {value.name for value in known if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT} - constants
    nodes = [node for node in graph.node if node.op_type in OPERATORS]
    return list(dict.fromkeys(name for node in nodes for name in (*node.input, *node.output) if name in floats))


def _giving(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """A copy of `model` that answers with these values, too."""
    new = copied(model)
    own = {value.name for value in (*new.graph.input, *new.graph.output)}
    new.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in own)
    return new


def percentile(histogram: Sequence[Any], levels: int = LEVELS) -> tuple[np.ndarray, np.ndarray]:
    """The range of most numbers of a histogram (counts, edges, least, greatest): PERCENTILE says of how many, and half
    of the others are below it."""
    counts, edges, low, high, *_ = histogram
    below = np.cumsum(counts) / counts.sum()
    out = (1 - PERCENTILE / 100) / 2
    first, last = np.searchsorted(below, out, side="right"), np.searchsorted(below, 1 - out)
    return np.maximum(edges[first], low), np.minimum(edges[min(last + 1, len(edges) - 1)], high)
