"""Pictures on the command line: what is done to them, what is seen in them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

import optgraph
from optgraph.ir.values import Value
from optgraph.pictures.preprocess import NAMED, Preprocess
from tests.support.cli_models import call, classifier, close, expected, ok, ok_json, saved

VALUE = Value(("N", 3, 12, 12))
NAMES = [f"class {i}" for i in range(10)]


def picture(path: Path, height: int = 31, width: int = 20, seed: int = 2) -> Path:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)).save(path)
    return path


def refused(*arguments: object) -> str:
    """What is said, in one line, of arguments that are of no use."""
    result = call(*arguments)
    assert result.exit_code == 2, result.stdout
    assert result.stderr.count("\n") == 1 and result.stdout == ""
    return result.stderr


@pytest.fixture
def names(tmp_path: Path) -> Path:
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    return tmp_path / "names.txt"


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ((), NAMED["keras"]),
        (("--preprocess", "torch"), NAMED["torch"]),
        (("--preprocess", "caffe"), NAMED["caffe"]),
        (("--preprocess", "none", "--mean", "127", "--std", "128"), Preprocess(mean=(127.0,), std=(128.0,))),
        (("--mean", "0.5", "--std", "0.1,0.2,0.3"), NAMED["torch"].changed(mean=(0.5,), std=(0.1, 0.2, 0.3))),
        (("--resize", "16"), NAMED["keras"].changed(resize=16)),
        (("--preprocess", "torch", "--resize", "14x13"), NAMED["torch"].changed(resize=(14, 13))),
        (("--preprocess", "torch", "--resize", "whole"), NAMED["torch"].changed(resize=None)),
        (("--crop", "1"), NAMED["keras"].changed(crop=1.0)),
    ],
)
def test_what_is_done_to_a_picture(tmp_path: Path, model: Path, options: tuple, wanted: Preprocess) -> None:
    """As said, by run and by compile, whose file remembers it; and one line tells."""
    path = picture(tmp_path / "cat.png")
    x = wanted(path, VALUE)
    told = ok("run", model, path, *options, "--output", tmp_path / "y.npy").splitlines()[0]
    close(np.load(tmp_path / "y.npy"), expected(model, x))
    assert told.startswith("cat.png: 31x20 -> ") and wanted.colours().split(" (")[0] in told
    ok("compile", model, *options)
    loaded = optgraph.load(model.with_suffix(".optgraph"), "torch")
    close(np.asarray(loaded(loaded.preprocess(path))), expected(model, x))
    again = ok("run", model.with_suffix(".optgraph"), path, "--output", tmp_path / "z.npy").splitlines()[0]
    close(np.load(tmp_path / "z.npy"), expected(model, x))
    assert again == told


def test_nobody_said_and_it_says_so(tmp_path: Path) -> None:
    proto = classifier()
    proto.producer_name = "pytorch"
    path = picture(tmp_path / "cat.png")
    out = ok("run", saved(tmp_path, proto), path)
    assert "(torch, a guess: pytorch wrote the model; see --preprocess)" in out
    assert "(keras, by default: the model does not say; see --preprocess)" in ok("run", saved(tmp_path), path)
    assert ", x/127.5 - 1 (keras)\n" in ok("run", saved(tmp_path), path, "--preprocess", "keras")


def test_a_file_of_another_preprocessing_can_be_overruled(tmp_path: Path, model: Path) -> None:
    path = picture(tmp_path / "cat.png")
    ok("compile", model, "--preprocess", "caffe")
    ok("run", model.with_suffix(".optgraph"), path, "--preprocess", "torch", "-o", tmp_path / "y.npy")
    close(np.load(tmp_path / "y.npy"), expected(model, NAMED["torch"](path, VALUE)))
    assert "BGR, x - mean (caffe)" in ok("inspect", model.with_suffix(".optgraph"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--preprocess", "tf"), "use keras, torch, caffe, none"),
        (("--mean", "a"), "--mean a: expects a number, or one for each channel"),
        (("--std", "1,2"), "expects one number, or one for each of three channels"),
        (("--mean", "127"), "mean 127 is over 1"),
        (("--resize", "2x"), "--resize 2x: expects the shorter side, as in 256, 256x256 or whole"),
        (("--resize", "9"), "cat.png: a picture of 31x20 resized to 13x9 has no centre of 12x12"),
        (("--crop", "2"), "above 0 and up to 1"),
        (("--crop", "1", "--resize", "20"), "two ways to say one thing"),
    ],
)
def test_options_that_say_nothing(tmp_path: Path, model: Path, options: tuple, says: str) -> None:
    assert says in refused("run", model, picture(tmp_path / "cat.png"), *options)


def test_a_network_without_pictures_takes_no_such_options(tmp_path: Path) -> None:
    proto = classifier(shape=("n", 3, 12, 12))
    node = helper.make_node("Reshape", ["flat", "to"], ["x"])
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, 3, 12, 12]), "to"))
    proto.graph.node.insert(0, node)
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("flat", 1, ["n", 432]))
    proto.graph.node[-3].output[0] = proto.graph.node[-2].input[0] = "flattened"
    proto.graph.node[-1].input[0] = proto.graph.node[-2].output[0] = "logits"
    model = saved(tmp_path, proto)
    assert "no input of the network takes pictures" in refused("run", model, "--preprocess", "torch")
    assert "takes no picture" in refused("run", model, picture(tmp_path / "cat.png"))
    assert ok_json("inspect", model)["preprocessing"] is None


def test_a_net_that_does_not_say(tmp_path: Path, model: Path) -> None:
    net = optgraph.compile(model, "torch")
    net.preprocessing = None
    net.save(tmp_path / "net.optgraph")
    path = picture(tmp_path / "cat.png")
    assert "nothing says how pictures are made ready for the network" in refused("run", tmp_path / "net.optgraph", path)
    assert "(torch)" in ok("run", tmp_path / "net.optgraph", path, "--preprocess", "torch")


def test_several_pictures_are_a_batch(tmp_path: Path, model: Path) -> None:
    files = [picture(tmp_path / f"{i}.png", seed=i) for i in range(5)]
    wanted = expected(model, np.concatenate([NAMED["keras"](file, VALUE) for file in files]))
    ways = (
        files,
        [*files[:2], *(part for file in files[2:] for part in ("--input", file))],
        [tmp_path],
        [*files, "--batch", 2],
    )
    for arguments in ways:
        found = ok_json("run", model, *arguments, "--output", tmp_path / "y.npz")
        close(np.load(tmp_path / "y.npz")["y"], wanted)
        assert found["batches"] == (3 if "--batch" in arguments else 1)
        (tmp_path / "y.npz").unlink()
    out = ok("run", model, *files)
    assert [line for line in out.splitlines() if line in {file.name for file in files}] == [f.name for f in files]
    assert "2.png: 31x20 -> resized to 12x12" in out


def test_many_pictures_are_told_of_in_short(tmp_path: Path, model: Path) -> None:
    files = [picture(tmp_path / f"{i}.png", seed=i) for i in range(34)]
    out = ok("run", model, *files)
    assert "and 29 more in the same way" in out and "2 batches, the first run among them" in out
    assert out.count(" -> ") == 5


def test_a_network_of_a_fixed_batch(tmp_path: Path) -> None:
    one, two = (saved(tmp_path, classifier(shape=(n, 3, 12, 12)), f"{n}.onnx") for n in (1, 2))
    files = [picture(tmp_path / f"{i}.png", seed=i) for i in range(4)]
    for model in (one, two):
        ok("run", model, *files, "--output", tmp_path / "y.npy")
        close(
            np.load(tmp_path / "y.npy"),
            expected(saved(tmp_path), np.concatenate([NAMED["keras"](f, VALUE) for f in files])),
        )
    assert "takes 2 at a time" in refused("run", two, *files, "--batch", 4)
    assert "expects float32 of shape [2, 3, 12, 12], got [1, 3, 12, 12]" in refused("run", two, *files[:3])


def test_arrays(tmp_path: Path, model: Path) -> None:
    """.npy and .npz, one or several, with pictures among them; what does not fit together is refused."""
    x = np.random.default_rng(0).standard_normal((3, 3, 12, 12)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x, other=x[0])
    np.savez(tmp_path / "alone.npz", whatever=x[:1])
    cat = picture(tmp_path / "cat.png")
    ok(
        "run",
        model,
        *(tmp_path / name for name in ("x.npy", "x.npz", "cat.png", "alone.npz")),
        "-o",
        tmp_path / "y.npy",
    )
    close(np.load(tmp_path / "y.npy"), expected(model, np.concatenate([x, x, NAMED["keras"](cat, VALUE), x[:1]])))
    np.savez(tmp_path / "no.npz", a=x, b=x)
    assert "has arrays a, b, and the input is 'x'" in refused("run", model, tmp_path / "no.npz")
    np.save(tmp_path / "wide.npy", x[..., :5])
    assert "is not that of the others" in refused("run", model, tmp_path / "x.npy", tmp_path / "wide.npy")
    for name, data in (("a.npz", b"PK\x03\x04 no"), ("b.npy", b""), ("c.npz", b"text")):
        (tmp_path / name).write_bytes(data)
        assert "not a file of numbers" in refused("run", model, tmp_path / name)
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    assert "not a file of numbers" in refused("run", model, tmp_path / "objects.npy")


def test_random_images_in_a_batch(model: Path) -> None:
    assert ok_json("run", model, "--batch", 3)["outputs"]["y"]["shape"] == [3, 10]
    assert ok_json("run", model, "random")["outputs"]["y"]["shape"] == [1, 10]


def test_names_of_classes(tmp_path: Path, model: Path, names: Path) -> None:
    """From a file, saved in the artifact, or from the model's metadata; --top as many as asked for."""
    path = picture(tmp_path / "cat.png")
    best = int(expected(model, NAMED["keras"](path, VALUE)).argmax())
    found = ok_json("run", model, path, "--labels", names, "--top", 3)["outputs"]["y"]
    assert found["top"][0][0]["name"] == f"class {best}" and len(found["top"][0]) == 3
    assert found["scores"] == "probability"
    ok("compile", model, "--labels", names)
    assert f"class {best}" in ok("run", model.with_suffix(".optgraph"), path)
    assert "10, with names" in ok("inspect", model.with_suffix(".optgraph"))
    assert optgraph.load(model.with_suffix(".optgraph"), "torch").labels == tuple(NAMES)
    proto = classifier()
    helper.set_model_props(proto, {"names": str(dict(enumerate(NAMES)))})
    assert f"class {best}" in ok("run", saved(tmp_path, proto), path)
    assert optgraph.compile(proto, "torch", labels=[f"own {i}" for i in range(10)]).labels[3] == "own 3"


def test_another_number_of_names(tmp_path: Path, model: Path) -> None:
    (tmp_path / "two.txt").write_text("cat\ndog\n")
    path = picture(tmp_path / "cat.png")
    for command in (("run", model, path), ("compile", model)):
        said = refused(*command, "--labels", tmp_path / "two.txt")
        assert said == f"error: {tmp_path / 'two.txt'}: 2 names, and output 'y' has 10 classes\n"
    with pytest.raises(optgraph.InputError, match="labels: 2 names"):
        optgraph.compile(str(model), "torch", labels=["cat", "dog"])
    with pytest.raises(optgraph.InputError, match=r"two\.txt: 2 names"):
        optgraph.compile(str(model), "torch", labels=str(tmp_path / "two.txt"))
    proto = classifier()
    helper.set_model_props(proto, {"names": "cat,dog"})  # a detector's, for all that is known: no error
    assert optgraph.compile(proto, "torch").labels == ()


def test_a_sigmoid_is_no_probability_of_a_class(tmp_path: Path) -> None:
    proto = classifier()
    del proto.graph.node[-1]
    proto.graph.output[0].name = "logits"
    model = saved(tmp_path, proto)
    found = ok_json("run", model, "random")["outputs"]["logits"]
    assert found["scores"] == "logit" and sum(c["softmax"] for c in found["top"][0]) < 1
    assert "logits: 1×10, logits" in ok("run", model, "random")


def test_a_16_bit_picture_is_what_its_8_bit_twin_is(tmp_path: Path) -> None:
    """It was clipped to white before: another class, with exit code 0."""
    model = saved(tmp_path, classifier())
    grey = np.random.default_rng(5).integers(0, 256, (12, 12)).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    ok("run", model, tmp_path / "8.png", tmp_path / "16.png", "-o", tmp_path / "y.npy")
    eight, sixteen = np.load(tmp_path / "y.npy")
    np.testing.assert_allclose(eight, sixteen, rtol=1e-6)


@pytest.mark.parametrize("command", ["run", "verify", "compile"])
def test_no_picture_is_one_line(tmp_path: Path, model: Path, command: str) -> None:
    (tmp_path / "x.webp").write_bytes(b"RIFF")
    extra = ("--dtype", "fp16", "--keep-fp32", "auto") if command == "compile" else ()
    assert "x.webp: cannot be read: damaged" in refused(command, model, "--input", tmp_path / "x.webp", *extra)
    assert "no such file" in refused(command, model, "--input", tmp_path / "y.png", *extra).lower()


@pytest.mark.filterwarnings("error")
def test_what_pillow_warns_of_is_no_line_of_the_commands(tmp_path: Path, model: Path) -> None:
    """Damaged EXIF is as good as none; a picture of too many pixels is refused in one line, warned of or not."""
    Image.new("RGB", (9, 9)).save(tmp_path / "x.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f\0\0")
    result = call("run", model, tmp_path / "x.jpg")
    assert result.exit_code == 0 and result.stderr == ""
    Image.new("1", (10_000, 9_000)).save(tmp_path / "x.png")
    assert "over 89 million pixels" in refused("run", model, tmp_path / "x.png")


def test_verify_and_compile_read_pictures_as_run_does(tmp_path: Path, model: Path) -> None:
    path = picture(tmp_path / "cat.png")
    said = "cat.png: 31x20 -> shorter side 14, centre 12x12, RGB, (x/255 - mean)/std (torch)"
    assert said in ok("verify", model, "--input", path, "--preprocess", "torch")
    assert ok_json("verify", model, "--input", path, "--preprocess", "torch")["pictures"] == [said]
    ok("compile", model, "--preprocess", "torch")
    assert said in ok("verify", model.with_suffix(".optgraph"), "--input", path)
    arguments = ("--dtype", "fp16", "--keep-fp32", "auto", "--input", path, "--preprocess", "torch")
    assert said in ok("compile", model, *arguments)


def test_sides_of_a_photograph_turned_by_exif(tmp_path: Path) -> None:
    """At a network's open sizes, the size is that of the picture as one sees it."""
    proto = classifier(shape=("n", 3, "h", "w"))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((20, 32, 3), np.uint8)).save(tmp_path / "x.jpg", exif=exif)
    found = ok_json("run", saved(tmp_path, proto), tmp_path / "x.jpg")
    assert found["image"] == "the image is 32x20, and ran at that"
    assert found["pictures"][0].startswith("x.jpg: 32x20, upright by its EXIF -> RGB")


def test_json_of_a_saved_preprocessing(model: Path) -> None:
    found = ok_json("compile", model, "--preprocess", "caffe", "--crop", "1")
    assert Preprocess.from_json(json.loads(json.dumps(found["preprocessing"]))) == NAMED["caffe"].changed(crop=1.0)


def test_hidden_files_of_a_folder_are_no_pictures(tmp_path: Path, model: Path) -> None:
    """Macintoshes leave a ._a.png beside a.png on disks of others."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "._a.png").write_bytes(b"\0\5\x16\7")
    Image.new("RGB", (12, 12)).save(tmp_path / "pictures" / "a.png")
    assert "._a" not in ok("run", model, tmp_path / "pictures")
