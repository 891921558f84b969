"""The weights that a network was made of, watched: whether they are still what they were.

Seen is what torch counts: a tensor counts what writes to it, through whichever view, and one put in its place lies
elsewhere. A fused optimizer does not count, so its step is asked for. Nor does a batchnorm that trains count what it
writes into its statistics, so the number of batches beside them is watched, which it counts up. Not seen is what goes
past torch: `p.data.copy_(...)`, whose counter is another, and numpy arrays in the same memory.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch

from optgraph.base.errors import ModelError


class Watched:
    """What a set of weights was. It holds on to their memory, so that nothing else can come to lie there."""

    def __init__(self, weights: Sequence[torch.Tensor], gone: Callable[[], None]) -> None:
        """gone: called when one of them is let go. Raises ModelError for weights that do not count."""
        if any(weight.is_inference() for weight in weights):
            raise ModelError(
                "its weights were made under torch.inference_mode(), where torch does not count changes",
                "make the module outside of it",
            )
        self._batches = [weakref.ref(number) for number in _batch_numbers(weights)]
        self._alive = [weakref.ref(weight, lambda _: gone()) for weight in weights]
        self.renew(weights)

    def renew(self, weights: Sequence[torch.Tensor]) -> None:
        """Takes what these, the same tensors, are now for what they were."""
        self._memory = [weight.detach() for weight in weights]
        self._state: object = self._seen(weights)

    def doubt(self) -> None:
        """Takes them for changed."""
        self._state = None

    def unchanged(self, weights: Sequence[torch.Tensor]) -> bool:
        """Whether these, the same tensors, are what they were."""
        return self._state == self._seen(weights)

    def _seen(self, weights: Sequence[torch.Tensor]) -> tuple[list[int], list[int], list[int | None]]:
        numbers = [reference() for reference in self._batches]
        batches = [None if number is None else number._version for number in numbers]
        return [weight._version for weight in weights], [weight.data_ptr() for weight in weights], batches


def _batch_numbers(weights: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """How many batches the batchnorms among them have been trained on: Dynamo hands their statistics in, not the
    modules, and in eval mode not that number."""
    known = {id(weight) for weight in weights if not isinstance(weight, torch.nn.Parameter)}
    dicts = [each for each in gc.get_objects() if type(each) is dict] if known else []  # a tenth of a second
    found = [each.get("num_batches_tracked") for each in dicts if id(each.get("running_mean")) in known]
    return [number for number in found if isinstance(number, torch.Tensor)]


def after_steps(owner: Any, stepped: Callable[[Any, set[int]], None]) -> None:
    """Calls `stepped(owner, ids)` after each step of any optimizer, with the ids of what it may have changed, while
    `owner` lives."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    reference = weakref.ref(owner)

    def hook(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        alive = reference()
        if alive is not None:
            stepped(alive, {id(weight) for group in optimizer.param_groups for weight in group["params"]})

    weakref.finalize(owner, register_optimizer_step_post_hook(hook).remove)
