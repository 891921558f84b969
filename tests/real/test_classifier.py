"""EfficientNet-Lite0 with ImageNet weights: the classes of photographs, as ONNX Runtime has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import optgraph
from examples.photograph import PREPROCESS, class_names, export
from optgraph.compare.oracle import allowed, coarseness
from optgraph.ir.values import Value
from optgraph.onnx.sessions import session
from optgraph.pictures.labels import read_labels

# What is plainly to be seen, by index of ImageNet: the network itself is to be the trained one.
SEEN = {"chelsea": {281, 282, 285}, "coffee": {504, 967, 968}, "rocket": {657, 744, 812}, "flower": {985, 986}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("efficientnet") / "efficientnet_lite0.onnx"
    export(path)
    return path


@pytest.fixture(scope="module")
def images(photographs: dict[str, Image.Image]) -> np.ndarray:
    value = Value(("N", 3, 224, 224))
    return np.concatenate([PREPROCESS(image, value) for image in photographs.values()])


@pytest.fixture(scope="module")
def answers(model: Path, images: np.ndarray) -> np.ndarray:
    (logits,) = session(str(model), optimize=False).run(None, {"image": images})
    return np.asarray(logits)


def test_the_reference_sees_what_is_there(answers: np.ndarray, photographs: dict[str, Image.Image]) -> None:
    seen = dict(zip(photographs, answers.argmax(1), strict=True))
    assert {name: seen[name] in classes for name, classes in SEEN.items()} == dict.fromkeys(SEEN, True)
    names = read_labels(class_names())
    assert names[seen["chelsea"]] in ("tiger cat", "Egyptian cat") and names[seen["flower"]] == "daisy"


@pytest.mark.parametrize(("backend", "dtype"), [
    ("torch", "fp32"),
    ("onnxruntime", "fp32"),
    ("interpret", "fp32"),
    ("interpret", "tf32"),
    ("interpret", "fp16"),
])  # fmt: skip
def test_same_answers(model: Path, images: np.ndarray, answers: np.ndarray, backend: str, dtype: str) -> None:
    """Within what `verify` allows: in fp16, rounding alone puts this network off by 4.7e-3."""
    net = optgraph.compile(model, backend, dtype)
    assert not net.plan().fallbacks
    results = np.asarray(net(images))
    (name,), (output,) = net.inputs, net.outputs
    bound = allowed(dtype, coarseness(net, dtype, [{name: images}], [{output: answers}], {output: 0.0}))
    assert np.linalg.norm(results - answers) <= bound * np.linalg.norm(answers)
    assert (results.argmax(1) == answers.argmax(1)).all()
