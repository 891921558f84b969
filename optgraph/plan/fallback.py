"""What has no kernel: the operator's torch reference, on views in ONNX's order of axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce

import torch

from optgraph.base.errors import ModelError
from optgraph.ir.op import Op, Outputs
from optgraph.ir.quant import Quant
from optgraph.kernels.frame.kernel import Kernel


def fallback(
    op: Op,
    node: str,
    opsets: Mapping[str, int],
    inputs: Sequence[torch.Tensor | None],
    outs: Sequence[torch.Tensor],
    grids: Sequence[Quant | None] = (),
) -> Callable[[], None]:
    """A launcher. node: whose operator `op` is, by name. opsets: of the model, by domain. inputs: one a slot. grids: of
    the outputs that are to get the integers of one.

    What it returns raises ModelError, naming the node, for inputs that do not fit.
    """
    compute = op.function(opsets)
    floats = {tensor.dtype for tensor in inputs if tensor is not None and tensor.is_floating_point()}
    widest = reduce(torch.promote_types, floats) if len(floats) > 1 else None  # torch does not mix them

    def given(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return tensor.to(widest) if widest and tensor is not None and tensor.is_floating_point() else tensor

    def computed() -> Outputs:
        try:
            return compute([given(tensor) for tensor in inputs])
        except (ModelError, RuntimeError) as error:  # torch raises RuntimeError for what it cannot compute
            lines = str(error).splitlines() or [type(error).__name__]
            raise ModelError(f"node '{node}' ({op.kind}): {lines[0]}") from error

    def run() -> None:
        for out, result, quant in zip(outs, computed(), grids or [None] * len(outs), strict=True):
            if out.shape != result.shape:  # copied, it might be repeated without a word
                shapes = list(result.shape), list(out.shape)
                reason = f"node '{node}' ({op.kind}): gives {shapes[0]}, and {shapes[1]} was inferred"
                raise ModelError(f"{reason}: fix the input shapes")
            out.copy_(result if quant is None else quant.integers(result.float()))

    return run


FALLBACK = Kernel(fallback)
