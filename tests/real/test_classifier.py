"""EfficientNet-Lite0 with ImageNet weights: the classes of photographs, as ONNX Runtime has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import optgraph
from examples.photograph import PREPROCESS, class_names, export
from optgraph.compare.oracle import allowed, coarseness
from optgraph.int8.verdict import Verdict
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


def test_in_int8(model: Path, images: np.ndarray, answers: np.ndarray, record_property: Callable[..., None]) -> None:
    """The same classes, in float as the file says and in ONNX Runtime's integers, once the layers that lose most stay
    in float; with all in int8 and no bias corrected, the astronaut, whose two best classes are 13.1% and 12.4%, gets
    the other one. The cat's are 37.9% and 37.5%: which of them is first may hang on the processor that calibrates."""
    found = optgraph.quantize(model, images, tolerance=0.04)
    likely = np.exp(answers - answers.max(1, keepdims=True))
    likely /= likely.sum(1, keepdims=True)
    best = np.sort(likely, 1)[:, ::-1]
    sure = best[:, 0] > best[:, 1] + 0.005
    assert sure.sum() == len(images) - 1
    for integers in (False, True):
        running = session(found.model.SerializeToString(), optimize=integers, integers=integers)
        (logits,) = running.run(None, {"image": images})
        chosen = np.take_along_axis(likely, logits.argmax(1)[:, None], 1)[:, 0]
        assert (chosen >= np.where(sure, best[:, 0], best[:, 1])).all()
    assert min(found.verdict.top1, found.here.top1) >= sure.mean() and found.verdict.error <= 0.04
    assert found.verdict.probability is not None and found.verdict.probability < 1e-4
    assert found.plain.error < 0.15 and 0 < len(found.kept) < len(found.losses) / 3
    record_property("EfficientNet-Lite0 in int8", _told(found.verdict, f"{len(found.kept)} layers in float"))
    record_property("the same in ONNX Runtime's integers", _told(found.here, "the same file"))
    record_property("all of it in int8, no bias corrected", _told(found.plain, "a scale a channel"))


@pytest.fixture(scope="module")
def integers(model: Path, images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of it in int8."""
    path = tmp_path_factory.mktemp("integers") / "int8.onnx"
    optgraph.quantize(model, images, tolerance=9.0, look=1).save(path)
    return path


@pytest.mark.parametrize(("backend", "dtype"), [
    ("torch", "fp32"),
    ("onnxruntime", "int8"),
    ("interpret", "int8"),
    ("interpret", "fp16"),
])  # fmt: skip
def test_each_region_of_int8(
    integers: Path, images: np.ndarray, record_property: Callable[..., None], backend: str, dtype: str
) -> None:
    """By itself it is right to the step, though steps that rounding takes the other way put the answer off by 3 to 5%,
    in plain torch as in our kernels."""
    found = optgraph.verify(integers, backend, dtype, inputs=[{"image": images[-1:]}])
    assert found.ok and found.dtype == dtype, found.reason
    assert found.regions_compared == found.regions_total > 50
    assert found.outputs[0].top1 == 1.0 and found.outputs[0].rel_l2 < 0.1
    (note,) = found.notes
    assert note.startswith(f"each of the {found.regions_total} regions is right by itself")
    record_property(f"EfficientNet-Lite0 in int8 on {backend} in {dtype}", note)


def test_one_scale_for_a_weight_is_not_enough(
    model: Path, images: np.ndarray, record_property: Callable[..., None]
) -> None:
    """Of the depthwise layers, whose channels each have a range of their own."""
    by_channel, by_tensor = (
        optgraph.quantize(model, images, per_channel=each, tolerance=9.0, look=2) for each in (True, False)
    )
    assert by_tensor.plain.error > 3 * by_channel.plain.error and by_tensor.verdict.error > 2 * by_channel.verdict.error
    worst = by_tensor.losses[0]
    assert "depthwise" in worst.layer or "stem" in worst.layer
    assert worst.why.startswith("weights, one scale: the widest of 32 channels")
    record_property("one scale for each weight, no bias corrected", _told(by_tensor.plain, worst.why))
    record_property("one scale for each weight", _told(by_tensor.verdict, "biases corrected"))
    record_property("a scale a channel", _told(by_channel.verdict, "biases corrected"))


def _told(verdict: Verdict, about: str) -> str:
    same = f"top-1 agrees on {verdict.top1:.1%} of {verdict.pictures}, probabilities are {verdict.probability:.1e} off"
    return f"{verdict.error:.2%} off, {same} ({about})"
