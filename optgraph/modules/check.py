"""Whether an exported model gives what torch gives: an exporter may be wrong, and a program may do other things with
another number of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from optgraph.base.errors import ModelError
from optgraph.modules.graph import TorchGraph
from optgraph.modules.taken import Taken, arrays
from optgraph.onnx.read import read
from optgraph.run.reference import Executor

COARSE, COARSE_IN_HALVES = 3e-3, 3e-2  # what is wrong, is wrong by far


def difference(ours: torch.Tensor, theirs: torch.Tensor, coarse: float) -> str:
    """How our answer differs from torch's, in words; '' if it does not. Where torch's is not finite, nothing is asked.

    coarse: a tenth of what floats may be off by, as relative L2; of others, the share that may be another.
    """
    if ours.shape != theirs.shape:
        return f"is {list(ours.shape)}, where torch's is {list(theirs.shape)}"
    if not theirs.is_floating_point():  # of classes, say, of which rounding may exchange two that are alike
        share = float((ours != theirs).double().mean())
        return "" if share <= coarse else f"is another than torch's in {share:.2%} of its numbers"
    finite = theirs.isfinite()
    theirs, ours = (torch.where(finite, x, 0).double() for x in (theirs, ours))
    off, norm = float((ours - theirs).norm()), float(theirs.norm())
    return "" if off <= 10 * coarse * norm else f"is off by {off:.2g}, where torch's has a norm of {norm:.2g}"


def check(
    model: Taken,
    graph: TorchGraph,
    arguments: Sequence[Any],
    given: Mapping[str, torch.Tensor],
    call: Callable[[Mapping[str, torch.Tensor]], Any],
    places: Sequence[int],
) -> None:
    """Compares the model of a module with the module; on one image and on three, where it takes any batch.

    arguments: of the graph. given: of the module, as `call` calls it. places: which result of the graph each tensor is
    that the module gives back. Raises ModelError if they differ.
    """
    weights = graph.tensors(arguments)
    try:
        executor = Executor(read(model.model, weights=arrays(weights)))
    except ModelError:  # an operator that plain torch has not
        return
    exact = all(x.dtype.itemsize >= 4 for x in weights.values() if x.is_floating_point())
    for images in (1, 3) if model.open_batch else (None,):
        theirs = [x for x in tree_leaves(call({name: _some(x, images) for name, x in given.items()})) if _is_tensor(x)]
        if len(theirs) != len(places):
            raise ModelError(f"it gives back {len(places)} tensors, and {len(theirs)} of {images} images")
        ours = executor({name: _some(arguments[position], images) for name, position in graph.inputs.items()})
        for place, their in zip(places, theirs, strict=True):
            name = model.names[place]
            if wrong := difference(ours[name], their, COARSE if exact else COARSE_IN_HALVES):
                of = f" of a batch of {images}" if images else ""
                raise ModelError(f"exported, its output '{name}'{of} {wrong}")


def _some(x: torch.Tensor, images: int | None) -> torch.Tensor:
    """So many images, made of those that there are."""
    return x if images is None else torch.cat([x] * images)[:images]


def _is_tensor(x: object) -> bool:
    return isinstance(x, torch.Tensor)
