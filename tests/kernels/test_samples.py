"""Every kernel on the samples that it declares, in the interpreter, in fp32 and fp16, against float64.

Those that multiply are tried in tf32, too: that is float32 but for one function, which rounds what is multiplied
(`multiplicand` in `kernels/jit/epilogue.py`). The first sample of each sort comes past all that call it, except in a
bottleneck, where it depends on how many blocks of channels there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from optgraph.kernels.bottleneck import BOTTLENECK
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.sample import STORED, Sample
from tests.support.kernel_checks import KERNELS, check
from tests.support.paths import ROOT

# numpy, in what a masked element makes of the zero or -inf that it reads
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow|divide by zero|All-NaN)")


def trials(kernel: Kernel) -> Iterator[Any]:
    sorts = set()
    for i, (what, sample) in enumerate(kernel.samples()):
        rounded = "precision" in sample.arguments and (what not in sorts or kernel is BOTTLENECK)
        sorts.add(what)
        dtypes = ("fp32", "fp16", *["tf32"] * rounded)
        if all(view.dtype != STORED for view in sample.views().values()):
            dtypes = ("fp16",)  # all are the same
        for dtype in dtypes:
            yield pytest.param(kernel, sample, dtype, id=f"{kernel}: {what}, {i}, {dtype}")


TRIALS = [trial for kernel in KERNELS for trial in trials(kernel)]


@pytest.mark.parametrize(("kernel", "sample", "dtype"), TRIALS)
def test_sample(kernel: Kernel, sample: Sample, dtype: str) -> None:
    check(kernel, sample, dtype)


def test_every_kernel_is_here() -> None:
    launchers = {path.stem for path in (ROOT / "kernels").glob("*.py")}
    assert launchers == {kernel.name for kernel in KERNELS}
    assert all(any(kernel.samples()) for kernel in KERNELS)
