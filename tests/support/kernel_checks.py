"""What kernel tests share: every kernel, and a kernel on a sample in the interpreter against its float64 reference."""

from __future__ import annotations

import math

import torch

from optgraph.kernels.bottleneck import BOTTLENECK
from optgraph.kernels.conv2d import CONV2D
from optgraph.kernels.copy import COPY
from optgraph.kernels.dense import DENSE
from optgraph.kernels.depthwise import DEPTHWISE
from optgraph.kernels.elementwise import ELEMENTWISE
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.sample import Sample
from optgraph.kernels.global_pool import GLOBAL_POOL
from optgraph.kernels.lrn import LRN
from optgraph.kernels.matmul import MATMUL
from optgraph.kernels.normalise import NORMALISE
from optgraph.kernels.pad import PAD
from optgraph.kernels.pointwise import POINTWISE
from optgraph.kernels.pool import POOL
from optgraph.kernels.pooled_pointwise import POOLED_POINTWISE
from optgraph.kernels.reduce import REDUCE
from optgraph.kernels.resample import RESAMPLE
from optgraph.kernels.separable import SEPARABLE
from optgraph.kernels.softmax import SOFTMAX
from optgraph.tune.layers import Layer

KERNELS = (
    *(POINTWISE, CONV2D, BOTTLENECK, SEPARABLE, POOLED_POINTWISE, DEPTHWISE, POOL),
    *(GLOBAL_POOL, DENSE, SOFTMAX, ELEMENTWISE, LRN, PAD, REDUCE),
    *(COPY, RESAMPLE, MATMUL, NORMALISE),
)
CPU = torch.device("cpu")


def check(kernel: Kernel, sample: Sample, dtype: str = "fp32") -> None:
    """Runs the kernel on `sample`; asserts that it is as near to float64 as its sums allow, and writes nowhere else."""
    layer = Layer(kernel, sample.typed(dtype))
    operands = layer.operands(CPU)
    error = operands.error(operands.launch())
    assert error <= layer.bound, f"{layer.sample.arguments}: relative error {error:.2e}, bound {layer.bound:.2e}"


def poisoned(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A channel slice of a wider buffer, all NaN."""
    return torch.full((*shape[:-1], shape[-1] + 11), math.nan, dtype=dtype)[..., 8 : 8 + shape[-1]]


def outside(part: torch.Tensor) -> torch.Tensor:
    """What surrounds a channel slice in its buffer."""
    base, first = part._base, part.storage_offset()
    assert base is not None
    return torch.cat([base[..., :first], base[..., first + part.shape[-1] :]], dim=-1)
