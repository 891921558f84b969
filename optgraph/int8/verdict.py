"""How far the answers of a model are from those of the float model, on pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx

from optgraph.base.errors import InputError
from optgraph.base.progress import Progress, silent
from optgraph.compare.tails import tail
from optgraph.ir.values import BATCH
from optgraph.onnx.sessions import Feeds, session
from optgraph.pictures.labels import classes

Batches = Callable[[], Iterable[Feeds]]


@dataclass(frozen=True)
class Verdict:
    """How far a model in int8 is off.

    Attributes:
        pictures: on how many.
        error: relative L2 of the answers to all of them, ‖int8 - float‖ / ‖float‖, of the output where it is largest.
        top1: the share of pictures that get the same best class; None where no output has scores of classes.
        probability: the mean absolute error of the classes' probabilities; None there, too.
    """

    pictures: int
    error: float
    top1: float | None = None
    probability: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"error": self.error if math.isfinite(self.error) else None}


class Judge:
    """Compares models with one in float, which is run with nothing optimised, as are the others but for integers."""

    def __init__(self, model: onnx.ModelProto, batches: Batches, progress: Progress = silent) -> None:
        self._exact = session(model.SerializeToString(), optimize=False)
        self._batches = batches
        self._progress = progress
        outputs = {each.name: each.type.tensor_type.shape.dim for each in model.graph.output}
        shapes = {name: [dim.dim_value or BATCH for dim in dims] for name, dims in outputs.items()}
        self._kinds = {name: tail(model.graph, name).kind for name, shape in shapes.items() if classes(shape)}

    def __call__(self, model: onnx.ModelProto, integers: bool = False) -> Verdict:
        """integers: by ONNX Runtime's kernels for them, which need not be exact; else in float, as the file says."""
        running = session(model.SerializeToString(), optimize=integers, integers=integers)
        errors = {name: [0.0, 0.0] for name in self._exact.outputs}
        same = pictures = rows = 0
        apart, probabilities = 0.0, 0
        for feeds in self._batches():
            self._progress("comparing answers", 0.0)
            exact = dict(zip(self._exact.outputs, self._exact.run(None, feeds), strict=True))
            found = dict(zip(running.outputs, running.run(None, feeds), strict=True))
            pictures += max((len(array) for array in feeds.values() if array.ndim), default=1)
            for name, theirs in exact.items():
                theirs, ours = (np.asarray(array, np.float64) for array in (theirs, found[name]))
                errors[name][0] += float(np.square(ours - theirs).sum())
                errors[name][1] += float(np.square(theirs).sum())
                if name in self._kinds:
                    scores = [array.reshape(len(array), -1) for array in (theirs, ours)]
                    same += int((scores[0].argmax(1) == scores[1].argmax(1)).sum())
                    rows += len(scores[0])
                    p, q = (_probabilities(array, self._kinds[name]) for array in scores)
                    apart += float(np.abs(p - q).sum())
                    probabilities += p.size
        if not pictures:
            raise InputError("no pictures to compare answers on")
        for name, (apart_by, whole) in errors.items():
            if apart_by and not whole:
                what = f"the network's '{name}' is 0 on all these pictures, so how far int8 is off cannot be told"
                raise InputError(f"{what}: give others, or name the outputs that count")
        error = max(_ratio(*each) for each in errors.values())
        if not rows:
            return Verdict(pictures, error)
        return Verdict(pictures, error, same / rows, apart / probabilities)


def _ratio(error: float, whole: float) -> float:
    if not math.isfinite(error) or not math.isfinite(whole):
        return math.inf
    if not error:
        return 0.0
    return math.sqrt(error / whole) if whole else math.inf


def _probabilities(scores: np.ndarray, kind: str) -> np.ndarray:
    """Of the classes of each row: what these are if a softmax or a sigmoid made them, else what a softmax makes."""
    if kind in ("Softmax", "Sigmoid", "HardSigmoid"):
        return scores
    if kind == "LogSoftmax":
        return np.asarray(np.exp(scores))
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))
