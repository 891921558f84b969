"""A network trained on handwritten digits, in int8: whether it still reads them, and what is told of its layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

import optgraph
from optgraph.int8 import quantize as module
from optgraph.int8.correct import corrections
from optgraph.int8.float_model import FloatModel
from optgraph.int8.layers import Layer, layers
from optgraph.int8.losses import INPUT, WEIGHTS, alone, everything
from optgraph.int8.quantize import Quantized
from optgraph.int8.ranges import METHODS, percentile, ranges
from optgraph.int8.verdict import Judge
from optgraph.int8.write import Writer
from optgraph.onnx.sessions import session
from optgraph.onnx.write import to_onnx
from optgraph.run.reference import Executor
from tests.support.digits import Digits, quietest, trained, uneven

# Looked for, not imported: that takes a second of every worker.
pytestmark = pytest.mark.skipif(find_spec("sklearn") is None, reason="needs scikit-learn: pip install scikit-learn")

POINTS = 0.005
ANY = 9.0  # a tolerance that all meet


@pytest.fixture(scope="module")
def digits() -> Digits:
    return trained()


@pytest.fixture(scope="module")
def quantized(digits: Digits) -> Quantized:
    return optgraph.quantize(digits.model, digits.seen[:256], tolerance=ANY, batch=64)


@pytest.fixture(scope="module")
def network(digits: Digits) -> FloatModel:
    return FloatModel.of(optgraph.compile(digits.model, "torch"))


@pytest.fixture(scope="module")
def writer(digits: Digits, network: FloatModel) -> Writer:
    return Writer(ranges(network.model, [{"x": digits.seen[:256]}], "minmax"), True, False, digits.model)


def answers(model: onnx.ModelProto, x: np.ndarray, integers: bool = False) -> np.ndarray:
    (found,) = session(model.SerializeToString(), optimize=integers, integers=integers).run(None, {"x": x})
    return found


def test_it_still_reads_them(digits: Digits, quantized: Quantized) -> None:
    """In float, as the file says, and by ONNX Runtime's integer kernels."""
    right = digits.right(answers(digits.model, digits.unseen))
    assert right >= 0.98
    onnx.checker.check_model(quantized.model, full_check=True)
    assert digits.right(answers(quantized.model, digits.unseen)) >= right - POINTS
    assert digits.right(answers(quantized.model, digits.unseen, integers=True)) >= right - POINTS
    verdict = quantized.verdict
    assert verdict.pictures == 256 and 0 < verdict.error < 0.03
    assert verdict.top1 is not None and verdict.top1 > 0.99 and quantized.here.error < 0.04
    theirs, ours = (answers(model, digits.seen[:256]).astype(np.float64) for model in (digits.model, quantized.model))
    assert verdict.error == pytest.approx(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs), rel=1e-3)
    by_integers = answers(quantized.model, digits.seen[:256], integers=True).astype(np.float64)
    here = np.linalg.norm(by_integers - theirs) / np.linalg.norm(theirs)
    assert abs(quantized.here.error - here) < 0.1 * abs(verdict.error - here)  # which the two are hardly apart
    p, q = (torch.softmax(torch.tensor(each), 1).numpy() for each in (theirs, ours))
    assert verdict.probability == pytest.approx(np.abs(p - q).mean(), rel=1e-3)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "minmax"])
def test_other_ways_to_find_ranges(
    digits: Digits,
    network: FloatModel,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    method: str,
) -> None:
    monkeypatch.setitem(METHODS, method, (METHODS[method][0], 192))
    batches = [{"x": digits.seen[i : i + 32]} for i in (0, 32)]
    whole, found = (ranges(network.model, batches, each) for each in ("minmax", method))
    assert {*whole} == {*found} and capsys.readouterr().out == ""
    for name in found:
        (low, high), (least, most) = (limits(each[name]) for each in (found, whole))
        assert least - 1e-4 <= low < high <= most + 1e-4 and high - low > 0.2 * (most - least)


def limits(data: Any) -> tuple[float, ...]:
    return tuple(float(np.max(each)) for each in data.range_value)


def test_a_percentile_leaves_out_what_hardly_ever_comes() -> None:
    x = np.append(np.random.default_rng(0).standard_normal(1_000_000), 100.0)
    for bins, most in ((2048, 6.0), (5000, 5.2)):
        histogram = (*np.histogram(x, bins, (-100, 100)), x.min(), x.max())
        low, high = percentile(histogram)
        assert -most < low < -4 and 4 < high < most


def test_one_scale_for_all_channels_fails_where_their_ranges_differ(digits: Digits) -> None:
    """A depthwise layer, one of whose 16 channels has weights 300 times as large, and is read 300 times smaller."""
    model = uneven(digits.model, quietest(digits), 300.0)
    right = digits.right(answers(model, digits.unseen))
    assert right == digits.right(answers(digits.model, digits.unseen))
    given = {"tolerance": ANY, "batch": 64, "equalise": False}
    by_channel, by_tensor = (
        optgraph.quantize(model, digits.seen[:256], per_channel=each, **given) for each in (True, False)
    )
    assert digits.right(answers(by_channel.model, digits.unseen)) >= right - 3 * POINTS
    assert digits.right(answers(by_tensor.model, digits.unseen)) < right - 0.2
    worst = by_tensor.losses[0]
    assert worst.layer.startswith("/depthwise/") and worst.parts[WEIGHTS] == max(worst.parts.values())
    assert worst.why.startswith("weights, one scale: the widest of 16 channels is")
    assert int(worst.why.split()[-3][:-1]) > 50
    (same,) = (loss for loss in by_channel.losses if loss.layer == worst.layer)
    assert same.parts[WEIGHTS] < 0.1 * worst.parts[WEIGHTS] and same.own < 0.5 * worst.own
    kept = optgraph.quantize(model, digits.seen[:256], per_channel=False, **given | {"tolerance": 0.05})
    assert worst.layer in kept.kept and digits.right(answers(kept.model, digits.unseen)) >= right - 2 * POINTS


@pytest.mark.parametrize("per_channel", [True, False])
def test_channels_are_equalised_where_it_helps(digits: Digits, quantized: Quantized, per_channel: bool) -> None:
    """In the same network, whose depthwise layer reads one channel that is 300 times narrower than it was."""
    model = uneven(digits.model, quietest(digits), 300.0)
    found = optgraph.quantize(model, digits.seen[:256], per_channel=per_channel, tolerance=ANY, batch=64, look=1)
    assert found.equalised and found.plain.error > 4 * found.verdict.error
    assert found.verdict.error < 1.5 * quantized.verdict.error
    assert digits.right(answers(found.model, digits.unseen)) >= digits.right(answers(model, digits.unseen)) - POINTS


def test_a_loss_is_what_the_layer_alone_in_int8_is_off(digits: Digits, network: FloatModel, writer: Writer) -> None:
    """Against ONNX Runtime, on models in which all other layers are in float."""
    pictures = [{"x": digits.seen[i : i + 1]} for i in range(3)]
    found = optgraph.quantize(digits.model, digits.seen[:256], tolerance=ANY, batch=64, look=3)
    judge = Judge(network.model, lambda: pictures)
    names = [node.name for node in network.model.graph.node]
    added = corrections(network.graph, layers(network.graph, writer.write(network.model)), found_pictures(digits))
    assert found.corrected
    compared = 0
    for layer in layers(network.graph, writer.write(network.model)):
        own = layer.names(network.graph)
        if any(len(network.graph.users(layer.node.inputs[slot])) > 1 for slot in layer.inputs):
            continue  # in the model, all who read a tensor read it from its grid
        model = module.corrected(network.model, {name: added[name] for name in own if name in added})
        error = judge(writer.write(model, [name for name in names if name not in own])).error
        (loss,) = (loss for loss in found.losses if loss.layer == layer.node.name)
        assert loss.answer == pytest.approx(error, rel=2e-3)
        compared += 1
    assert compared >= 6


def found_pictures(digits: Digits) -> list[dict[str, np.ndarray]]:
    return [{"x": digits.seen[i : i + 1]} for i in range(module.CORRECT)]


def test_losses_are_told_largest_first(quantized: Quantized) -> None:
    lost = quantized.losses
    assert Counter(loss.op for loss in lost) == {"Conv": 5, "Gemm": 1, "Add": 1, "GlobalAveragePool": 1}
    assert [loss.answer for loss in lost] == sorted((loss.answer for loss in lost), reverse=True)
    for loss in lost:
        parts = loss.parts
        assert loss.own > 0 and loss.answer > 0 and max(parts.values()) < 1.5 * loss.own < 1.6 * sum(parts.values())
        assert loss.why.startswith(max(parts, key=lambda part: parts[part]))
    gemm = next(loss for loss in lost if loss.op == "Gemm")
    assert gemm.parts["output"] == 0 and gemm.own == pytest.approx(gemm.answer)  # it answers in float
    conv = next(loss for loss in lost if loss.layer == "/stem/stem.0/Conv")
    assert {"/stem/stem.0/Conv", "/stem/stem.2/Relu"} <= set(conv.nodes)


def test_corrected_biases_bring_the_means_back(digits: Digits, network: FloatModel, writer: Writer) -> None:
    pictures = found_pictures(digits)
    found = layers(network.graph, writer.write(network.model))
    added = corrections(network.graph, found, pictures)
    better = layers(network.graph, writer.write(module.corrected(network.model, added)))
    executor = Executor(network.graph)

    runs = [everything(executor, feeds) for feeds in pictures]

    def off(kind: Sequence[Layer]) -> float:
        total = 0.0
        for layer in kind:
            if layer.node.name in added:
                exact = torch.cat([values[layer.node.output] for values in runs])
                given = (executor, network.graph, layer)
                ours = torch.cat([alone(*given, values, [INPUT, WEIGHTS], last=False) for values in runs])
                total += float((exact - ours).transpose(0, 1).flatten(1).mean(1).abs().sum())
        return total

    assert 0 < off(better) < 0.05 * off(found)


def test_the_most_harmful_stay_in_float_as_few_as_it_takes(digits: Digits, quantized: Quantized) -> None:
    tolerance = 0.7 * quantized.verdict.error
    found = optgraph.quantize(digits.model, digits.seen[:256], tolerance=tolerance, batch=64)
    assert found.verdict.error <= tolerance < quantized.verdict.error
    assert 0 < len(found.kept) < len(found.losses)
    assert found.kept == tuple(loss.layer for loss in quantized.losses[: len(found.kept)])
    fewer = optgraph.quantize(digits.model, digits.seen[:256], keep=found.kept[:-1], tolerance=ANY, batch=64)
    assert (
        fewer.verdict.error > tolerance
        and not fewer.kept
        and len(fewer.losses) == len(found.losses) - len(found.kept) + 1
    )


def test_a_layer_in_float_stays_so_in_any_session(digits: Digits, quantized: Quantized, tmp_path: Path) -> None:
    """ONNX Runtime would take a float convolution between two grids for one to be quantised, with one scale."""
    path = tmp_path / "kept.onnx"
    convolutions = sum(loss.op == "Conv" for loss in quantized.losses)
    kept = optgraph.quantize(
        digits.model, digits.seen[:64], keep=["/second/second.0/second.0.0/Conv"], tolerance=ANY, look=1
    )
    for model, integer in ((quantized.model, convolutions), (kept.model, convolutions - 1)):
        onnx.save(model, path)
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        ran = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
        assert ran["QLinearConv"] == integer and ran["QGemm"] == 1


def test_integers_run_where_they_are_asked_for(digits: Digits, quantized: Quantized, tmp_path: Path) -> None:
    ran = []
    for integers in (True, False):
        opened = session(quantized.model.SerializeToString(), profile=tmp_path / "profile", integers=integers)
        opened.run(None, {"x": digits.seen[:1]})
        events = (event.get("args", {}) for event in opened.profile())
        ran.append(Counter(args["op_name"] for args in events if "op_name" in args))
    assert ran[0]["QLinearConv"] == 5 and not ran[0]["Conv"]
    assert not ran[1]["QLinearConv"] and ran[1]["Conv"] + ran[1]["FusedConv"] == 5


def test_the_file_is_compiled_and_means_the_same(digits: Digits, quantized: Quantized, tmp_path: Path) -> None:
    """On torch as the file says; in ONNX Runtime and in kernels in integers, by way of our own graph."""
    x = digits.unseen[:32]
    exact = answers(quantized.model, x)
    net = optgraph.compile(quantized.model, "torch")
    assert np.linalg.norm(np.asarray(net(x)) - exact) < 1e-5 * np.linalg.norm(exact)
    kernels = optgraph.compile(quantized.model, "interpret", "int8")
    assert not kernels.plan().fallbacks
    assert np.linalg.norm(np.asarray(kernels(x[:4])) - exact[:4]) < 5e-3 * np.linalg.norm(exact[:4])
    opened = session(to_onnx(net.simplified).SerializeToString(), profile=tmp_path / "profile", integers=True)
    (found,) = opened.run(None, {"x": x})
    ran = Counter(event.get("args", {}).get("op_name") for event in opened.profile())
    assert ran["QLinearConv"] == 5 and ran["QGemm"] == ran["QLinearAdd"] == 1 and not ran["Conv"]
    assert 0 < np.linalg.norm(found - exact) < 5e-3 * np.linalg.norm(exact)
    assert np.array_equal(np.asarray(optgraph.compile(quantized.model, "onnxruntime", "int8")(x)), found)


def test_weights_of_seven_bits_where_sums_are_cut_off(digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    def largest(found: Quantized) -> int:
        weights = [numpy_helper.to_array(tensor) for tensor in found.model.graph.initializer]
        return max(int(np.abs(w.astype(np.int64)).max()) for w in weights if w.dtype == np.int8 and w.ndim > 1)

    given = {"tolerance": ANY, "batch": 64, "look": 1}
    for saturating in (False, True):
        monkeypatch.setattr(module, "saturates", lambda answer=saturating: answer)
        found = optgraph.quantize(digits.model, digits.seen[:64], **given)
        assert found.saturates == found.settings.reduce_range == saturating
        assert largest(found) == (64 if saturating else 127)
    other = optgraph.quantize(digits.model, digits.seen[:64], reduce_range=False, **given)
    assert other.saturates and largest(other) == 127


def test_ranges_do_not_depend_on_the_batch(digits: Digits, network: FloatModel) -> None:
    x = digits.seen[:12]
    whole = ranges(network.model, [{"x": x}], "minmax")
    parts = ranges(network.model, ({"x": x[i : i + 5]} for i in range(0, 12, 5)), "minmax")
    assert [*whole] == [*parts] and len([*whole]) > 10
    for name in whole:
        assert limits(whole[name]) == pytest.approx(limits(parts[name]), abs=1e-5)
