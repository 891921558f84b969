"""The original model's answers, by ONNX Runtime: to the inputs compared on, and to others, to see what moves them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from optgraph.api.net import Net
from optgraph.base.errors import InputError, OptgraphError
from optgraph.compare.imported import Imported
from optgraph.compare.oracle import BOUNDS, SIGMOID_SCALE, agreement, distance, finite_part, furthest, moved, rounding
from optgraph.compare.tails import PROBABILITIES, Tail, tail
from optgraph.onnx.apart import EndedError
from optgraph.onnx.parts import upstream
from optgraph.onnx.sessions import Feeds, InnerValues
from optgraph.run.example import example

# ONNX Runtime's optimiser is at fault where it moves the answer this many times as far as rounding does.
FAULT_FACTOR = 10.0


class OutputError(NamedTuple):
    """How far an output is from the reference, at worst over the inputs.

    rel_l2, max_abs:    relative L2 (of a sigmoid, see `oracle.SIGMOID_SCALE`), and the largest absolute difference.
    top1, top5:         where it is scores of classes: how often the best class is the reference's, and how often that
                        is among the best five; else None.
    probability:        where it is probabilities: the largest difference of one; else None.
    """

    name: str
    rel_l2: float
    max_abs: float
    top1: float | None = None
    top5: float | None = None
    probability: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data; null stands for what is not finite."""
        items = self._asdict().items()
        return {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in items}


class Original:
    """The model that a net came from, on some inputs.

    values:         any value inside it.
    answers:        its outputs, for each of `feeds`.
    tails, scales:  by output, what it ends with, and the scale of its errors (see `oracle.distance`).
    moves:          by output that reads an input, how far inputs move it, in relative L2, at its logits if it has some.
    spreads:        by logits, the root mean square of how far another input of the same kind moves them. They can be
                    small differences of large numbers, on an image that leaves the network undecided.
    finite:         whether none of its answers has a NaN or an Inf.
    """

    def __init__(self, net: Net, values: InnerValues | Imported, feeds: Sequence[Feeds], batch: int, seed: int) -> None:
        """Raises InputError if the feeds are of different shapes."""
        if len({tuple(sorted((n, a.shape) for n, a in feed.items())) for feed in feeds}) > 1:
            raise InputError("inputs of different shapes: verify with one after the other")
        self.values = values
        self.feeds = feeds
        self.tails = {name: self._tail(name) for name in net.outputs}
        self.scales = {name: SIGMOID_SCALE if found.bounded else 0.0 for name, found in self.tails.items()}
        self._graph = net.simplified
        others = [example(net.inputs, batch, seed + 1), example(net.inputs, batch, seed, smooth=False)]
        judged = {found.judged for found in self.tails.values()}
        runs = values.run([*net.outputs, *judged], *feeds, *others)
        self.answers = [{name: run[name] for name in net.outputs} for run in runs[: len(feeds)]]
        self.finite = all(_finite(array) for answer in self.answers for array in answer.values())
        first, *rest = ({name: run[name] for name in judged} for run in runs)
        distances = moved(first, rest)
        depends = {name for name in net.outputs if not upstream(values.graph, [name])[1].isdisjoint(net.inputs)}
        self.moves = {name: distances[found.judged] for name, found in self.tails.items() if name in depends}
        alike = rest[len(feeds) - 1]
        self.spreads = {name: _apart(*finite_part(alike[name], first[name])) for name in judged - set(net.outputs)}

    def _tail(self, name: str) -> Tail:
        found = tail(self.values.graph, name)
        return found if found.judged in self.values else Tail(name, found.kind, found.axis)

    def noise(self) -> tuple[float, list[str]]:
        """How far float32 rounding alone moves the answers, and what is to be said of ONNX Runtime's optimiser.

        It is how far ONNX Runtime is from itself, without and with its optimisations, unless that is more than rounding
        can be: then how far it is from our own answer in float64.
        """
        first, answers = self.feeds[0], self.answers[0]
        try:
            (optimized,) = self.values.run(list(answers), first, optimize=True)
        except OptgraphError as error:
            changed, what = math.inf, "makes a model of this one that it does not run"
            if isinstance(error, EndedError):
                what = f"{error.how} on this model"
        else:
            changed = furthest(optimized, answers, self.scales)
            what = f"changes this model by {changed:.1e} (relative L2)"
        if changed <= BOUNDS["fp32"]:
            return changed, []
        try:
            exact = rounding(self._graph, first, answers, self.scales)
        except OptgraphError:  # an operator that torch has not
            return changed, []
        if changed > FAULT_FACTOR * exact:
            return exact, [f"ONNX Runtime's optimiser {what}: compared without it"]
        return min(changed, exact), []

    def blank(self, bound: float) -> list[str]:
        """What is to be said of outputs that a sigmoid makes the same everywhere, to within `bound`."""
        notes = []
        for name in (name for name, found in self.tails.items() if found.bounded):
            spreads = [float(np.std(answer[name], dtype=np.float64)) for answer in self.answers]
            if max(spreads) <= bound * self.scales[name]:
                notes.append(
                    f"'{name}' is the same everywhere on what it was compared on: give images that it sees "
                    "something in (--input)"
                )
        return notes

    def compare(self, name: str, results: Sequence[torch.Tensor]) -> OutputError:
        """How far the output `name` is off, given a backend's results for each of the feeds."""
        found, worst, furthest_off = self.tails[name], 0.0, 0.0
        tops: list[tuple[float, float | None]] = []
        for result, answer in zip(results, self.answers, strict=True):
            rel_l2, max_abs = distance(result, answer[name], self.scales[name])
            worst, furthest_off = max(worst, rel_l2), max(furthest_off, max_abs)
            axis = _classes(found, answer[name])
            if axis is not None and math.isfinite(rel_l2):
                tops.append(agreement(result.float().cpu().numpy(), answer[name], axis))
        top1 = float(np.mean([top for top, _ in tops])) if tops else None
        fives = [five for _, five in tops if five is not None]
        probability = furthest_off if found.kind in PROBABILITIES else None
        return OutputError(name, worst, furthest_off, top1, float(np.mean(fives)) if fives else None, probability)


def _classes(found: Tail, answer: np.ndarray) -> int | None:
    """The axis along which `answer` has the scores of classes; None if it does not look like such."""
    if answer.dtype.kind != "f" or answer.ndim < 2:
        return None
    axis = -1 if found.axis is None and answer.ndim == 2 and not found.bounded else found.axis
    return axis if axis is not None and answer.shape[axis] > 1 else None


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    """The root mean square of their difference; 0 where it is not finite."""
    found = float(np.sqrt(np.mean(np.square(np.subtract(one, other, dtype=np.float64))))) if one.size else 0.0
    return found if math.isfinite(found) else 0.0


def _finite(array: np.ndarray) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())
