"""Pictures in Python: what a net makes of files and of images of Pillow's, and what is refused."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import optgraph
from tests.support.cli_models import classifier, expected, saved
from tests.support.open_sizes import detector

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 31, 3), np.uint8)


def test_files_and_images_are_a_batch(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS)
    image.save(tmp_path / "cat.png")
    model = saved(tmp_path)
    net = optgraph.compile(model, "torch", preprocess="torch")
    x = net.preprocess(tmp_path / "cat.png", str(tmp_path / "cat.png"), image)
    assert x.shape == (3, 3, 12, 12) and (x[0] == x[2]).all() and (x[1] == x[2]).all()
    resized = np.asarray(image.resize((21, 14), Image.Resampling.BILINEAR), np.float32)[1:13, 4:16] / np.float32(255)
    by_hand = (resized - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    np.testing.assert_array_equal(x[0], by_hand.transpose(2, 0, 1))
    np.testing.assert_allclose(np.asarray(net(x)), expected(model, x), rtol=1e-4, atol=1e-6)


def test_another_preprocessing_is_assigned_and_saved(tmp_path: Path) -> None:
    net = optgraph.compile(classifier(), "torch")
    net.preprocessing = optgraph.Preprocess.named("none", mean=(127.0,), std=(128.0,), crop=0.875)
    net.save(tmp_path / "net.optgraph")
    loaded = optgraph.load(tmp_path / "net.optgraph", "torch")
    assert loaded.preprocessing == net.preprocessing
    image = Image.fromarray(PIXELS)
    np.testing.assert_array_equal(loaded.preprocess(image), net.preprocess(image))
    assert loaded.preprocess(image).min() < -0.5


def test_at_each_of_several_sizes(tmp_path: Path) -> None:
    net = optgraph.compile(detector(), "torch", sizes=[(16, 16), (12, 20)], preprocess="keras")
    net.save(tmp_path / "net.optgraph")
    for made in (net, optgraph.load(tmp_path / "net.optgraph", "torch")):
        assert made.preprocess(Image.fromarray(PIXELS)).shape == (1, 3, 16, 16)
        assert made.at(12, 20).preprocess(Image.fromarray(PIXELS)).shape == (1, 3, 12, 20)


def test_what_is_assigned_holds_at_every_size() -> None:
    """At those made before, those made after, and whichever of them it is assigned to; not in a copy."""
    net = optgraph.compile(detector(), "torch", sizes=[(16, 16), (12, 20)], preprocess="keras")
    before, apart, unlike = net.at(12, 20), pickle.loads(pickle.dumps(net)), copy.copy(net)
    net.preprocessing = optgraph.Preprocess.named("caffe")
    before.labels = ["a", "b"]
    for made in (net, before, net.at(12, 20), net.at(20, 12), before.at(16, 16)):
        assert made.preprocessing is net.preprocessing and made.labels == ("a", "b")
    for other in (apart, unlike):
        for made in (other, other.at(12, 20)):
            assert made.preprocessing == optgraph.Preprocess.named("keras") and made.labels == ()


def test_what_is_refused(tmp_path: Path) -> None:
    net = optgraph.compile(classifier(), "torch")
    for pictures, message in (
        ((), "no pictures"),
        ((PIXELS,), "expects the path of a file, got ndarray"),
        ((tmp_path / "none.png",), "No such file"),
        ((None,), "got NoneType"),
    ):
        with pytest.raises(optgraph.InputError, match=message):
            net.preprocess(*pictures)  # type: ignore[arg-type]
    with pytest.raises(optgraph.InputError, match="expects a Preprocess, got str"):
        net.preprocessing = "torch"  # type: ignore[assignment]
    net.preprocessing = None
    with pytest.raises(optgraph.InputError, match=r"assign net\.preprocessing"):
        net.preprocess(Image.fromarray(PIXELS))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"preprocess": 5}, "expects a name or a Preprocess, got int"),
        ({"preprocess": "tf"}, "use keras, torch, caffe, none"),
        ({"labels": 5}, "labels: expects the names"),
        ({"labels": [1, 2]}, "labels: expects the names"),
        ({"labels": "nowhere.txt"}, "nowhere.txt: cannot be read"),
    ],
)
def test_what_compile_refuses(given: dict, message: str) -> None:
    with pytest.raises(optgraph.InputError, match=message):
        optgraph.compile(classifier(), "torch", **given)


def test_bytes_of_a_model_say_as_much_as_the_model() -> None:
    proto = classifier()
    proto.producer_name = "pytorch"
    for model in (proto, proto.SerializeToString()):
        found = optgraph.compile(model, "torch").preprocessing
        assert found is not None and found.name == "torch"
