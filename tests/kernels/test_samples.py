"""Every kernel on the samples that it declares, in the interpreter, in every dtype, against float64."""

from __future__ import annotations

from typing import Any

import pytest

from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.sample import STORED, Sample
from tests.support.kernel_checks import KERNELS, check
from tests.support.paths import ROOT

# numpy, in what a masked element makes of the zero or -inf that it reads
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow|divide by zero|All-NaN)")


def dtypes(sample: Sample) -> tuple[str, ...]:
    if all(view.dtype != STORED for view in sample.views().values()):
        return ("fp16",)  # all are the same
    return ("fp32", "fp16", "tf32") if "precision" in sample.arguments else ("fp32", "fp16")


TRIALS: list[Any] = [
    pytest.param(kernel, sample, dtype, id=f"{kernel}: {what}, {i}, {dtype}")
    for kernel in KERNELS
    for i, (what, sample) in enumerate(kernel.samples())
    for dtype in dtypes(sample)
]


@pytest.mark.parametrize(("kernel", "sample", "dtype"), TRIALS)
def test_sample(kernel: Kernel, sample: Sample, dtype: str) -> None:
    check(kernel, sample, dtype)


def test_every_kernel_is_here() -> None:
    launchers = {path.stem for path in (ROOT / "kernels").glob("*.py")}
    assert launchers == {kernel.name for kernel in KERNELS}
    assert all(any(kernel.samples()) for kernel in KERNELS)
