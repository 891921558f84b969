"""The ONNX standard's own tests, of the operators a CNN can contain and of models, through `optgraph.adapters`.

    python -m benchmarks.conformance

Writes benchmarks/results/conformance.json and, from it, docs/conformance.md.
"""

from __future__ import annotations

import json
import os
import re
import unittest
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

os.environ.setdefault("TRITON_INTERPRET", "1")

import onnx
from onnx import helper
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

from benchmarks import record
from optgraph.adapters.onnx_backend import OptgraphBackend, OptgraphRep
from optgraph.base.dtypes import ITEMSIZE

DOCUMENT = record.ROOT / "docs" / "conformance.md"
# For each backend, what the ways of passing and not passing are called.
BACKENDS = {
    "torch": ("own", "evaluator", "skipped", "failed"),
    "interpret": ("kernels", "fallback", "skipped", "failed"),
}

OPERATORS = {
    "Windows": "AffineGrid AveragePool Conv ConvTranspose DepthToSpace GlobalAveragePool GlobalMaxPool GridSample "
    "LpPool MaxPool Resize SpaceToDepth Upsample",
    "Normalisation": "BatchNormalization GroupNormalization InstanceNormalization LRN LayerNormalization "
    "LpNormalization MeanVarianceNormalization RMSNormalization",
    "Activations": "Celu Clip Elu Gelu HardSigmoid HardSwish LeakyRelu Mish PRelu Relu Selu Shrink Sigmoid Softplus "
    "Softsign Swish Tanh ThresholdedRelu",
    "Arithmetic": "Abs Acos Acosh Add Asin Asinh Atan Atanh Ceil Cos Cosh Div Erf Exp Floor Log Max Mean Min Mod Mul "
    "Neg Pow Reciprocal Round Sign Sin Sinh Sqrt Sub Sum Tan",
    "Logic": "And BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Equal Greater GreaterOrEqual IsInf IsNaN Less "
    "LessOrEqual Not Or Where Xor",
    "Products and heads": "ArgMax ArgMin CumProd CumSum Det Einsum Gemm Hardmax LogSoftmax MatMul Softmax TopK",
    "Quantised": "ConvInteger DequantizeLinear DynamicQuantizeLinear MatMulInteger QLinearConv QLinearMatMul "
    "QuantizeLinear",
    "Reductions": "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
    "ReduceSumSquare",
    "Shapes and data movement": "Cast CastLike CenterCropPad Compress Concat Constant ConstantOfShape Dropout Expand "
    "EyeLike Flatten Gather GatherElements GatherND Identity NonZero OneHot Pad Range Reshape ReverseSequence "
    "ScatterElements ScatterND Shape Size Slice Split Squeeze Tile Transpose Trilu Unsqueeze",
    "Models": "PyTorchConvertedModels PyTorchOperators RealModels SimpleModels",
}

# What the suite calls those of its tests that are models, and what their rows are called.
MODELS = {
    "OnnxBackendPyTorchConvertedModelTest": "PyTorchConvertedModels",
    "OnnxBackendPyTorchOperatorModelTest": "PyTorchOperators",
    "OnnxBackendRealModelTest": "RealModels",
    "OnnxBackendSimpleModelTest": "SimpleModels",
}

# Tests whose data are not to be met, and why; ONNX Runtime 1.31 fails the first two as we do.
_CORNERS = "its data hold scale * size for the length of the output; ONNX Runtime and torch take the size"
DISPUTED = {f"test_resize_downsample_scales_{mode}_align_corners": _CORNERS for mode in ("linear", "cubic")} | {
    "test_mish_expanded": "log(exp(x) + 1) has three digits at -10 in float32, in whichever way exp is rounded"
}


class Case(NamedTuple):
    """A test of a node, or of a model. `narrow`: it has a tensor of a type that we know and no network here has."""

    name: str
    operator: str
    narrow: bool


class Outcome(NamedTuple):
    """own, kernels: passed, through our operators or kernels alone. evaluator, fallback: passed, `detail` run by ONNX's
    reference evaluator, or by torch for want of a kernel. skipped, failed: `detail` is the reason."""

    kind: str
    detail: str


class _Recorded(OptgraphBackend):
    """Remembers what it prepared, for nothing may pass that has not run."""

    backend: ClassVar[str]
    prepared: ClassVar[OptgraphRep | None] = None

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> OptgraphRep:
        cls.prepared = super().prepare(model, device, backend=cls.backend)
        return cls.prepared


def cases() -> list[Case]:
    """The node tests of OPERATORS: those of one node, and the same ones written out as ONNX defines the operator. And
    all models."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its test data overflow on purpose
        tests = load_model_tests(kind="node")
    operators = {t.name: t.model.graph.node[0].op_type for t in tests if t.model and len(t.model.graph.node) == 1}
    wanted = {name for names in OPERATORS.values() for name in names.split()}
    found = []
    for test in tests:
        operator = operators.get(re.sub(r"_expanded.*$", "", test.name)) or operators.get(test.name)
        if operator in wanted and test.model:
            found.append(Case(test.name, operator, _narrow(test.model)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        suites = Runner(OptgraphBackend).test_cases
    for suite, row in MODELS.items():
        names = (name for name in dir(suites[suite]) if name.startswith("test_") and name.endswith("_cpu"))
        found += [Case(name.removesuffix("_cpu"), row, False) for name in names]
    return found


def _narrow(model: onnx.ModelProto) -> bool:
    kinds = {info.type.tensor_type.elem_type for info in (*model.graph.input, *model.graph.output)}
    kinds -= {onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING}
    return any(str(helper.tensor_dtype_to_np_dtype(kind)) not in ITEMSIZE for kind in kinds)


def outcomes(backend: str, names: set[str]) -> Iterator[tuple[str, Outcome]]:
    """Runs the named tests, as `onnx.backend.test` has them, on the CPU."""
    recorded = type("Recorded", (_Recorded,), {"backend": backend})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        suites = Runner(recorded).test_cases
        for name in sorted(names):
            recorded.prepared = None
            result = unittest.TestResult()
            method = f"{name}_cpu"
            suite = next(suites[s] for s in ("OnnxBackendNodeModelTest", *MODELS) if hasattr(suites[s], method))
            suite(method).run(result)
            found = outcome(result, recorded.prepared, BACKENDS[backend])
            if name in DISPUTED and found.kind == "failed":
                found = Outcome("skipped", DISPUTED[name])
            yield name, found


def outcome(result: unittest.TestResult, rep: OptgraphRep | None, kinds: tuple[str, ...]) -> Outcome:
    """What one test came to. One that passed and has not run has failed."""
    if result.skipped:
        return Outcome("skipped", re.sub(r"^node .*?\): ", "", result.skipped[0][1]))
    if not result.wasSuccessful():
        return Outcome("failed", [*result.failures, *result.errors][0][1].strip().splitlines()[-1])
    if rep is None or not rep.runs:
        return Outcome("failed", "passed without running")
    return Outcome(kinds[bool(rep.helped)], ", ".join(rep.helped))


def measure() -> list[dict[str, Any]]:
    """A row an operator: its cases, and for each backend what became of them."""
    found = cases()
    operators = {case.name: case.operator for case in found if not case.narrow}
    rows: dict[str, dict[str, Any]] = {}
    for operator in sorted({case.operator for case in found}):
        narrow = sum(case.narrow for case in found if case.operator == operator)
        rows[operator] = {"operator": operator, "cases": Counter(operators.values())[operator], "narrow": narrow}
    for backend, kinds in BACKENDS.items():
        counts: dict[str, dict[str, Any]] = defaultdict(
            lambda kinds=kinds: {**dict.fromkeys(kinds[:2], 0), "skipped": Counter(), "failed": {}}
        )
        for name, (kind, detail) in outcomes(backend, set(operators)):
            count = counts[operators[name]]
            if kind == "failed":
                count["failed"][name] = detail
            elif kind == "skipped":
                count["skipped"][detail] += 1
            else:
                count[kind] += 1
        for operator, row in rows.items():
            row[backend] = counts[operator]
    return list(rows.values())


# ---- the document

HEADER = """# Conformance

The ONNX standard's own tests (`onnx.backend.test` of onnx {onnx}) of every operator that a CNN can contain, and of
models, run through `optgraph.adapters.onnx_backend` on the CPU. Generated by `python -m benchmarks.conformance` on
{date}.

- **cases**: the tests whose model is one node of that operator, and their `_expanded` twins, which write it out as the
  standard defines it; of the last group, the models that the suite comes with. Not counted: {narrow} cases to or from
  types of 2, 4 or 8 bits that no network here holds (float8, float4, int4, uint4, int2, uint2). Tests of other
  operators (recurrent, attention, loss, control flow, strings) are none of a CNN's.
- **torch: own**: passed, in plain torch of ours alone: float32, and float64 where there are doubles.
- **torch: evaluator**: passed, with at least one operator that torch does not have and ONNX's own reference evaluator
  (numpy) runs. There it agrees with the standard because it is the standard's code: what such a case checks is import,
  shapes, passes and data types, not arithmetic of ours.
- **interpret: kernels**: passed, through the Triton kernels (and views) alone, in Triton's interpreter.
- **interpret: fallback**: passed, with at least one operator that has no kernel (for this use) and falls back to what
  the torch backend does. The suite's tensors are mostly of rank 1 to 3, integers, or two activations to multiply,
  and kernels are for images.
- **skipped**: refused, with a reason, below. A case that passes without running counts as failed.

"""


def document(found: dict[str, Any]) -> str:
    """docs/conformance.md, from the results."""
    rows = {row["operator"]: row for row in found["rows"]}
    text = HEADER.format(
        onnx=found["versions"]["onnx"], date=found["date"], narrow=sum(row["narrow"] for row in rows.values())
    )
    titles = [f"{backend}: {column}" for backend, columns in BACKENDS.items() for column in columns]
    text += f"| operator | cases | {' | '.join(titles)} |\n|---|---:|" + "---:|" * len(titles) + "\n"
    text += _line("**all**", list(rows.values()))
    for group, names in OPERATORS.items():
        members = [rows[name] for name in names.split()]
        text += _line(f"**{group}**", members)
        text += "".join(_line(row["operator"], [row]) for row in members)
    for backend in BACKENDS:
        text += f"\n## Skipped on {backend}\n\n| cases | operators | reason |\n|---:|---|---|\n"
        reasons: dict[str, Counter[str]] = defaultdict(Counter)
        for row in rows.values():
            for reason, count in row[backend]["skipped"].items():
                reasons[reason][row["operator"]] += count
        for reason, operators in sorted(reasons.items(), key=lambda item: (-item[1].total(), item[0])):
            text += f"| {operators.total()} | {', '.join(sorted(operators))} | {reason} |\n"
        failures = {name: why for row in rows.values() for name, why in row[backend]["failed"].items()}
        if failures:
            text += f"\n## Failed on {backend}\n\n" + "".join(f"- `{name}`: {why}\n" for name, why in failures.items())
    return text


def _line(name: str, rows: list[dict[str, Any]]) -> str:
    cells = [str(sum(row["cases"] for row in rows))]
    for backend, columns in BACKENDS.items():
        for column in columns:
            counts = (row[backend][column] for row in rows)
            cells.append(str(sum(count if isinstance(count, int) else _total(column, count) for count in counts)))
    return f"| {name} | {' | '.join(cells)} |\n"


def _total(column: str, entries: dict[str, Any]) -> int:
    return len(entries) if column == "failed" else sum(entries.values())


def main() -> None:
    path = record.write("conformance", measure(), backends=list(BACKENDS))
    text = document(json.loads(path.read_text()))
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(text)
    print(next(line for line in text.splitlines() if line.startswith("| **all**")))
    print(path, DOCUMENT)


if __name__ == "__main__":
    main()
