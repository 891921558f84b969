"""Every kernel on samples that it declares, as `tests/kernels/test_samples.py` has them, on the GPU."""

from __future__ import annotations

import pytest
import torch

from optgraph.base.dtypes import STORAGE
from optgraph.kernels.frame.kernel import Kernel
from tests.support.gpu_checks import wrong_samples
from tests.support.kernel_checks import KERNELS

pytestmark = pytest.mark.gpu


# Of the samples in each dtype, one of so many: they are 3,000, and two thirds of them want a kernel of their own.
EVERY = {"fp16": 1, "fp32": 3, "tf32": 3, "bf16": 3}


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_samples(kernel: Kernel) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    found = {dtype: wrong_samples(kernel, dtype, device, EVERY[dtype]) for dtype in STORAGE}
    wrong = [f"{dtype}: {line}" for dtype, (_, lines) in found.items() for line in lines]
    assert not wrong, f"{len(wrong)} of {sum(tried for tried, _ in found.values())} samples:\n" + "\n".join(wrong)
