"""Networks of 8 bits as ONNX Runtime's quantiser writes them: right by every way through.

The right answer is ONNX Runtime's with each operator computed as it says. Where a sum lies half way between two steps
of a grid, the order of its terms decides which is taken: so elements may be one step off, and are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnxruntime.quantization import QuantType

import optgraph
from optgraph.api.check import check
from optgraph.base.errors import InputError
from optgraph.cost.work import weight_bytes
from optgraph.ir.op import Node
from optgraph.onnx.read import read
from optgraph.onnx.sessions import session
from optgraph.onnx.write import save_onnx
from optgraph.run import reference
from tests.support.quantised import mixed_network, quantised

SYMMETRIC = {"ActivationSymmetric": True, "WeightSymmetric": True}
KINDS: dict[str, dict[str, Any]] = {
    "uint8, a scale a channel": {},
    "int8, symmetric": {"activation_type": QuantType.QInt8, "extra_options": SYMMETRIC},
    "uint8 weights, not symmetric": {"per_channel": False, "weight_type": QuantType.QUInt8},
    "7 bits, activations kept": {"reduce_range": True, "extra_options": {"QDQKeepRemovableActivations": True}},
}


@pytest.fixture(scope="module", params=KINDS, ids=str)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantised")
    quantised(mixed_network(), folder, **KINDS[request.param])
    return folder / "quantised.onnx"


def images(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(3, 8, 12, 12)).astype(np.float32)


def exact(model: bytes, x: np.ndarray) -> np.ndarray:
    return np.asarray(session(model, optimize=False).run(None, {"x": x})[0])


def assert_same_but_for_ties(got: np.ndarray, want: np.ndarray, share: float = 0.1) -> None:
    """Both on one grid, at most one step apart, and that in a share of the elements."""
    assert got.shape == want.shape and len(np.unique(want)) > 10, "it hardly depends on the input"
    step = np.diff(np.unique(want)).min()
    steps = np.abs(got - want) / step
    assert steps.max() < 1.01 and (steps > 0.01).mean() <= share, Counter(np.rint(steps).ravel().tolist())


WAYS: dict[str, Callable[[Path, Path], Any]] = {
    "torch": lambda path, _: optgraph.compile(path, backend="torch"),
    "onnxruntime": lambda path, _: optgraph.compile(path, backend="onnxruntime"),
    "interpret": lambda path, _: optgraph.compile(path, backend="interpret"),
    "cut": lambda path, _: optgraph.compile(path, backend="torch", outputs=[onnx.load(path).graph.output[0].name]),
    "saved": lambda path, folder: _loaded(path, folder / "net.optgraph"),
}


def _loaded(path: Path, saved: Path) -> optgraph.Net:
    net = optgraph.compile(path, backend="torch")
    net.save(saved)
    again = optgraph.load(saved, backend="torch")
    assert again.simplified.grids == net.simplified.grids and again.simplified.grids
    return again


@pytest.mark.parametrize("way", WAYS)
def test_every_way_through(path: Path, way: str, tmp_path: Path) -> None:
    x = images()
    assert_same_but_for_ties(WAYS[way](path, tmp_path)(x), exact(path.read_bytes(), x))


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_every_convolution_rounds_in_its_own_launch(path: Path, dtype: str) -> None:
    net = optgraph.compile(path, backend="torch", dtype=dtype)
    kinds = Counter(node.op.kind for node in net.fused.nodes())
    assert kinds["FakeQuantize"] == 1 and kinds["Conv"] == 10 and not kinds["Activation"], kinds
    assert not net.plan(1).fallbacks


def test_check_takes_it(path: Path) -> None:
    assert check(path).ok


def _kernels(model: bytes, folder: Path) -> Counter[str]:
    """What ONNX Runtime makes of a model."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


def test_optimize_keeps_the_integers(path: Path, tmp_path: Path) -> None:
    """ONNX Runtime computes as much of it in integers as of the original, and the same."""
    graph, out = optgraph.simplify(read(path)), tmp_path / "out.onnx"
    save_onnx(graph, out)
    before, after = _kernels(path.read_bytes(), tmp_path), _kernels(out.read_bytes(), tmp_path)
    in_integers = {name: count for name, count in before.items() if name.startswith("Q")}
    assert in_integers["QLinearConv"] >= 7
    assert {name: after[name] for name in in_integers} == in_integers
    sizes = [sum(len(t.raw_data) for t in onnx.load(file).graph.initializer) for file in (path, out)]
    assert sizes[1] < 1.1 * sizes[0]
    np.testing.assert_array_equal(exact(path.read_bytes(), images()), exact(out.read_bytes(), images()))


@pytest.mark.parametrize(("backend", "dtype"), [("torch", "fp32"), ("interpret", "fp16")])
def test_verify(tmp_path: Path, backend: str, dtype: str) -> None:
    quantised(mixed_network(), tmp_path, **KINDS["int8, symmetric"])
    found = optgraph.verify(tmp_path / "quantised.onnx", backend, dtype, batch=3)
    assert found.ok and found.regions_total >= 18, found.reason
    # All but two that go into a concatenation: they are on its grid, the original's values on their own.
    assert found.regions_compared == found.regions_total - 2


def test_verify_tells_a_wrong_scale(tmp_path: Path) -> None:
    """One scale of a weight a tenth too large is no tie."""
    quantised(mixed_network(), tmp_path)
    path, saved = tmp_path / "quantised.onnx", tmp_path / "net.optgraph"
    net = optgraph.compile(path, backend="torch")
    name = next(name for name, grid in net.fused.grids.items() if grid.dtype != "int32")
    for graph in (net.simplified, net.fused):
        graph.constants[name] = graph.constants[name] * np.float32(1.1)
    net.save(saved)
    found = optgraph.verify(saved, "torch", original=path, batch=3)
    assert not found.ok and found.first_bad_region is not None


# ---- int8


@pytest.mark.parametrize("kind", ["uint8, a scale a channel", "int8, symmetric", "7 bits, activations kept"])
def test_int8_gives_the_integers_of_the_floats(kind: str, tmp_path: Path) -> None:
    """Each value that is stored as int8 against that of the floats: equal but for a few elements, a step apart."""
    model = quantised(mixed_network(), tmp_path, **KINDS[kind])
    net = optgraph.compile(model, backend="interpret", dtype="int8")
    plan, x = net.plan(3), images()
    assert not plan.fallbacks and len(plan.grids) == 17
    stored = Counter(view.dtype for call in plan.calls for view in call.written)
    assert stored == {"int8": 15, "float32": 1}
    floats = reference.run(net.fused, {"x": x}, keep=plan.grids)
    compared = set()

    def see(node: Node, values: Mapping[str, torch.Tensor]) -> None:
        for name in values.keys() & plan.grids.keys():
            steps = ((values[name] - floats[name]).abs() / plan.grids[name].scale).round()
            # A mean of so many steps often lies half way between two.
            share = 0.1 if node.op.kind in ("GlobalPool", "Reshape") else 1e-3
            assert steps.max() <= 1 and (steps > 0).float().mean() <= share, node.name
            compared.add(name)

    net.runtime.stepwise({"x": torch.from_numpy(x)}, 3, see)
    assert compared == set(plan.grids)
    assert_same_but_for_ties(net(x), exact(model.SerializeToString(), x))


def test_int8_saved_and_verified(tmp_path: Path) -> None:
    quantised(mixed_network(), tmp_path)
    path, saved = tmp_path / "quantised.onnx", tmp_path / "net.optgraph"
    net = optgraph.compile(path, backend="interpret", dtype="int8")
    net.save(saved)
    assert optgraph.load(saved, backend="torch").dtype == "int8"
    assert weight_bytes(net.fused, "int8") < 0.6 * weight_bytes(net.fused, "fp16")
    found = optgraph.verify(saved, "interpret", original=path, batch=3)
    assert found.ok and found.dtype == "int8", found.reason


def test_int8_in_onnx_runtime_is_its_own(tmp_path: Path) -> None:
    """It multiplies integers, which its plain float kernels do not give to the last bit."""
    model, x = quantised(mixed_network(), tmp_path), images()
    running = session(model.SerializeToString(), integers=True)
    got = optgraph.compile(model, backend="onnxruntime", dtype="int8")(x)
    np.testing.assert_array_equal(got, running.run(None, {"x": x})[0])


def test_int8_of_a_model_without_grids() -> None:
    with pytest.raises(InputError, match="optgraph quantize"):
        optgraph.compile(mixed_network(), backend="torch", dtype="int8")
