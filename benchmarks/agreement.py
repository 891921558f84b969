"""Whether an answer is ONNX Runtime's, for models of any number types: by a bound, and else by what rounding can do.

An output is held to the bound of the coarsest floating numbers that it depends on. If it is further off, ONNX Runtime
runs the model again a few times, with every floating number that is no integer moved up or down by one unit in its last
place, at random: these are answers too, so what is off by as much as they move is no fault. So next to a pole of Tan,
where a Round lies on a tie, or with the cosine of a large number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from optgraph.base.errors import OptgraphError
from optgraph.compare.oracle import BOUNDS, NOISE_FACTOR, distance, finite_part
from optgraph.onnx.narrowed import in_float32, narrowed
from optgraph.onnx.parts import upstream
from optgraph.onnx.sessions import Feeds, InnerValues

BOUND = {"float16": BOUNDS["fp16"], "float32": BOUNDS["fp32"], "float64": 1e-10}  # relative L2, coarsest first
DOUBLES = frozenset({TensorProto.DOUBLE})
DRAWS = 8
VERDICTS = ("agrees", "rounding", "undefined", "differs")  # from the best to the worst


@dataclass(frozen=True)
class Judgement:
    """verdict: one of VERDICTS. error: relative L2; of integers, the share that differs. moved: as much
    of what rounding does to ONNX Runtime's answer, if that was asked."""

    output: str
    verdict: str
    error: float
    bound: float
    moved: float | None = None


@dataclass
class Theirs:
    """ONNX Runtime's values, nothing optimised, of `model` for `feeds`.

    Raises OptgraphError if it cannot run the model. Doubles that it has no operators for are float32, all of them.
    """

    model: onnx.ModelProto
    feeds: Feeds
    values: dict[str, np.ndarray] = field(init=False)
    _moved: list[dict[str, np.ndarray]] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        names = [name for node in self.model.graph.node for name in node.output if name]
        self.values = InnerValues(self.model).run(names, self.feeds)[0]
        graph = onnx.shape_inference.infer_shapes(self.model).graph
        doubles = [v.name for v in (*graph.value_info, *graph.output) if v.type.tensor_type.elem_type in DOUBLES]
        if any(self.values[name].dtype == np.float32 for name in doubles):
            self.model = in_float32(self.model, DOUBLES)
            self.feeds = {name: narrowed(array, DOUBLES) for name, array in self.feeds.items()}
            self.values = InnerValues(self.model).run(names, self.feeds)[0]

    @property
    def outputs(self) -> dict[str, np.ndarray]:
        return {info.name: self.values[info.name] for info in self.model.graph.output}

    def judge(self, answers: Mapping[str, np.ndarray]) -> list[Judgement]:
        """What each of another's outputs is."""
        return [self._judge(name, np.asarray(answers[name]), theirs) for name, theirs in self.outputs.items()]

    def numbers(self, output: str = "") -> str:
        """The coarsest type of floating numbers that `output`, or any, depends on; '' if there is none."""
        names = [output] if output else list(self.outputs)
        nodes, read = upstream(self.model.graph, names)
        arrays = [self.values[n] for node in nodes for n in node.output if n] + [
            *(array for name, array in self.feeds.items() if name in read),
            *(numpy_helper.to_array(t) for t in self.model.graph.initializer if t.name in read),
        ]
        found = {str(array.dtype) for array in arrays}
        return next((dtype for dtype in BOUND if dtype in found), "")

    def _judge(self, name: str, ours: np.ndarray, theirs: np.ndarray) -> Judgement:
        error = _distance(ours, theirs)
        bound = BOUND.get(self.numbers(name), 0.0) if theirs.dtype.kind == "f" else 0.0
        if error <= bound:
            return Judgement(name, "agrees", error, bound)
        if self._undefined(name):
            return Judgement(name, "undefined", error, bound)
        self._moved = self._moved or [_moved(self.model, self.feeds, self.values, seed) for seed in range(DRAWS)]
        others = (values[name] for values in self._moved)
        moved = max((_distance(other, theirs) for other in others if other.shape == ours.shape), default=0.0)
        return Judgement(name, "rounding" if error <= NOISE_FACTOR * moved else "differs", error, bound, moved)

    def _undefined(self, output: str) -> bool:
        """Whether a Cast before `output` is of numbers that its type has not, for which ONNX says nothing."""
        for node in upstream(self.model.graph, [output])[0]:
            source, result = self.values.get(node.input[0]) if node.input else None, self.values[node.output[0]]
            if node.op_type == "Cast" and result.dtype.kind in "iu" and source is not None and source.dtype.kind == "f":
                limits, numbers = np.iinfo(result.dtype), np.trunc(source.astype(np.float64))
                if not ((numbers >= limits.min) & (numbers <= limits.max)).all():
                    return True
        return False


def _distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    if theirs.dtype.kind == "f":
        return distance(*finite_part(ours, theirs))[0]
    return float(np.mean(ours != theirs)) if ours.shape == theirs.shape else math.inf


def _moved(model: onnx.ModelProto, feeds: Feeds, values: Feeds, seed: int) -> dict[str, np.ndarray]:
    """ONNX Runtime's outputs with all floating numbers moved by a unit in the last place."""
    rng = np.random.default_rng(seed)

    def factor(array: np.ndarray) -> np.ndarray:
        unit = np.finfo(array.dtype).eps * rng.choice((-1.0, 1.0), array.shape)
        return np.asarray(1 + np.where(array == np.round(array), 0, unit), array.dtype)

    def moves(array: np.ndarray) -> bool:
        return str(array.dtype) in BOUND and array.size > 0

    copy = onnx.ModelProto.FromString(model.SerializeToString())
    del copy.graph.node[:], copy.graph.value_info[:]
    for tensor in copy.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if moves(array):
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(array * factor(array)), tensor.name))
    for node in model.graph.node:
        copy.graph.node.append(node)
        for slot, name in enumerate(node.output):
            if name and moves(values[name]) and node.op_type not in ("Constant", "ConstantOfShape"):
                copy.graph.node[-1].output[slot] = f"{name} exact"
                copy.graph.initializer.append(numpy_helper.from_array(factor(values[name]), f"{name} factor"))
                copy.graph.node.append(helper.make_node("Mul", [f"{name} exact", f"{name} factor"], [name]))
    near = {name: np.asarray(a * factor(a)) if moves(a) else a for name, a in feeds.items()}
    try:
        return InnerValues(copy).run([info.name for info in model.graph.output], near)[0]
    except OptgraphError:  # a size that was computed in floating numbers
        return {info.name: values[info.name] for info in model.graph.output}
