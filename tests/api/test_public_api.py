"""What `import optgraph` promises: these names, nothing heavy before they are used, no GPU."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import metadata

import numpy as np
import pytest
import torch

import optgraph
from optgraph.compare.verify import verify
from optgraph.onnx.write import to_onnx
from tests.support.networks import Builder, inception_a
from tests.support.paths import ROOT


def test_every_public_name_is_there() -> None:
    assert all(getattr(optgraph, name) is not None for name in optgraph.__all__)
    assert set(optgraph.__all__) <= set(dir(optgraph))
    with pytest.raises(AttributeError, match="no attribute 'fly'"):
        _ = optgraph.fly


def test_verify_is_the_function() -> None:
    assert optgraph.verify is verify


def test_the_version_is_the_one_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    def not_installed(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    assert "__version__" in dir(optgraph)
    monkeypatch.setattr(metadata, "version", not_installed)
    assert optgraph.__version__ == declared
    monkeypatch.setattr(metadata, "version", lambda name: f"{name} as installed")
    assert optgraph.__version__ == "optgraph as installed"


def test_importing_is_light_and_sets_nothing() -> None:
    code = (
        "import os, sys; before = dict(os.environ); import optgraph; "
        "assert not {'torch', 'onnx', 'triton'} & set(sys.modules), sorted(sys.modules); "
        "optgraph.compile; assert 'triton' not in sys.modules; assert dict(os.environ) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "interpret"])
def test_the_kind_that_goes_in_comes_out(backend: str) -> None:
    net = optgraph.compile(to_onnx(inception_a()), backend=backend)
    x = np.random.default_rng(0).standard_normal((2, 12, 9, 9)).astype(np.float32)
    from_array, from_tensor, from_dict = net(x), net(torch.from_numpy(x)), net({"x": x})
    assert isinstance(from_array, np.ndarray) and isinstance(from_tensor, torch.Tensor)
    assert from_array.dtype == np.float32 and from_array.shape == (2, 3, 9, 9)
    np.testing.assert_array_equal(from_array, from_tensor.numpy())
    np.testing.assert_array_equal(from_array, from_dict)


def test_several_outputs_come_by_name_and_several_inputs_go_by_name() -> None:
    b = Builder(channels=4, size=6)
    z = b.graph.add_input("z", b.graph.values["x"])
    model = to_onnx(b.done(b.conv(b.add(b.x, z), 3), b.act(z)))
    net = optgraph.compile(model, backend="torch")
    x = np.ones((1, 4, 6, 6), np.float32)
    results = net({"x": x, "z": -x})
    assert isinstance(results, dict) and list(results) == ["y0", "y1"]
    assert not results["y1"].any()
    with pytest.raises(optgraph.InputError, match="2 inputs: pass a dict of x, z"):
        net(x)
    with pytest.raises(optgraph.InputError, match="different batch sizes"):
        net({"x": x, "z": np.ones((2, 4, 6, 6), np.float32)})


@pytest.mark.parametrize(
    "x, message",
    [
        (np.ones((1, 12, 9, 9)), r"expects float32 of shape \[N, 12, 9, 9\], got float64: convert it"),
        (np.ones((1, 9, 9, 12), np.float32), r"got \[1, 9, 9, 12\]"),
        (np.ones((0, 12, 9, 9), np.float32), r"got \[0, 12, 9, 9\]"),
        ([1.0], "got a list: pass a numpy array or a torch tensor"),
        ({"image": np.ones((1, 12, 9, 9), np.float32)}, "inputs are x; got image"),
    ],
)
def test_inputs_that_do_not_fit(x, message: str) -> None:
    net = optgraph.compile(to_onnx(inception_a()), backend="torch")
    with pytest.raises(optgraph.InputError, match=message):
        net(x)


def test_simplify_leaves_its_argument_alone() -> None:
    graph = optgraph.read(to_onnx(inception_a()))
    nodes = len(graph)
    smaller = optgraph.simplify(graph)
    assert len(graph) == nodes and smaller is not graph
    smaller.verify()
