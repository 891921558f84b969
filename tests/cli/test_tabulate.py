"""`run` into a table: what is in it, what is said of it, what is gone on with, and what is refused."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from optgraph.ir.values import Value
from optgraph.pictures.preprocess import NAMED
from optgraph.table import rows as rows_module
from tests.support.cli_models import call, classifier, expected, ok, ok_json, saved
from tests.support.served_models import coupled
from tests.support.tables import photos, table

VALUE = Value(("N", 3, 12, 12))
SUFFIXES = pytest.mark.parametrize("suffix", ["csv", "parquet"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    photos(tmp_path / "photos")
    return tmp_path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(*arguments: object) -> str:
    """What is said, in one line, of arguments that are of no use."""
    result = call(*arguments)
    assert result.exit_code == 2, (result.stdout, result.stderr)
    assert result.stderr.count("\n") == 1 and result.stdout == ""
    return result.stderr


def without_logits(proto: onnx.ModelProto) -> onnx.ModelProto:
    del proto.graph.node[-1]
    proto.graph.output[0].name = "logits"
    return proto


def answers(found: list[dict[str, Any]], model: Path = Path("model.onnx")) -> np.ndarray:
    """What ONNX Runtime gives for the pictures of a table, in its order."""
    given = [NAMED["keras"](Path("photos") / row["path"], VALUE) for row in found]
    return expected(model, np.concatenate(given))


@SUFFIXES
def test_the_best_classes_of_each_picture(folder: Path, suffix: str) -> None:
    names = [f"thing, {i}" for i in range(10)]
    (folder / "names.txt").write_text("\n".join(names))
    told = ok_json("run", "model.onnx", "photos", "-o", f"t.{suffix}", "--top", 2, "--labels", "names.txt")
    found = table(folder / f"t.{suffix}")
    y = answers(found)
    order = np.argsort(-y, axis=1)
    assert y.std(axis=0).max() > 1e-3, "they are told apart"
    assert [row["path"] for row in found] == sorted(row["path"] for row in found) and len(found) == 12
    assert found[-1]["path"] == "inner/009.png"
    for row, scores, best in zip(found, y, order, strict=True):
        for place in (1, 2):
            assert int(row[f"class_{place}"]) == best[place - 1]
            assert row[f"name_{place}"] == names[best[place - 1]]
            assert float(row[f"probability_{place}"]) == pytest.approx(scores[best[place - 1]], rel=1e-5)
        assert not row["error"] and len(row) == 8
    assert (told["rows"], told["before"], told["failed"], told["errors"]) == (12, 0, 0, [])
    assert told["columns"] == [*list(found[0])[1:-1]] and told["batch"] == 12


@SUFFIXES
def test_logits_have_their_softmax_beside_them(folder: Path, suffix: str) -> None:
    saved(folder, without_logits(classifier()))
    ok("run", "model.onnx", "photos", "-o", f"t.{suffix}", "--top", 99)
    found = table(folder / f"t.{suffix}")
    y = answers(found).astype(np.float64)
    share = np.exp(y) / np.exp(y).sum(1, keepdims=True)
    for row, logits, shares in zip(found, y, share, strict=True):
        assert float(row["logit_1"]) == pytest.approx(logits.max(), rel=1e-5)
        assert float(row["softmax_1"]) == pytest.approx(shares.max(), rel=1e-5)
        assert float(row["logit_10"]) == pytest.approx(logits.min(), rel=1e-5)


@SUFFIXES
def test_all_numbers(folder: Path, suffix: str) -> None:
    """Of classes with --raw; of an output that is none of classes always, by the name of the output."""
    proto = classifier()
    proto.graph.output.append(helper.make_tensor_value_info("act", TensorProto.FLOAT, None))
    model = saved(folder, proto, "two.onnx")
    ok("run", model, "photos", "-o", f"raw.{suffix}", "--raw", "--cut", "y")
    found = table(folder / f"raw.{suffix}")
    y = answers(found)
    if suffix == "csv":
        assert list(found[0]) == ["path", *(f"y_{i}" for i in range(10)), "error"]
        got = np.array([[float(row[f"y_{i}"]) for i in range(10)] for row in found])
    else:
        got = np.array([row["y"] for row in found])
    np.testing.assert_allclose(got, y, rtol=1e-5)
    ok("run", model, "photos", "-o", f"two.{suffix}", "--top", 1)
    found = table(folder / f"two.{suffix}")
    assert int(found[0]["y_class_1"]) == y[0].argmax()
    act = 8 * 12 * 12
    assert len(found[0]) == (4 + act if suffix == "csv" else 5)
    assert suffix == "csv" or len(found[0]["act"]) == act


@SUFFIXES
def test_what_is_no_picture_is_a_row_with_an_error(folder: Path, suffix: str) -> None:
    """And nothing else of it; what cannot be read is one too, and the exit code is 1."""
    inside = folder / "photos"
    (inside / "no, picture.jpg").write_bytes(b"text")
    (inside / "empty.png").write_bytes(b"")
    (inside / "cut.png").write_bytes((inside / "001.png").read_bytes()[:60])
    (inside / "gone.png").symlink_to("nowhere.png")
    (inside / "circle.png").symlink_to("circle.png")
    os.mkfifo(inside / "pipe.png")
    (inside / "notes.txt").write_text("no picture, and not called one")
    (inside / "._a.png").write_bytes(b"hidden")
    result = call("run", "model.onnx", "photos", "-o", f"t.{suffix}")
    assert result.exit_code == 1 and result.stderr == ""
    assert "18 pictures, 6 failed, " in result.stdout and "  and 1 more: see the column 'error'" in result.stdout
    assert "  pipe.png: " not in result.stdout and "\n  no, picture.jpg: cannot be read: " in result.stdout
    found = {row["path"]: row for row in table(folder / f"t.{suffix}")}
    reasons = {name: row.pop("error") for name, row in found.items() if row["error"]}
    assert reasons == {
        "circle.png": f"cannot be read: {os.strerror(errno.ELOOP)}",
        "cut.png": "cannot be read: damaged, or no picture",
        "empty.png": "cannot be read: damaged, or no picture",
        "gone.png": f"cannot be read: {os.strerror(errno.ENOENT)}",
        "no, picture.jpg": "cannot be read: damaged, or no picture",
        "pipe.png": "is no regular file",
    }
    assert all(set(found[name].values()) - {name} == {"" if suffix == "csv" else None} for name in reasons)
    assert len(found) == 18


def test_answers_that_are_not_finite_are_no_classes(folder: Path) -> None:
    """Of numbers there are no best; with --raw they are seen for what they are."""
    saved(folder, without_logits(classifier(weights={"fc.w": np.full((11, 10), 3e38)})), "huge.onnx")
    assert call("run", "huge.onnx", "photos", "-o", "t.csv", "--backend", "torch").exit_code == 1
    for row in table(folder / "t.csv"):
        assert row["error"] == "the network answered with numbers that are not finite" and row["class_1"] == ""
    ok("run", "huge.onnx", "photos", "-o", "raw.csv", "--backend", "torch", "--raw")
    assert {row["logits_0"] for row in table(folder / "raw.csv")} == {"inf"}


def test_several_sources_are_called_as_they_were_given(folder: Path) -> None:
    Image.new("RGB", (9, 9)).save("a.png")
    given = ["photos/inner", "./a.png", "x=photos/001.png", "a.png"]
    ok("run", "model.onnx", *given, "--input", "a.png", "-o", "t.csv", "-q")
    wanted = ["a.png", *(f"photos/inner/{i:03}.{'png' if i % 2 else 'jpg'}" for i in range(0, 12, 3))]
    assert [row["path"] for row in table(folder / "t.csv")] == sorted([*wanted, "photos/001.png"])


def test_folders_that_lead_in_a_circle(folder: Path) -> None:
    (folder / "photos" / "inner" / "up").symlink_to("..")
    (folder / "other").mkdir()
    Image.new("RGB", (9, 9)).save("other/z.png")
    Image.new("RGB", (9, 9)).save("photos/zz.png")
    (folder / "photos" / "linked").symlink_to(folder / "other")
    ok("run", "model.onnx", "photos", "-o", "photos/t.csv")  # into the folder itself
    found = [row["path"] for row in table(folder / "photos" / "t.csv")]
    assert len(found) == len(set(found)) == 14 and "linked/z.png" in found
    assert found == sorted(found), "by path, not as they were come by"


def test_a_name_that_is_no_utf_8(folder: Path) -> None:
    name = os.fsdecode(b"photos/\xff\n.png")
    Image.new("RGB", (9, 9)).save(name)
    for output in ("t.csv", "t.parquet"):
        ok("run", "model.onnx", "photos", "-o", output)
        assert "\\xff\n.png" in [row["path"] for row in table(folder / output)]


@SUFFIXES
@pytest.mark.parametrize("name", ["a,b", 'q"uote', "line\nfeed", "carriage\rreturn", "\r\n", " lead", "é😀"])
def test_names_that_a_table_has_to_quote(folder: Path, suffix: str, name: str) -> None:
    Image.new("RGB", (9, 9)).save(f"{name}.png")
    (folder / "names.json").write_text(json.dumps([f"{name} {i}" for i in range(10)]))
    ok("run", "model.onnx", f"{name}.png", "-o", f"t.{suffix}", "--labels", "names.json")
    (row,) = table(folder / f"t.{suffix}")
    assert row["path"] == f"{name}.png" and row["name_1"] == f"{name} {row['class_1']}" and not row["error"]


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_batches(folder: Path, batch: int) -> None:
    """Whatever their size, the rows are the same: the last is filled up, and its filling goes nowhere."""
    ok("run", "model.onnx", "photos", "-o", "t.csv", "--raw")
    told = ok_json("run", "model.onnx", "photos", "-o", "u.csv", "--raw", "--batch", batch)
    one, other = (
        np.array([[float(row[f"y_{i}"]) for i in range(10)] for row in table(folder / name)])
        for name in ("t.csv", "u.csv")
    )
    np.testing.assert_allclose(one, other, rtol=1e-5)
    assert told["batch"] == batch


def test_a_model_of_a_fixed_batch(folder: Path) -> None:
    saved(folder, classifier(shape=(8, 3, 12, 12)), "eight.onnx")
    ok("run", "eight.onnx", "photos", "-o", "t.csv")
    ok("run", "model.onnx", "photos", "-o", "u.csv")
    one, other = ([row["class_1"] for row in table(folder / name)] for name in ("t.csv", "u.csv"))
    assert one == other and len(one) == 12
    assert "--batch 3: input 'x' takes 8 at a time" in refused(
        "run", "eight.onnx", "photos", "-o", "v.csv", "--batch", 3
    )


def interrupted(
    monkeypatch: pytest.MonkeyPatch, place: str, after: int = 0, error: BaseException | None = None
) -> None:
    """Makes the function at `place` fail when it was called so often, once."""
    module, _, name = place.rpartition(".")
    target = rows_module.Rows if module == "Rows" else os
    was: Callable[..., Any] = getattr(target, name)
    left = iter(range(after))

    def fails(*arguments: Any) -> Any:
        if next(left, None) is None:
            monkeypatch.setattr(target, name, was)
            raise error or KeyboardInterrupt
        return was(*arguments)

    monkeypatch.setattr(target, name, fails)


def stopped(folder: Path, monkeypatch: pytest.MonkeyPatch, output: str = "t.csv", *options: object) -> None:
    """Leaves a table of 4 rows that is not finished."""
    interrupted(monkeypatch, "Rows.add", 2)
    result = call("run", "model.onnx", "photos", "-o", output, "--batch", 2, *options)
    assert result.exit_code == 130 and not (folder / output).exists()
    assert result.stderr == f"note: stopped: 4 rows are in {output}.unfinished: the same command goes on from there\n"


def test_gone_on_with(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changed meanwhile is done again, what failed too, what is new is added, and what is gone keeps its row."""
    (folder / "photos" / "000.jpg").write_bytes(b"failed")
    interrupted(monkeypatch, "Rows.add", 3)
    result = call("run", "model.onnx", "photos", "-o", "t.csv", "--batch", 2)
    assert result.exit_code == 130 and "5 rows" in result.stderr
    Image.new("RGB", (9, 9), "green").save("photos/000.jpg")
    Image.new("RGB", (9, 9), "red").save("photos/001.png")
    (folder / "photos" / "002.jpg").unlink()
    Image.new("RGB", (9, 9), "blue").save("photos/new.png")
    told = ok_json("run", "model.onnx", "photos", "-o", "t.csv", "--batch", 2)
    assert (told["rows"], told["before"], told["failed"]) == (14, 4, 0)
    found = {row["path"]: row for row in table(folder / "t.csv")}
    ok("run", "model.onnx", "photos", "-o", "whole.csv", "--batch", 2)
    whole = {row["path"]: row for row in table(folder / "whole.csv")}
    assert {name: row for name, row in found.items() if name != "002.jpg"} == whole and len(whole) == 13


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--top", 2), "another --top, --raw or --labels (class_1, probability_1, class_2,"),
        (("--raw",), "another --top, --raw or --labels"),
        (("--labels", "names.txt"), "another --top, --raw or --labels"),
        (("--backend", "torch"), "another backend (onnxruntime, and this is torch)"),
        (("--backend", "interpret", "--dtype", "fp16"), "another "),
        (("--preprocess", "torch"), "another preprocessing (resized as a whole, RGB, x/127.5 - 1 (keras)"),
        (("--cut", "logits"), "another network (model.onnx "),
        (("photos/inner",), "another source ("),
    ],
)
def test_nothing_else_is_mixed_into_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[object, ...], says: str
) -> None:
    (folder / "names.txt").write_text("\n".join(map(str, range(10))))
    stopped(folder, monkeypatch)
    before = (folder / "t.csv.unfinished").read_bytes()
    said = refused("run", "model.onnx", *([] if "photos/inner" in options else ["photos"]), *options, "-o", "t.csv")
    assert f"t.csv.unfinished: was begun with {says}" in said
    assert "give the command that began it, or delete that file to begin anew" in said
    assert (folder / "t.csv.unfinished").read_bytes() == before
    same = "--batch", 3, "--preprocess", "keras"  # which was the guess
    assert ok_json("run", "model.onnx", "photos", "-o", "t.csv", *same)["before"] == 4


@pytest.mark.parametrize("given", [["photos", "a.png"], ["a.png"]])
def test_a_source_by_another_name_is_another_source(
    folder: Path, monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    """Its pictures would have two rows each."""
    Image.new("RGB", (9, 9)).save("a.png")
    interrupted(monkeypatch, "os.replace")
    assert call("run", "model.onnx", *given, "-o", "t.csv").exit_code == 130
    first, *others = given
    said = refused("run", "model.onnx", folder / first, *others, "-o", "t.csv")
    assert f"was begun with another source ({folder / first}, called {first}" in said
    told = ok_json("run", "model.onnx", f"./{first}", *others, "-o", "t.csv")
    assert told["rows"] == told["before"] == (13 if others else 1)


def test_no_row_is_of_any_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(monkeypatch, "Rows.add")
    assert call("run", "model.onnx", "photos", "-o", "t.csv").exit_code == 130
    assert ok_json("run", "model.onnx", "photos/inner", "-o", "t.csv", "--top", 2)["rows"] == 4


def test_other_weights_are_another_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(folder, monkeypatch)
    saved(folder, classifier(weights={"fc.b": np.ones(10)}))
    assert "was begun with another network" in refused("run", "model.onnx", "photos", "-o", "t.csv")


def test_an_artifact_of_the_model_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graphs are the same in every process, and in a file."""
    stopped(folder, monkeypatch, "t.csv", "--preprocess", "torch")
    ok("compile", "model.onnx", "--preprocess", "torch")
    assert ok_json("run", "model.optgraph", "photos", "-o", "t.csv")["before"] == 4


@SUFFIXES
@pytest.mark.parametrize("place", ["Rows._note", "os.replace", "os.unlink"])
def test_interrupted_when_it_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, place: str) -> None:
    """Before the table is in its place, or after, when the rows are still there: it is finished, and not refused."""
    if place == "os.unlink":
        monkeypatch.setattr(Path, "unlink", lambda path, **_: os.unlink(path) if path.exists() else None)
    interrupted(monkeypatch, place, {"Rows._note": 1}.get(place, 0))
    result = call("run", "model.onnx", "photos", "-o", f"t.{suffix}")
    assert result.exit_code == 130, result.stderr
    assert (folder / f"t.{suffix}").exists() == (place == "os.unlink")
    assert "12 rows are in" in result.stderr
    told = ok_json("run", "model.onnx", "photos", "-o", f"t.{suffix}")
    assert told["before"] == told["rows"] == 12 and len(table(folder / f"t.{suffix}")) == 12
    assert not list(folder.glob("*unfinished*"))


def test_no_room_is_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(monkeypatch, "os.replace", 0, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    said = refused("run", "model.onnx", "photos", "-o", "t.csv")
    assert f"t.csv: cannot be written: {os.strerror(errno.ENOSPC)}: the rows are kept in t.csv.unfinished" in said
    assert not (folder / "t.csv").exists() and not list(folder.glob("*.table"))
    assert ok_json("run", "model.onnx", "photos", "-o", "t.csv")["before"] == 12


def test_no_room_for_rows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite says so itself when its file may not grow; what is in it stays."""
    was = rows_module.Rows.add

    def add(rows: rows_module.Rows, some: Any) -> None:
        rows._do(f"PRAGMA max_page_count={rows._number('PRAGMA page_count')}")
        was(rows, some)

    command = "run", "model.onnx", "photos", "-o", "t.parquet", "--raw", "--cut", "act"
    with monkeypatch.context() as context:
        context.setattr(rows_module.Rows, "add", add)
        said = refused(*command)
    assert "t.parquet.unfinished: cannot be written (database or disk is full): what is in it stays" in said
    assert ok_json(*command)["rows"] == 12


def test_an_output_that_is_there_is_not_overwritten(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for output in ("t.csv", "t.parquet"):
        (folder / output).write_text("mine")
        assert f"{output}: is there already, and a table is not overwritten" in refused(
            "run", "model.onnx", "photos", "-o", output
        )
        assert (folder / output).read_text() == "mine"
    stopped(folder, monkeypatch, "u.csv")
    (folder / "u.csv").write_text("mine")
    assert "u.csv: is there already" in refused("run", "model.onnx", "photos", "-o", "u.csv")
    assert (folder / "u.csv").read_text() == "mine" and (folder / "u.csv.unfinished").exists()


def test_an_output_that_came_meanwhile_is_not_overwritten(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    was = rows_module.Rows.add

    def add(rows: rows_module.Rows, some: Any) -> None:
        (folder / "t.csv").write_text("mine")
        was(rows, some)

    with monkeypatch.context() as context:
        context.setattr(rows_module.Rows, "add", add)
        said = refused("run", "model.onnx", "photos", "-o", "t.csv")
    assert "t.csv: is there already" in said and "the rows are kept in t.csv.unfinished: move the other away" in said
    assert (folder / "t.csv").read_text() == "mine" and not list(folder.glob("*.table"))
    (folder / "t.csv").unlink()
    assert ok_json("run", "model.onnx", "photos", "-o", "t.csv")["before"] == 12


def test_a_file_in_the_place_of_the_rows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unfinished = folder / "t.csv.unfinished"
    unfinished.write_bytes(b"a diary, of more than a hundred bytes, " * 9)
    assert "damaged, or not what `optgraph run` leaves there" in refused("run", "model.onnx", "photos", "-o", "t.csv")
    assert unfinished.read_bytes().startswith(b"a diary")
    unfinished.unlink()
    with sqlite3.connect(unfinished) as other:
        other.execute("CREATE TABLE diary (day TEXT)")
    other.close()
    before = unfinished.read_bytes()
    assert "is not what `optgraph run` leaves there" in refused("run", "model.onnx", "photos", "-o", "t.csv")
    assert unfinished.read_bytes() == before
    unfinished.unlink()
    stopped(folder, monkeypatch)
    data = bytearray(unfinished.read_bytes())
    data[100:200] = b"?" * 100
    unfinished.write_bytes(data)
    assert "damaged, or not what" in refused("run", "model.onnx", "photos", "-o", "t.csv")
    unfinished.write_bytes(b"")  # killed before anything was written
    ok("run", "model.onnx", "photos", "-o", "t.csv")


def test_two_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    was, said = rows_module.Rows.add, list[str]()

    def add(rows: rows_module.Rows, some: Any) -> None:
        if not said:
            said.append("")
            said.append(refused("run", "model.onnx", "photos", "-o", "t.csv"))
        was(rows, some)

    monkeypatch.setattr(rows_module.Rows, "add", add)
    ok("run", "model.onnx", "photos", "-o", "t.csv")
    assert "t.csv.unfinished: another run is writing it" in said[1] and len(table(folder / "t.csv")) == 12


def test_what_makes_no_table(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "empty" / "inner").mkdir(parents=True)
    np.save("x.npy", np.zeros((1, 3, 12, 12), np.float32))
    shape = ["n", 3, 5, 5]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("left", "right", "sum")]
    graph = helper.make_graph([helper.make_node("Add", ["left", "right"], ["sum"])], "two", values[:2], values[2:])
    saved(folder, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "two.onnx")
    saved(folder, classifier(shape=("n", 3, "h", "w")), "open.onnx")
    model = "model.onnx"
    for arguments, says in (
        ((model, "empty"), "empty: no pictures in it (.png, .jpg, .jpeg, .webp, .bmp)"),
        ((model, "none"), "none: a table is of pictures: expects .png, "),
        ((model, "none.png"), "none.png: no such file"),
        ((model, "x.npy"), "x.npy: a table is of pictures"),
        ((model, "-"), "-: a table is of pictures"),
        ((model,), "random: a table is of pictures"),
        ((model, "y=photos"), "--input y=photos: no input 'y': the network has x"),
        ((model, "photos", "--resize", 9), "has no centre of 12x12"),
        (("two.onnx", "photos"), "a table is of a network of one input, of pictures, and this has 'left'"),
        (("open.onnx", "photos", "--sizes", "12x12,24x24"), "give one of 12x12, 24x24 as --sizes"),
    ):
        assert says in refused("run", *arguments, "-o", "t.csv"), arguments
    assert "--raw is for a table" in refused("run", model, "photos", "--raw")
    assert "not a directory" in refused("run", model, "photos", "-o", "none/t.csv")
    assert "is the input itself" in refused("run", model, "photos", "-o", "model.csv", "--labels", "model.csv")
    monkeypatch.setattr("optgraph.table.formats.find_spec", lambda _: None)
    assert "pip install optgraph[parquet]" in refused("run", model, "photos", "-o", "t.parquet")
    assert not [path for path in folder.iterdir() if path.name.startswith("t.")]
    ok("run", "open.onnx", "photos", "--sizes", "12x12", "-o", "t.csv")


def test_too_many_columns_for_csv(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optgraph.table.formats.MOST_COLUMNS", 9)
    said = refused("run", "model.onnx", "photos", "--raw", "-o", "t.csv")
    assert "t.csv: would have 10 columns, a number each: name a .parquet file" in said


def test_an_answer_that_depends_on_the_other_pictures(folder: Path) -> None:
    """After an interruption, a picture runs with others."""
    saved(folder, coupled(), "mean.onnx")
    said = refused("run", "mean.onnx", "photos", "-o", "t.csv")
    assert "what output 'y' says of a picture depends on the others of its batch: give --batch 1" in said
    assert not list(folder.glob("t.csv*"))
    assert ok_json("run", "mean.onnx", "photos", "-o", "t.csv", "--batch", 1)["rows"] == 12


def test_a_folder_that_cannot_be_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    was = os.scandir

    def scandir(path: str) -> Any:
        if str(path).endswith("inner"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return was(path)

    monkeypatch.setattr(os, "scandir", scandir)
    result = call("run", "model.onnx", "photos", "-o", "t.csv")
    assert result.exit_code == 1 and "  inner: the folder cannot be read: Permission denied" in result.stdout


def test_where_an_output_that_is_a_link_leads(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "t.csv").symlink_to("deep/real.csv")
    ok("run", "model.onnx", "photos", "-o", "t.csv")
    assert (folder / "t.csv").is_symlink() and len(table(folder / "deep" / "real.csv")) == 12
