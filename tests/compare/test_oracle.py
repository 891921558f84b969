"""The oracle: distances, what to feed, what is allowed."""

import math

import numpy as np
import pytest

from optgraph.base.images import images
from optgraph.compare.oracle import agreement, allowed, distance, moved
from optgraph.ir.values import BATCH, Value
from optgraph.run.example import example


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


def test_the_scale_of_a_reference():
    zeros, tiny = np.zeros(4), np.full(4, 1e-6)
    assert distance(tiny, zeros, scale=0.1)[0] == pytest.approx(1e-5)
    assert distance(zeros + 1.0, zeros + 2.0, scale=0.1) == distance(zeros + 1.0, zeros + 2.0)


def test_agreement_of_classes():
    scores = np.arange(24.0).reshape(2, 12)
    assert agreement(scores, scores, 1) == (1.0, 1.0)
    other = scores.copy()
    other[0, 0] = 100.0  # now the best, before eleven
    assert agreement(other, scores, 1) == (0.5, 1.0)
    other[0, :6] = 100.0
    assert agreement(other, scores, 1) == (0.5, 0.5)
    assert agreement(other[:, :4], scores[:, :4], 1) == (0.5, None)
    assert agreement(other.T, scores.T, 0) == (0.5, 0.5)


def test_what_moves_an_answer_most():
    one, same, far = ({"y": np.array([1.0, x])} for x in (1.0, 1.0, 3.0))
    assert moved(one, [same, far]) == {"y": pytest.approx(2**0.5)}
    assert moved(one, [same]) == {"y": 0.0}
    assert moved(one, [{"y": np.array([np.nan, 1.0])}]) == {"y": 0.0}
