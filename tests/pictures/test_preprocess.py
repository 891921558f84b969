"""Preprocessing against arrays made by hand, by the definitions in torchvision and Keras."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import optgraph
from optgraph.base.errors import InputError
from optgraph.ir.values import Value
from optgraph.pictures.decode import MOST, Picture, decoded
from optgraph.pictures.preprocess import NAMED, Preprocess, picture_input

IMAGENET = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
SIZES = [(300, 451), (451, 300), (224, 224), (31, 20), (225, 224), (900, 260), (257, 999)]


def value(height: int = 224, width: int | None = None, channels: int = 3, dtype: str = "float32") -> Value:
    return Value(("N", channels, height, width or height), dtype)


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8))


def torchvision(image: Image.Image, resize: int, crop: int) -> np.ndarray:
    """transforms/_presets.py: ImageClassification. The sizes are those of functional.py: the longer side is cut to a
    whole number, the crop's corner rounded to the even one."""
    width, height = image.size
    short, long = min(image.size), max(image.size)
    longer = int(resize * long / short)
    size = (resize, longer) if width <= height else (longer, resize)
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (round((length - crop) / 2.0) for length in size)
    x = np.asarray(image.crop((left, top, left + crop, top + crop)), np.float32) / np.float32(255)
    return ((x - IMAGENET[0]) / IMAGENET[1]).transpose(2, 0, 1)[None]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (342, 299), (232, 224)])
def test_torch_is_torchvisions_preset_to_the_last_bit(size: tuple[int, int], resize: int, crop: int) -> None:
    image = noise(*size)
    given = NAMED["torch"] if resize != 232 else Preprocess.named("torch", resize=232)
    x = given(image, value(crop))
    assert x.dtype == np.float32 and x.flags.c_contiguous
    np.testing.assert_array_equal(x, torchvision(image, resize, crop))


@pytest.mark.parametrize("size", SIZES[:3])
def test_keras_and_caffe_are_kerass_modes(size: tuple[int, int]) -> None:
    """applications/imagenet_utils.py: 'tf' and 'caffe'; channels last."""
    image, last = noise(*size), Value(("N", 224, 224, 3))
    whole = np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR), np.float32)[None]
    np.testing.assert_array_equal(NAMED["keras"](image, last), whole / np.float32(127.5) - 1)
    np.testing.assert_array_equal(NAMED["none"](image, last), whole)
    centre = NAMED["none"].changed(crop=0.875)(image, last)
    blue_first = centre[..., ::-1] - np.array([103.939, 116.779, 123.68], np.float32)
    np.testing.assert_array_equal(NAMED["caffe"](image, last), blue_first)


def test_colours_are_not_mixed_up() -> None:
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    means = {name: NAMED[name](red, value(8))[0].mean((1, 2)) for name in NAMED}
    np.testing.assert_allclose(means["torch"], (np.array([1, 0, 0]) - IMAGENET[0]) / IMAGENET[1], rtol=1e-6)
    np.testing.assert_allclose(means["caffe"], [-103.939, -116.779, 255 - 123.68], rtol=1e-6)
    assert means["keras"].tolist() == [1, -1, -1] and means["none"].tolist() == [255, 0, 0]


@pytest.mark.parametrize("dtype", ["float16", "float64", "uint8"])
def test_the_inputs_dtype(dtype: str) -> None:
    x = NAMED["none"](noise(9, 9), value(9, dtype=dtype))
    assert x.dtype == dtype
    np.testing.assert_array_equal(x, NAMED["none"](noise(9, 9), value(9)))


def test_grey_inputs() -> None:
    image = noise(12, 12)
    x = NAMED["keras"](image, value(12, channels=1))
    np.testing.assert_array_equal(x[0, 0], np.asarray(image.convert("L"), np.float32) / np.float32(127.5) - 1)
    with pytest.raises(InputError, match="for 3 channels, and the input has 1"):
        NAMED["torch"](image, value(12, channels=1))


@pytest.mark.parametrize(
    ("given", "size", "target", "after"),
    [
        ({}, (30, 99), (20, 40), (20, 40)),
        ({"crop": 0.875}, (300, 451), (224, 224), (256, 384)),
        ({"crop": 1.0}, (300, 400), (20, 10), (20, 26)),
        ({"crop": 1.0}, (300, 400), (10, 20), (15, 20)),
        ({"crop": 0.5}, (100, 100), (10, 20), (40, 40)),
        ({"crop": 1.0}, (7, 1000), (7, 1000), (7, 1000)),
        ({"resize": 50}, (300, 200), (40, 40), (75, 50)),
        ({"resize": (60, 50)}, (300, 200), (40, 40), (60, 50)),
    ],
)
def test_what_it_is_resized_to(given: dict, size: tuple, target: tuple, after: tuple) -> None:
    assert NAMED["none"].changed(**given).resized(size, target) == after


def test_every_size_has_a_centre() -> None:
    """Whole numbers are cut: none may leave a picture a pixel too small."""
    rng = np.random.default_rng(1)
    for _ in range(2000):
        size, target = (tuple(map(int, rng.integers(1, 400, 2))) for _ in range(2))
        after = NAMED["none"].changed(crop=float(rng.uniform(0.3, 1))).resized(size, target)
        assert after[0] >= target[0] and after[1] >= target[1]


def test_what_cannot_be_resized() -> None:
    with pytest.raises(InputError, match="resized to 200x300 has no centre of 224x224"):
        NAMED["none"].changed(resize=200)(noise(20, 30), value())
    with pytest.raises(InputError, match="too long to be resized"):
        NAMED["torch"].resized((1, MOST), (224, 224))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mean": (1.0, 2.0)}, "expects one number, or one for each of three channels"),
        ({"mean": (float("nan"),)}, "expects one number"),
        ({"std": (0.0,)}, "expects numbers above 0"),
        ({"scale": 0.0}, "scale 0: expects numbers above 0"),
        ({"scale": math.inf}, "scale inf: expects"),
        ({"std": (1.0, 1e-40, 1.0)}, "1e-18 at least"),
        ({"scale": 255.0, "mean": (127.0,)}, "mean 127 is over 1, and pixels are 0 to 1"),
        ({"resize": 0}, "at least 1"),
        ({"crop": 1.5}, "above 0 and up to 1"),
        ({"crop": 0.5, "resize": 10}, "two ways to say one thing"),
    ],
)
def test_numbers_that_make_no_sense(given: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Preprocess(**given)


def test_one_number_and_lists_will_do() -> None:
    given = Preprocess(mean=0.5, std=[1, 2, 3])  # type: ignore[arg-type]
    assert given == Preprocess(mean=(0.5,), std=(1.0, 2.0, 3.0)) and hash(given)


def test_an_unknown_name_and_unfit_inputs() -> None:
    with pytest.raises(InputError, match="preprocessing 'tf': use keras, torch, caffe, none"):
        optgraph.Preprocess.named("tf")
    with pytest.raises(InputError, match="takes pixels as they are"):
        NAMED["torch"](noise(9, 9), value(9, dtype="uint8"))
    for other in (Value(("N", 64)), Value(("N", 8, 5, 5)), value(dtype="int64"), Value(("N", 3, "H", "W"))):
        with pytest.raises(InputError, match="takes no pictures"):
            NAMED["none"](noise(9, 9), other)
        assert picture_input({"x": other, "y": value()}) == "y" and picture_input({"x": other}) is None


@pytest.mark.parametrize(
    ("given", "size", "said"),
    [
        (NAMED["torch"], (480, 640), "480x640 -> shorter side 256, centre 224x224, RGB, (x/255 - mean)/std (torch)"),
        (NAMED["keras"], (480, 640), "480x640 -> resized to 224x224, RGB, x/127.5 - 1 (keras)"),
        (NAMED["caffe"], (256, 256), "256x256 -> centre 224x224, BGR, x - mean (caffe)"),
        (NAMED["none"], (224, 224), "224x224 -> RGB, 0 to 255 (none)"),
        (
            Preprocess.named("torch", mean=(0.5,), std=(0.5,), resize=(240, 300), why="a guess"),
            (224, 224),
            "224x224 -> resized to 240x300, centre 224x224, RGB, (x/255 - 0.5)/0.5 (a guess)",
        ),
        (
            Preprocess(scale=255.0, std=(1.0, 2.0, 3.0)),
            (9, 9),
            "9x9 -> resized to 224x224, RGB, x/255/[1 2 3]",
        ),
    ],
)
def test_what_was_done_is_told(given: Preprocess, size: tuple[int, int], said: str) -> None:
    assert given.told(Picture(noise(*size), "cat.jpg"), value()) == f"cat.jpg: {said}"


def test_what_was_done_to_the_file_is_told(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 9), 1000, np.uint16)).save(tmp_path / "x.png")
    told = NAMED["keras"].told(decoded(tmp_path / "x.png"), value(8, channels=1))
    assert told == "x.png: 8x9, 16 bits made 8 -> resized to 8x8, grey, x/127.5 - 1 (keras)"


@pytest.mark.parametrize("given", [*NAMED.values(), Preprocess("", 255.0, (0.5,), (2.0,), True, (9, 8), None, "so")])
def test_it_comes_back_from_json(given: Preprocess) -> None:
    assert Preprocess.from_json(json.loads(json.dumps(given.to_json()))) == given
