"""The oracle: distances, what to feed, what is allowed."""

import math

import numpy as np
import pytest

from optgraph.base.errors import InputError
from optgraph.base.images import images
from optgraph.compare.oracle import allowed, distance, example
from optgraph.ir.values import BATCH, Value
from optgraph.plan.lowering import fitting_batch


def test_distance():
    reference = np.array([3.0, 4.0], np.float32)
    assert distance(reference, reference) == (0.0, 0.0)
    rel_l2, max_abs = distance(np.array([3.0, 4.5], np.float32), reference)
    assert (rel_l2, max_abs) == (pytest.approx(0.1), pytest.approx(0.5))
    for result in ([3.0, math.nan], [3.0, math.inf], [[3.0, 4.0]]):
        assert distance(np.array(result, np.float32), reference) == (math.inf, math.inf)
    same = np.array([math.inf, 1.0], np.float32)
    assert distance(same, same) == (math.inf, math.inf)
    zeros = np.zeros(2, np.float32)
    assert distance(zeros, zeros) == (0.0, 0.0)
    assert distance(reference, zeros)[0] == math.inf


def test_example_fits_each_input():
    inputs = {
        "nchw": Value((BATCH, 3, 8, 6)),
        "nhwc": Value((BATCH, 8, 6, 3)),
        "vector": Value((BATCH, 5)),
        "ids": Value((BATCH, 4), "int64"),
    }
    feeds = example(inputs, batch=2, seed=1)
    assert {name: (a.shape, str(a.dtype)) for name, a in feeds.items()} == {
        "nchw": ((2, 3, 8, 6), "float32"),
        "nhwc": ((2, 8, 6, 3), "float32"),
        "vector": ((2, 5), "float32"),
        "ids": ((2, 4), "int64"),
    }
    assert all((example(inputs, 2, seed=1)[n] == a).all() for n, a in feeds.items())
    assert not (example(inputs, 2, seed=2)["nchw"] == feeds["nchw"]).any()


def test_example_draws_pictures_the_way_an_input_lies():
    for shape, channels_last in (((2, 3, 8, 6), False), ((2, 8, 6, 3), True), ((2, 12, 9, 9), False)):
        feeds = example({"x": Value((BATCH, *shape[1:]))}, batch=2, seed=3)
        assert np.array_equal(feeds["x"], images(3, shape, channels_last))


def test_what_is_allowed_follows_the_noise_up_to_a_limit():
    assert allowed("fp32", 2e-6) == 1e-5
    assert allowed("fp32", 1e-5) == 2e-5
    assert allowed("fp32", 1.0) == allowed("fp32", math.inf) == pytest.approx(1e-4)
    assert allowed("fp16", 1e-5) == 5e-3


def test_fitting_batch():
    free, fixed = {"x": Value((BATCH, 3))}, {"x": Value((4, 3))}
    assert fitting_batch(free, 7) == 7
    assert fitting_batch(fixed, 1) == fitting_batch(fixed, 4) == 4
    beside = {"shift": Value((3, 1, 1)), "x": Value((4, 3, 8, 8)), "factor": Value(())}
    assert fitting_batch(beside, 1) == fitting_batch(beside, 4) == 4
    assert fitting_batch({"factor": Value(())}, 7) == 7
    with pytest.raises(InputError, match="fixes it to 4"):
        fitting_batch(fixed, 2)
    with pytest.raises(InputError, match="at least one"):
        fitting_batch(free, 0)
