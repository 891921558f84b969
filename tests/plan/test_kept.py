"""Regions that stay in float32: what is stored and multiplied in it, what else must be, and that it helps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings, strategies

import optgraph
from optgraph.api.compiling import compile
from optgraph.base.errors import InputError
from optgraph.compare.oracle import distance
from optgraph.compare.verify import verify, verify_net
from optgraph.kernels.frame.view import View
from optgraph.plan.kept import Kept
from optgraph.run.example import example
from tests.support.networks import inception_a, inception_resnet, xception
from tests.support.out_of_fp16 import overflowing, overflowing_inside, underflowing
from tests.support.random_models import models
from tests.support.sabotage import saved

LEAVING = {"large": (overflowing, ("grow", "join")), "inside": (overflowing_inside, ("depthwise",))}
LEAVING["small"] = underflowing, ("filter", "square")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter, where numbers leave float16
@pytest.mark.parametrize("name", LEAVING)
def test_a_network_that_leaves_float16_is_right_once_it_is_kept(name, tmp_path):
    make, keep = LEAVING[name]
    path = tmp_path / "model.onnx"
    onnx.save(make(), path)
    broken = verify(path, "interpret", "fp16")
    assert not broken.ok and broken.out_of_range and broken.kept_fp32 == ()
    assert "out of the range of fp16" in broken.reason and "--keep-fp32 auto" in broken.reason
    assert ("NaN or Inf" in broken.reason) == (name != "small")
    for kept in (keep, "auto"):
        good = verify(path, "interpret", "fp16", keep_fp32=kept)
        assert good.ok and good.out_of_range == ()
        assert set(good.kept_fp32) >= set(keep)
        assert good.outputs[0].rel_l2 < 5e-3
        assert name == "inside" or good.outputs[0].rel_l2 > 1e-5  # the rest is float16


def test_what_is_stored_and_multiplied_in_float32():
    made = compile(overflowing(), "torch", "fp16", keep_fp32=["grow"])
    plan = made.plan()
    names = {origin: node.name for node in made.fused.nodes() for origin in node.origin}
    calls = {call.node: call for call in plan.calls}
    stored = {node: [view.dtype for view in call.written] for node, call in calls.items()}
    weights = {node: plan.packed[call.weights["weight"].key].dtype for node, call in calls.items() if call.weights}
    for origin, out, weight in (
        ("grow", "float32", "float32"),
        ("beside", "float32", "float16"),  # it writes into one buffer with the first
        ("shrink", "float16", "float32"),  # it reads it
        ("last", "float16", "float16"),
    ):
        assert set(stored[names[origin]]) == {out}, origin
        assert weights[names[origin]] == weight, origin


@pytest.mark.parametrize("make", [inception_a, inception_resnet, xception])
def test_whatever_is_kept_the_rest_still_fits(make, tmp_path):
    """Concats in place, merged siblings, bottlenecks: values that share a buffer or a launch share their type."""
    path = saved(make(), tmp_path)
    every = compile(path, "torch").fused.nodes()
    for index in range(0, len(every), max(1, len(every) // 4)):
        kept = every[index].origin[:1]
        result = verify(path, "interpret", "fp16", keep_fp32=kept)
        assert result.ok, (kept, result.reason)
    all_of_it = [name for node in every for name in node.origin]
    result = verify(path, "interpret", "fp16", keep_fp32=all_of_it)
    assert result.ok and result.outputs[0].rel_l2 < 1e-5


@settings(database=None, derandomize=True, deadline=None, max_examples=4, suppress_health_check=list(HealthCheck))
@given(models(), strategies.randoms(use_true_random=False))
def test_some_regions_of_random_networks(model, rng):
    """Kept or not, the others are as right as without."""
    nodes = [node for node in compile(model, "torch").fused.nodes() if node.origin]
    kept = [name for node in rng.sample(nodes, (len(nodes) + 1) // 2) for name in node.origin]
    halves = [compile(model, "interpret", "fp16", keep_fp32=keep) for keep in ((), kept)]
    feeds = example(halves[0].inputs, 1, seed=0)
    wanted = compile(model, "torch")(feeds)
    plain, mixed = (half(feeds) for half in halves)
    for name in halves[0].outputs:
        answers = (answer[name] if isinstance(answer, dict) else answer for answer in (wanted, plain, mixed))
        right, half, some = answers
        assert distance(some, right)[0] <= max(5e-3, 2 * distance(half, right)[0])


def test_nothing_is_kept_unless_asked_for():
    made = compile(overflowing(), "torch", "fp16")
    assert Kept.of(made.fused, ()) == Kept()
    assert {v.dtype for call in made.plan().calls for v in call.written} == {"float16"}
    assert all(isinstance(view, View) for view in made.plan().results.values())


def test_it_travels_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(overflowing(), path)
    made = compile(path, "interpret", "fp16", keep_fp32="auto")
    made.save(tmp_path / "model.optgraph")
    loaded = optgraph.load(tmp_path / "model.optgraph", "interpret")
    assert loaded.plans.keep == made.plans.keep != ()
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(loaded(x), made(x))
    assert verify_net(loaded, path).ok


def test_inputs_to_find_the_ranges_on():
    """On an image a thousandth as bright nothing leaves the range."""
    rng = np.random.default_rng(0)
    dim, bright = ([{"x": rng.normal(0, s, (1, 3, 8, 8)).astype(np.float32)}] for s in (1e-3, 1.0))
    kept = [compile(overflowing(), "torch", "fp16", keep_fp32="auto", inputs=i).plans.keep for i in (dim, bright)]
    assert kept[0] == () and "grow" in kept[1]


def test_what_cannot_be_kept():
    with pytest.raises(InputError, match="no region stands for an ONNX node of this name: close are grow"):
        compile(overflowing(), "torch", "fp16", keep_fp32=["grown"])
    with pytest.raises(InputError, match="in fp32 all is float32"):
        compile(overflowing(), "torch", keep_fp32="auto")
    assert compile(overflowing(), "torch", "bf16", keep_fp32="auto").plans.keep == ()  # it has float32's range
