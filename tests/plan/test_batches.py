"""Which batch a plan is made for."""

import pytest

from optgraph.base.errors import InputError
from optgraph.ir.values import BATCH, Value
from optgraph.plan.batches import fitting_batch


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
