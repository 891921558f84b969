"""Waits and work of waves, from launches that are made up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import small_maps
from optgraph.base.devices import BEST, SM_90, WORST
from optgraph.cost.predict import Predicted, predict
from optgraph.kernels.frame.demand import Range
from optgraph.plan.lowering import lower
from optgraph.plan.weights import Shapes
from tests.support.networks import inception_a

PLAIN, EARLY = [1e6 * end.launch for end in (BEST, WORST)], [1e6 * end.early for end in (BEST, WORST)]


@pytest.fixture
def launch() -> Predicted:
    """One that takes 5 to 9 µs after it waited, and 2 to 3 of the whole machine."""
    graph = inception_a()
    found = predict(lower(graph, 1, "fp16", SM_90), Shapes(graph.constants)).launches[0]
    time = Range(BEST.early + 5e-6, WORST.early + 9e-6)
    return replace(found, early=True, time=time, share=Range(2e-6, 3e-6))


def test_only_a_launch_by_itself_begins_early(launch: Predicted) -> None:
    late = replace(launch, early=False)
    for wave, early, expected in (
        ([launch], True, EARLY),
        ([launch], False, PLAIN),
        ([launch, launch], True, PLAIN),
        ([late], True, PLAIN),
    ):
        assert [1e6 * wait for wait in small_maps.waited(wave, early)] == pytest.approx(expected)


def test_a_wave_is_busy_as_long_as_its_longest_launch_or_all_of_them_together(launch: Predicted) -> None:
    for count, expected in ((1, [5, 9]), (2, [5, 9]), (4, [8, 12])):
        assert [1e6 * time for time in small_maps.busy([launch] * count)] == pytest.approx(expected)
