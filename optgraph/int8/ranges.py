"""What numbers each tensor of a network takes on pictures: by `onnxruntime.quantization`, a batch at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from optgraph.base.errors import InputError
from optgraph.base.progress import Progress, silent
from optgraph.onnx.sessions import Feeds

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

    model: in float, with the shapes of its values. Of the activations only those of one batch are in memory.
    Raises InputError for a method that there is not, for no pictures, and for numbers that are not finite.
    """
    from onnxruntime.quantization import CalibrationMethod, create_calibrator
    from onnxruntime.quantization.calibrate import HistogramCollector, TensorData, TensorsData

    check_method(method)
    kind, bins = METHODS[method]
    with tempfile.TemporaryDirectory(prefix="optgraph-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        calibrator = create_calibrator(
            path,
            list(OPERATORS),
            augmented_model_path=str(Path(folder) / "with_outputs.onnx"),
            calibrate_method=CalibrationMethod[kind],
            extra_options={"num_bins": bins, "symmetric": False} if bins else {},
        )
        if bins:
            collector = HistogramCollector(kind.lower(), False, bins, LEVELS, PERCENTILE, "same")
            collector.collect = collector.collect_value  # which the other calls, after printing that it does
            calibrator.collector = collector
        seen = 0
        for feeds in batches:
            progress(f"ranges, batch {seen + 1}", 0.0)
            if not all(np.isfinite(array).all() for array in feeds.values()):
                raise InputError("pictures with numbers that are not finite: are they made ready right?")
            try:
                calibrator.collect_data(_Batch(feeds))
            except ValueError as error:  # of numpy, for a histogram from or to infinity
                raise InputError(f"the network's numbers on these pictures have no range: {error}") from None
            seen += 1
        if not seen:
            raise InputError("no pictures to quantise on: give some of the kind the network is for")
        if bins:  # what `compute_data` does, which prints, too
            limit = percentile if method == "percentile" else collector.get_entropy_threshold
            limits = {name: limit(found, LEVELS) for name, found in collector.histogram_dict.items()}
            data = {name: TensorData(lowest=low, highest=high) for name, (low, high) in limits.items()}
            ranges = TensorsData(CalibrationMethod[kind], data)
        else:
            ranges = calibrator.compute_data()
    for name, data in ranges.items():
        if not np.isfinite(data.range_value).all():
            raise InputError(f"the numbers of '{name}' are not finite on these pictures: are they made ready right?")
    return ranges


def percentile(histogram: Sequence[Any], levels: int = LEVELS) -> tuple[np.ndarray, np.ndarray]:
    """The range of most numbers of a histogram (counts, edges, least, greatest): PERCENTILE says of how many, and half
    of the others are below it."""
    counts, edges, low, high, *_ = histogram
    below = np.cumsum(counts) / counts.sum()
    out = (1 - PERCENTILE / 100) / 2
    first, last = np.searchsorted(below, out, side="right"), np.searchsorted(below, 1 - out)
    return np.maximum(edges[first], low), np.minimum(edges[min(last + 1, len(edges) - 1)], high)


class _Batch:
    """One batch, as a calibrator reads it: then it lets go of the activations before the next."""

    def __init__(self, feeds: Feeds) -> None:
        self._left: list[Feeds] = [feeds]

    def get_next(self) -> dict[str, Any] | None:
        return dict(self._left.pop()) if self._left else None
