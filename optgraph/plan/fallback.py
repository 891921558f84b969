"""What has no kernel: the operator's torch reference, on views in ONNX's order of axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from optgraph.ir.op import Op
from optgraph.kernels.frame.kernel import Kernel


def fallback(
    op: Op, opsets: Mapping[str, int], inputs: Sequence[torch.Tensor | None], outs: Sequence[torch.Tensor]
) -> Callable[[], None]:
    """A launcher. opsets: of the model, by domain. inputs: one a slot of the operator."""
    compute = op.function(opsets)

    def run() -> None:
        for out, result in zip(outs, compute(list(inputs)), strict=True):
            out.copy_(result)

    return run


FALLBACK = Kernel(fallback)
