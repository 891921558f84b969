"""Models of open height and width on the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from PIL import Image

from optgraph.cli.options import image_sizes
from optgraph.compare import verify
from tests.support.cli_models import call, ok, ok_json, saved
from tests.support.open_sizes import answer, detector, image, made


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved(tmp_path, detector(), "detector.onnx")


@pytest.fixture
def compiled(model: Path) -> Path:
    ok("compile", model, "--sizes", "16x16,12x20")
    return model.with_suffix(".optgraph")


def photograph(folder: Path, height: int, width: int) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "photograph.png")
    return folder / "photograph.png"


def refused(*arguments: object) -> str:
    """What is said, in one line, of arguments that are of no use."""
    result = call(*arguments)
    assert result.exit_code == 2, result.stdout
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_sizes_are_a_height_and_a_width() -> None:
    assert image_sizes("480x640, 32X32,7×9") == [(480, 640), (32, 32), (7, 9)]


@pytest.mark.parametrize(
    "sizes", ["", "480", "480x", "x480", "480x480x3", "-1x4", "4x5;6x7", "ax4", "4x5,", "9" * 5000]
)
def test_other_sizes_are_refused(sizes: str, model: Path) -> None:
    assert "expects heights and widths such as" in refused("compile", model, f"--sizes={sizes}")


def test_hostile_sizes(model: Path) -> None:
    assert "(0, 5) is no size" in refused("compile", model, "--sizes", "0x5")
    assert "over the budget" in refused("compile", model, "--sizes", "1000000000x1000000000")
    assert not model.with_suffix(".optgraph").exists()


def test_one_file_of_several_sizes(model: Path, compiled: Path) -> None:
    for size in [(16, 16), (12, 20)]:
        x = image(2, 3, *size)
        np.save(model.parent / "x.npy", x)
        ok("run", compiled, "--input", model.parent / "x.npy", "-o", model.parent / "y.npy", "--backend", "torch")
        np.testing.assert_allclose(np.load(model.parent / "y.npy"), answer(detector(), x=x), rtol=1e-4, atol=1e-5)
    np.save(model.parent / "x.npy", image(1, 3, 16, 20))
    assert "compiled at 16x16, 12x20 and no other" in refused("run", compiled, "--input", model.parent / "x.npy")


def test_any_size_from_a_file(model: Path) -> None:
    ok("compile", model, "--sizes", "16x16", "--any-size")
    x = image(1, 3, 9, 11)
    np.save(model.parent / "x.npy", x)
    ok("run", model.with_suffix(".optgraph"), "--input", model.parent / "x.npy", "-o", model.parent / "y.npy")
    np.testing.assert_allclose(np.load(model.parent / "y.npy"), answer(detector(), x=x), rtol=1e-4, atol=1e-5)
    assert ok_json("inspect", model.with_suffix(".optgraph"), "--sizes", "9x11")["size"] == "9x11"
    assert "--any-size is for a model compiled with --sizes" in refused("compile", model, "--any-size")


def test_what_compile_and_inspect_say_of_sizes(model: Path, compiled: Path) -> None:
    data = ok_json("compile", model, "--sizes", "16x16,12x20")
    assert data["size"] == "16x16" and list(data["sizes"]) == ["16x16", "12x20"]
    assert data["sizes"]["16x16"] == data["arena_bytes"]
    other = ok_json("inspect", compiled, "--sizes", "12x20")
    assert other["size"] == "12x20" and other["sizes"]["12x20"] == other["arena_bytes"]
    assert other["bytes_per_image"] != data["bytes_per_image"]
    assert "12x20 (arena" in ok("inspect", compiled)
    assert "at 16x16, 12x20 and no other" in refused("inspect", compiled, "--sizes", "9x9")


def test_a_model_of_one_size_is_refused(tmp_path: Path) -> None:
    fixed = saved(tmp_path, detector(("n", 3, 16, 16)))
    for command in ("compile", "run", "verify", "check"):
        assert "'x' is N,3,16,16: leave them out" in refused(command, fixed, "--sizes", "16x16")
    ok("compile", fixed)
    assert "the network has the one size" in refused("inspect", fixed.with_suffix(".optgraph"), "--sizes", "8x8")


def test_verify_compares_every_size(model: Path, compiled: Path) -> None:
    for target, sizes in ((compiled, []), (model, ["--sizes", "16x16,12x20"])):
        data = ok_json("verify", target, "--backend", "torch", *sizes)
        assert data["ok"] and [each["ok"] for each in data["sizes"].values()] == [True, True]
        assert list(data["sizes"]) == ["16x16", "12x20"]
    shown = ok("verify", compiled, "--backend", "torch")
    assert shown.index("at 16x16") < shown.index("at 12x20")
    one = ok_json("verify", compiled, "--backend", "torch", "--sizes", "12x20")
    assert one["ok"] and "sizes" not in one


def test_verify_says_no_if_one_size_is_wrong(compiled: Path, monkeypatch) -> None:
    right = verify.verify_net

    def wrong_at_12x20(net: Any, *arguments: Any, **options: Any) -> Any:
        return replace(right(net, *arguments, **options), ok=net.size == (16, 16))

    monkeypatch.setattr(verify, "verify_net", wrong_at_12x20)
    result = call("verify", compiled, "--backend", "torch", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 1 and not found["ok"]
    assert [each["ok"] for each in found["sizes"].values()] == [True, False]


def test_check_of_several_sizes(model: Path) -> None:
    data = ok_json("check", model, "--sizes", "16x16,9x11")
    assert data["ok"] and list(data["sizes"]) == ["16x16", "9x11"]
    assert ok_json("check", model, "--sizes", "16x16")["ok"]


def test_an_image_goes_to_the_nearest_size(model: Path, compiled: Path) -> None:
    data = ok_json("run", compiled, "--input", photograph(model.parent, 40, 38))
    assert data["image"] == "the image is 40x38, resized to 16x16: the nearest of its sizes"
    wide = photograph(model.parent, 24, 40)
    assert "resized to 12x20: the nearest of its sizes" in ok("run", compiled, "--input", wide)
    assert "resized to 16x16: its one size" in ok("run", model, "--input", wide, "--sizes", "16x16")
    assert ok_json("run", compiled, "--input", wide, "--sizes", "16x16")["outputs"]["y"]["shape"] == [1, 2, 8, 8]
    assert "image" not in ok_json("run", compiled)  # random numbers have no size


def test_a_model_without_sizes_runs_at_the_images_own(model: Path) -> None:
    data = ok_json("run", model, "--input", photograph(model.parent, 21, 30))
    assert data["image"] == "the image is 21x30, and ran at that" and data["outputs"]["y"]["shape"] == [1, 2, 11, 15]
    np.save(model.parent / "x.npy", image(2, 3, 9, 11))
    assert ok_json("run", model, "--input", model.parent / "x.npy")["outputs"]["y"]["shape"] == [2, 2, 5, 6]
    assert "--input-shape N,3," in refused("run", model)  # random numbers have none
    fixed = ok_json("run", model, "--input", photograph(model.parent, 21, 30), "--input-shape", "N,3,8,8")
    assert fixed["outputs"]["y"]["shape"] == [1, 2, 4, 4] and "image" not in fixed


def test_an_image_of_a_size_that_the_network_cannot_have(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MaxPool", ["x"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Resize", ["p", "", "scales"], ["up"], "up", mode="nearest"),
        helper.make_node("Add", ["x", "up"], ["y"], "add"),
    ]
    model = saved(tmp_path, made(nodes, {"x": ("n", 3, "h", "w")}, scales=np.array([1, 1, 2, 2], np.float32)))
    data = ok_json("run", model, "--input", photograph(tmp_path, 33, 70))
    assert data["outputs"]["y"]["shape"] == [1, 3, 32, 64]
    assert "the image is 33x70, resized to 32x64: multiples of 32, for the network" in data["image"]
    np.save(tmp_path / "x.npy", image(1, 3, 33, 70))
    assert "node 'add'" in refused("run", model, "--input", tmp_path / "x.npy")


def test_the_rest_of_a_shape_may_be_given(tmp_path: Path) -> None:
    model = saved(tmp_path, detector(("n", "c", "h", "w")))
    assert "--input-shape N,3,?,?" in refused("compile", model, "--sizes", "16x16")
    assert ok_json("compile", model, "--sizes", "16x16", "--input-shape", "N,3,?,?")["size"] == "16x16"
