"""`polygraphy run --optgraph`: what it compares, and what it says of models and options that cannot be used."""

from __future__ import annotations

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from polygraphy.exception import PolygraphyException
from polygraphy.json import load_json
from polygraphy.tools._main import main

from optgraph.adapters.polygraphy import NetFromOnnx, OptgraphRunner
from optgraph.api import compiling
from optgraph.api.net import Net
from optgraph.onnx.write import to_onnx
from tests.support.cli_models import classifier, expected, saved
from tests.support.paths import ROOT
from tests.support.two_inputs import shifted

GROUP = "polygraphy.run.plugins"
pytestmark = pytest.mark.filterwarnings("ignore:SelectableGroups:DeprecationWarning")  # Polygraphy's, of importlib


@pytest.fixture(autouse=True)
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry point of this checkout, whatever is installed."""
    info = tmp_path / "path" / "checkout-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: checkout\nVersion: 0\n")
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][GROUP]
    lines = [f"{name} = {value}" for name, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines, ""]))
    monkeypatch.syspath_prepend(info.parent)
    monkeypatch.chdir(tmp_path)


def run(*arguments: object) -> int:
    """The exit code of `polygraphy run`."""
    return int(main(["run", *map(str, arguments)]) or 0)


def said(capfd: pytest.CaptureFixture[str]) -> str:
    """All that was printed since the last call."""
    return "".join(capfd.readouterr())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved(tmp_path)


def test_equal_answers_pass_and_others_fail(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(model, "--optgraph", "--onnxrt", "--optgraph-backend", "interpret") == 0
    text = said(capfd)
    assert "fp32 on interpret" in text and "Pass Rate: 100.00%" in text
    half = (model, "--optgraph", "--onnxrt", "--optgraph-backend", "interpret", "--optgraph-dtype", "fp16")
    assert run(*half) == 1
    assert "Mismatched outputs: ['y']" in said(capfd)
    assert run(*half, "--atol", "5e-3") == 0


def test_a_net_that_answers_otherwise_fails(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = Net.__call__
    monkeypatch.setattr(Net, "__call__", lambda self, x: call(self, x) + np.float32(1e-4))
    assert run(model, "--optgraph", "--onnxrt") == 1


def test_saved_outputs_are_compared_in_a_later_run(model: Path, tmp_path: Path) -> None:
    assert run(model, "--optgraph", "--save-outputs", "y.json", "--save-inputs", "x.json") == 0
    assert run(model, "--onnxrt", "--load-outputs", "y.json", "--load-inputs", "x.json") == 0
    other = saved(tmp_path, classifier(op="Sigmoid"), "other.onnx")
    assert run(other, "--onnxrt", "--load-outputs", "y.json", "--load-inputs", "x.json") == 1
    (_, iterations), *_ = load_json("y.json").lst
    feeds = load_json("x.json")[0]
    np.testing.assert_allclose(iterations[0]["y"], expected(model, feeds["x"]), rtol=1e-4, atol=1e-6)


def test_open_sizes_are_those_of_input_shapes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = saved(tmp_path, classifier(("n", 3, "h", "w")))
    assert run(model, "--optgraph", "--onnxrt", "--input-shapes", "x:[3,3,10,14]", "--iterations", 2) == 0
    assert "x: float32 [N, 3, 10, 14]" in said(capfd)
    for shapes, says in (
        ((), "input 'x' leaves dimension 2 open (N,3,?,?): give all its sizes, as in --input-shapes NAME:"),
        (("--input-shapes", "x:[3,10,14]"), "input 'x' has 4 dimensions, --input-shapes gives 3"),
    ):
        assert run(model, "--optgraph", *shapes) == 1
        assert f"[!] {says}" in said(capfd)


def test_what_the_model_fixes_stays(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = saved(tmp_path, classifier((2, 3, 12, "w")))
    assert run(model, "--optgraph", "--onnxrt", "--input-shapes", "x:[2,3,99,16]") == 0
    assert "x: float32 [2, 3, 12, 16]" in said(capfd)


def test_marked_outputs_are_compared_too(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(model, "--optgraph", "--onnxrt", "--onnx-outputs", "logits", "pooled") == 0
    assert "All outputs matched | Outputs: ['logits', 'pooled']" in said(capfd)


def test_a_compiled_file_runs_with_what_it_has_settled(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    compiling.compile(model, "torch", "fp16").save("model.optgraph")
    compiled = "model.optgraph", "--model-type", "onnx", "--optgraph"
    assert run(*compiled) == 0
    assert "fp16 on onnxruntime" in said(capfd)
    assert run(*compiled, "--optgraph-dtype", "fp16") == 1
    assert "its dtype is settled: leave out --optgraph-dtype" in said(capfd)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--optgraph-backend", "trition"), "unknown backend 'trition': use auto"),
        (("--optgraph-backend", "interpret", "--optgraph-dtype", "bf16"), "interpreter cannot multiply bf16"),
    ],
)
def test_options_that_cannot_be_used(
    model: Path, options: tuple[str, ...], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(model, "--optgraph", *options) == 1
    assert says in said(capfd)


def test_a_model_that_cannot_be_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    assert run("bad.onnx", "--optgraph") == 1
    text = said(capfd).replace(f"{tmp_path}/", "")
    assert "[!] bad.onnx" in text and "Traceback" not in text


def test_a_script_does_the_same(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(model, "--optgraph", "--onnxrt", "--optgraph-backend", "torch", "--gen-script", "compare.py") == 0
    exec(compile((tmp_path / "compare.py").read_text(), "compare.py", "exec"), {})
    assert "fp32 on torch" in said(capfd)


def test_a_runner_in_python() -> None:
    with OptgraphRunner(NetFromOnnx(to_onnx(shifted()), "torch")) as runner:
        inputs = runner.get_input_metadata(use_numpy_dtypes=False)
        assert inputs.keys() == runner.net.inputs.keys() and len(inputs) == 2
        shapes = {name: [2 if dim is None else dim for dim in shape] for name, (_, shape) in inputs.items()}
        feeds = {name: np.random.default_rng(0).random(shape, np.float32) for name, shape in shapes.items()}
        arrays = runner.infer(feeds)
        tensors = runner.infer({name: torch.from_numpy(array) for name, array in feeds.items()})
        assert list(arrays) == list(runner.net.outputs) and runner.last_inference_time() > 0
        assert all(isinstance(tensors[name], torch.Tensor) for name in arrays)
        with pytest.raises(PolygraphyException, match="input"):
            runner.infer({name: array[..., :-1] for name, array in feeds.items()}, check_inputs=False)


def test_the_entry_point_is_the_plugin() -> None:
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][GROUP]
    groups = EntryPoint("optgraph", points["optgraph"], GROUP).load()()
    assert [type(group).__name__ for group in groups] == ["NetArgs", "OptgraphRunnerArgs"]


def test_a_model_in_memory_is_compiled_as_its_file(model: Path) -> None:
    x = np.random.default_rng(0).random((1, 3, 12, 12), np.float32)
    with OptgraphRunner(NetFromOnnx(lambda: onnx.load(model), "torch")) as runner:
        np.testing.assert_allclose(runner.infer({"x": x})["y"], expected(model, x), rtol=1e-4, atol=1e-6)
