"""Names of classes from files and from metadata, and how many there are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from onnx import helper

from optgraph.base.errors import InputError
from optgraph.ir.values import Value
from optgraph.pictures.labels import check_labels, classes, fitting, labels_in, read_labels


@pytest.mark.parametrize(
    ("name", "text", "names"),
    [
        ("a.txt", "cat\ndog \n\n", ("cat", "dog")),
        ("a.txt", "\ufeffcat\r\n\r\ndog", ("cat", "", "dog")),
        ("synset.txt", "n02124075 Egyptian cat\nn02123045 tabby, tabby cat\n", ("Egyptian cat", "tabby, tabby cat")),
        ("a.json", '["cat", "dög"]', ("cat", "dög")),
        ("a.json", '{"1": "dog", "0": "cat"}', ("cat", "dog")),
        ("a.json", '{"0": ["n1", "cat"], "1": ["n2", "dog"]}', ("cat", "dog")),
    ],
)
def test_files(tmp_path: Path, name: str, text: str, names: tuple[str, ...]) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_labels(tmp_path / name) == names


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.json", b'{"0": "cat", "2": "dog"}', "from 0 with none missing"),
        ("a.json", b'{"cat": 0}', "no names of classes"),
        ("a.json", b"[1, 2]", "no names of classes"),
        ("a.json", b"[[]]", "no names of classes"),
        ("a.json", b"[]", "no names of classes"),
        ("a.json", b"[" * 100_000, "no names of classes"),
        ("a.json", b"{", "no names of classes"),
        ("a.json", b'["cat", "\\ud800"]', "no names of classes"),
        ("a.txt", b"\xff\xfe\x00", "not a text of UTF-8"),
        ("a.txt", b"x" * (1 << 24) + b"\n", "too large"),
    ],
)
def test_files_that_are_none(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message) as error:
        read_labels(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_labels(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("key", "text", "names"),
    [
        ("names", "{0: 'cat', 1: 'it\\'s a dog'}", ("cat", "it's a dog")),  # Ultralytics writes a dict of Python's
        ("labels", '["cat", "dog"]', ("cat", "dog")),
        ("Classes", "cat, dog", ("cat", "dog")),
        ("class_names", "cat\ndog", ("cat", "dog")),
        ("labels", "tench, Tinca\r\ngoldfish, Carassius\n", ("tench, Tinca", "goldfish, Carassius")),
        ("names", "{0.5: 'cat', 1: 'dog'}", ()),
        ("names", "{0: 'cat', 5: 'dog'}", ()),
        ("names", "[__import__('os').system('false')]", ()),
        ("names", "(" * 100_000, ()),
        ("names", "{0: " * 5_000, ()),
        ("names", "a", ()),
        ("names", f"['a', '{'b' * (1 << 20)}']", ()),
        ("other", '["cat", "dog"]', ()),
    ],
)
def test_metadata(key: str, text: str, names: tuple[str, ...]) -> None:
    model = helper.make_model(helper.make_graph([], "g", [], []))
    helper.set_model_props(model, {key: text})
    assert labels_in(model) == names


def test_what_has_classes() -> None:
    shapes = [("N", 10), ("N", 10, 1, 1), (3, 2), ("N", 1), ("N", 10, 7, 7), ("N", "C"), ("N",), ()]
    assert [classes(shape) for shape in shapes] == [10, 10, 2, None, None, None, None, None]


def test_another_number_of_names_is_refused() -> None:
    outputs = {"boxes": Value(("N", 4, 100)), "y": Value(("N", 3))}
    check_labels("abc", outputs, "a.txt")
    assert fitting("abc", outputs) and not fitting("ab", outputs)
    with pytest.raises(InputError, match=r"^a.txt: 2 names, and output 'y' has 3 classes$"):
        check_labels("ab", outputs, "a.txt")
    with pytest.raises(InputError, match="no output has scores of classes"):
        check_labels("ab", {"boxes": outputs["boxes"]}, "a.txt")


def test_keras_class_index(tmp_path: Path) -> None:
    entries = {str(i): [f"n{i:08}", f"class {i}"] for i in range(1000)}
    (tmp_path / "imagenet_class_index.json").write_text(json.dumps(entries))
    assert read_labels(tmp_path / "imagenet_class_index.json")[285] == "class 285"
