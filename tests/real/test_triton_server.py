"""What `optgraph export-triton` writes, in NVIDIA's server itself: asked over HTTP by many at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import ml_dtypes
import numpy as np
import pytest

from tests.support.cli_models import classifier, close, expected, ok, saved
from tests.support.served_models import chosen, coupled, kinds
from tests.support.triton_server import Response, Server, running, why_not_here

pytestmark = pytest.mark.skipif(bool(why_not_here()), reason=why_not_here())

NAMES = [f"class {i}" for i in range(10)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """With a classifier whose requests wait a tenth of a second for others, and models of other kinds."""
    (folder / "names.txt").write_text("\n".join(NAMES))
    wait = ("--delay-us", 100_000)
    models = {
        "classifier": (classifier(), (*wait, "--labels", folder / "names.txt")),
        "interpreted": (classifier(), ("--backend", "interpret", "--max-batch", 2)),
        "sized": (classifier(("n", 3, "h", "w")), (*wait, "--sizes", "12x12,12x16", "--backend", "torch")),
        "any": (classifier(("n", 3, "h", "w")), ("--sizes", "12x12", "--any-size")),
        "fixed": (classifier((4, 3, 12, 12)), ()),
        "kinds": (kinds(), ()),
        "chosen": (chosen(), ()),
        "coupled": (coupled(), ()),
    }
    for name, (model, options) in models.items():
        ok("export-triton", saved(folder, model, f"{name}.onnx"), "-o", folder / "repo", *options)
    with running(folder / "repo", folder) as server:
        yield server


def at_once(server: Server, model: str, given: list[np.ndarray]) -> list[Response]:
    """The responses to requests that are made at the same time."""
    barrier = Barrier(len(given))

    def ask(x: np.ndarray) -> Response:
        barrier.wait()
        return server.infer(model, {"x": x})

    with ThreadPoolExecutor(len(given)) as pool:
        return list(pool.map(ask, given))


def test_requests_made_at_once_are_joined(server: Server, folder: Path) -> None:
    rng = np.random.default_rng(0)
    given = [rng.standard_normal((1 + i % 2, 3, 12, 12), np.float32) for i in range(32)]
    images, calls = server.counts("classifier")
    start = time.perf_counter()
    responses = at_once(server, "classifier", given)
    seconds = time.perf_counter() - start
    for x, response in zip(given, responses, strict=True):
        assert response.status == 200, response.said
        close(response.outputs["y"], expected(folder / "classifier.onnx", x))
    inferred, made = (
        after - before for after, before in zip(server.counts("classifier"), (images, calls), strict=True)
    )
    print(f"\n32 requests of {inferred} images: {made} executions, {seconds:.2f} s")
    assert inferred == 48 and 6 <= made <= 16, "of 8 images at most"
    assert server.metric("nv_inference_count", "classifier") == images + inferred
    assert server.metric("nv_inference_exec_count", "classifier") == calls + made


def test_an_error_is_of_its_request_alone(server: Server, folder: Path) -> None:
    """Of a size that the network has not, which only it can know."""
    rng = np.random.default_rng(1)
    widths = [12, 16, 20, 12, 12, 16, 12, 12]
    given = [rng.standard_normal((1, 3, 12, width), np.float32) for width in widths]
    _, calls = server.counts("sized")
    for x, response in zip(given, at_once(server, "sized", given), strict=True):
        if x.shape[3] == 20:
            assert response.status == 400 and "12x20" in response.said["error"], response.said
        else:
            close(response.outputs["y"], expected(folder / "sized.onnx", x))
    assert server.counts("sized")[1] - calls < len(given)


@pytest.mark.parametrize("shape", [(1, 3, 12, 13), (1, 4, 12, 12), (3, 12, 12), (9, 3, 12, 12)])
def test_a_shape_that_does_not_fit_is_refused(server: Server, shape: tuple[int, ...]) -> None:
    response = server.infer("classifier", {"x": np.zeros(shape, np.float32)})
    assert response.status == 400 and response.said["error"]
    assert server.infer("classifier", {"x": np.zeros((1, 3, 12, 12), np.float32)}).status == 200


def test_a_type_that_does_not_fit_is_refused(server: Server) -> None:
    response = server.infer("classifier", {"x": np.zeros((1, 3, 12, 12))})
    assert response.status == 400 and "FP64" in response.said["error"]


def test_the_names_of_classes(server: Server, folder: Path) -> None:
    x = np.random.default_rng(2).standard_normal((1, 3, 12, 12), np.float32)
    best = np.argsort(-expected(folder / "classifier.onnx", x)[0])[:3]
    said = server.infer("classifier", {"x": x}, y={"classification": 3}).said
    assert [text.split(":")[1:] for text in said["outputs"][0]["data"]] == [[str(i), NAMES[i]] for i in best]


def test_the_kernels_in_the_interpreter(server: Server, folder: Path) -> None:
    x = np.random.default_rng(3).standard_normal((2, 3, 12, 12), np.float32)
    close(server.infer("interpreted", {"x": x}).outputs["y"], expected(folder / "interpreted.onnx", x))


def test_any_size(server: Server, folder: Path) -> None:
    x = np.random.default_rng(4).standard_normal((2, 3, 9, 21), np.float32)
    close(server.infer("any", {"x": x}).outputs["y"], expected(folder / "any.onnx", x))


def test_a_batch_that_is_fixed(server: Server, folder: Path) -> None:
    x = np.random.default_rng(5).standard_normal((4, 3, 12, 12), np.float32)
    close(server.infer("fixed", {"x": x}).outputs["y"], expected(folder / "fixed.onnx", x))
    assert server.infer("fixed", {"x": x[:1]}).status == 400


def test_an_image_whose_answer_is_not_its_own(server: Server) -> None:
    """Requests are not joined, else each had the mean of others taken from it."""
    given = [np.full((2, 3, 4, 4), float(i), np.float32) for i in range(8)]
    for response in at_once(server, "coupled", given):
        assert (response.outputs["y"] == 0).all()


def test_types_of_numbers(server: Server) -> None:
    x = np.random.default_rng(6).uniform(-99, 99, (2, 3, 4, 4)).astype(np.float32)
    found = server.infer("kinds", {"x": x}).outputs
    np.testing.assert_allclose(found["y"], x.mean((1, 2, 3))[:, None], rtol=1e-4)
    np.testing.assert_array_equal(found["positive"], x > 0)
    np.testing.assert_array_equal(found["half"], x.astype(ml_dtypes.bfloat16))
    np.testing.assert_array_equal(found["whole"], x.astype(np.int64))
    c, a, b = x[:, 0] > 0, x[:, 1].astype(np.float16), x[:, 2].astype(np.float16)
    given = {"c": c[:, 0], "x": a[:, 0], "y": b[:, 0]}
    np.testing.assert_array_equal(server.infer("chosen", given).outputs["z"], np.where(c, a, b)[:, 0])


def test_a_model_is_unloaded_and_loaded_again(server: Server, folder: Path) -> None:
    x = {"x": np.zeros((1, 3, 12, 12), np.float32)}
    assert server.ask("POST", "/v2/repository/models/classifier/unload")[0] == 200
    assert server.infer("classifier", x).status == 404
    start = time.perf_counter()
    assert server.ask("POST", "/v2/repository/models/classifier/load")[0] == 200
    assert server.infer("classifier", x).status == 200
    print(f"\n{time.perf_counter() - start:.2f} s from the order to load to the first answer")


def test_the_newest_version_answers(server: Server, folder: Path) -> None:
    """It comes with other weights, by the same command, and the server is told to load it."""
    x = np.random.default_rng(7).standard_normal((1, 3, 12, 12), np.float32)
    options = "--sizes", "12x12", "--any-size", "--name", "any"
    other = saved(folder, classifier(("n", 3, "h", "w"), op="Sigmoid"), "other.onnx")
    assert "version 2" in ok("export-triton", other, "-o", folder / "repo", *options)
    assert server.ask("POST", "/v2/repository/models/any/load")[0] == 200
    response = server.infer("any", {"x": x})
    assert response.said["model_version"] == "2"
    close(response.outputs["y"], expected(other, x))
