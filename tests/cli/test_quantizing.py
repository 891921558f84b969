"""quantize: what it prints, writes and exits with."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from tests.support.cli_models import call, expected, ok, ok_json, saved


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 12, 12, 3), dtype=np.uint8)
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{i}.png")
    return folder


def test_quantize(tmp_path: Path, model: Path, pictures: Path) -> None:
    output, table = tmp_path / "int8.onnx", tmp_path / "losses.csv"
    before = model.read_bytes()
    found = ok_json("quantize", model, "--images", pictures, "-o", output, "--csv", table, "--tolerance", 1)
    assert model.read_bytes() == before
    small = onnx.load(output)
    onnx.checker.check_model(small, full_check=True)
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in small.graph.node}
    assert found["verdict"]["pictures"] == 4 and found["verdict"]["error"] < 0.1 and not found["kept"]
    assert len(found["pictures"]) == 4 and "keras, by default" in found["pictures"][0]
    rows = list(csv.DictReader(table.open()))
    assert [row["layer"] for row in rows] == [loss["layer"] for loss in found["losses"]]
    assert float(rows[0]["answer"]) == pytest.approx(found["losses"][0]["answer"]) and rows[0]["why"]
    x = np.random.default_rng(4).uniform(-1, 1, (2, 3, 12, 12)).astype(np.float32)
    assert np.abs(expected(output, x) - expected(model, x)).max() < 0.1


def test_what_people_see(tmp_path: Path, model: Path, pictures: Path) -> None:
    common = "quantize", model, "--images", pictures, "--tolerance"
    told = ok(*common, 1, "-o", tmp_path / "a.onnx")
    assert "0.png: 12x12" in told and "answer" in told and "off on 4 pictures, top-1 agrees on" in told
    assert "100.00% is allowed" in told and "by ONNX Runtime's kernels on this CPU" in told and "wrote" in told
    assert "pictures  4 different: of what they do not show" in told
    strict = call(*common, 0, "-o", tmp_path / "b.onnx")
    assert strict.exit_code == 2 and "tolerance 0: only with nothing in int8" in strict.stderr
    assert strict.stderr.count("\n") == 1 and not (tmp_path / "b.onnx").exists()
    bound = float(re.findall(r"([0-9.e-]+) with", strict.stderr)[0]) * 1.1
    close = ok(*common, bound, "-o", tmp_path / "b.onnx")
    assert "in float" in close and "answer    ok" in close
    seven = ok(*common, 1, "-o", tmp_path / "c.onnx", "--reduce-range", "--per-tensor")
    assert "7 bits, one scale each" in seven


def test_arrays_and_what_stays_in_float(tmp_path: Path, model: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).uniform(-1, 1, (9, 3, 12, 12)).astype(np.float32))
    common = "quantize", model, "--images", tmp_path / "x.npy", "-o", tmp_path / "o.onnx", "--tolerance", 1
    every, kept = ok_json(*common), ok_json(*common, "--keep", "/stem/Conv", "--batch", 4)
    assert every["verdict"]["pictures"] == kept["verdict"]["pictures"] == 9
    layers, others = ({loss["layer"] for loss in found["losses"]} for found in (every, kept))
    assert others < layers and len(layers - others) == 1
    (stem,) = (loss for loss in every["losses"] if loss["layer"] in layers - others)
    assert "/stem/Conv" in stem["onnx_nodes"]


def test_no_file_is_lost(tmp_path: Path, model: Path, pictures: Path) -> None:
    before = model.read_bytes()
    for arguments, said in (
        (("-o", model), "is the input itself"),
        (("-o", pictures / "0.png"), "is the input itself"),
        (("-o", tmp_path / "o.onnx", "--csv", tmp_path / "o.onnx"), "written twice"),
        (("-o", tmp_path / "o.onnx", "--keep", "nothing"), "keep 'nothing'"),
        (("-o", tmp_path / "o.onnx", "--calibrate", "best"), "use minmax"),
        (("-o", tmp_path / "none" / "o.onnx"), "is not a directory"),
    ):
        result = call("quantize", model, "--images", pictures, *arguments)
        assert result.exit_code == 2 and said in result.stderr and not (tmp_path / "o.onnx").exists()
    assert model.read_bytes() == before
    result = call("quantize", model, "-o", tmp_path / "o.onnx")
    assert result.exit_code == 2 and "--images" in result.stderr


def test_not_twice_and_not_what_is_compiled(tmp_path: Path, model: Path, pictures: Path) -> None:
    output = tmp_path / "int8.onnx"
    ok("quantize", model, "--images", pictures, "-o", output, "--tolerance", 1)
    again = call("quantize", output, "--images", pictures, "-o", tmp_path / "again.onnx")
    assert again.exit_code == 2 and "quantised already" in again.stderr
    compiled = tmp_path / "m.optgraph"
    ok("compile", saved(tmp_path), "-o", compiled)
    result = call("quantize", compiled, "--images", pictures, "-o", tmp_path / "c.onnx")
    assert result.exit_code == 2 and "is a compiled network" in result.stderr
    assert json.loads(call("quantize", model, "--images", pictures, "-o", output, "--json").stdout)["output"]


def test_an_array_of_another_rank(tmp_path: Path, model: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 12, 12), np.float32))
    result = call("quantize", model, "--images", tmp_path / "x.npy", "-o", tmp_path / "o.onnx")
    assert result.exit_code == 2 and "has shape [3, 12, 12], and 'x' expects [N, 3, 12, 12]" in result.stderr


def test_folders_of_all_kinds_and_names(tmp_path: Path, model: Path, pictures: Path) -> None:
    folder = tmp_path / "Bilder ü, 2"
    pictures.rename(folder)
    output = tmp_path / "int8 ß.onnx"
    assert ok_json("quantize", model, "--images", folder, "-o", output, "--tolerance", 1)["verdict"]["pictures"] == 4
    before = output.read_bytes()
    (folder / "gone.png").symlink_to(tmp_path / "none.png")
    (tmp_path / "empty").mkdir()
    for given, said in ((folder, "gone.png: cannot be read"), (tmp_path / "empty", "a folder without images")):
        result = call("quantize", model, "--images", given, "-o", output)
        assert result.exit_code == 2 and said in result.stderr and output.read_bytes() == before
