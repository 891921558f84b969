"""Every kernel on the samples that it declares, as `tests/kernels/test_samples.py` has them, on the GPU."""

from __future__ import annotations

import pytest
import torch

from optgraph.base.dtypes import STORAGE
from optgraph.kernels.frame.kernel import Kernel
from tests.support.gpu_checks import wrong_samples
from tests.support.kernel_checks import KERNELS

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", STORAGE)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_every_sample(kernel: Kernel, dtype: str) -> None:
    tried, wrong = wrong_samples(kernel, dtype, torch.device("cuda", torch.cuda.current_device()))
    assert not wrong, f"{len(wrong)} of {tried} samples:\n" + "\n".join(wrong)
