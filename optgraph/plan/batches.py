"""How many images a plan may be made for: what is asked for, what the model fixes, and what kernels can count."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral

from optgraph.base.errors import InputError
from optgraph.ir.values import BATCH, Value
from optgraph.plan.fallback import FALLBACK
from optgraph.plan.plan import Call

MOST_IMAGES = 2**31 - 1  # what kernels count with
MOST_PIXELS = 2**30  # of a launch: kernels count them in int32, some in strips and blocks that go beyond the last one


def checked_batches(batches: int | Sequence[int]) -> tuple[int, ...]:
    """Batch sizes, of which one may be given by itself. Raises InputError for what is none."""
    given = tuple(batches) if isinstance(batches, Iterable) else (batches,)
    if not given or not all(isinstance(batch, Integral) and batch >= 1 for batch in given):
        raise InputError(f"batches {batches!r}: expects numbers of images, each at least 1, such as (1, 8)")
    return tuple(map(int, given))


def fitting_batch(inputs: Mapping[str, Value], batch: int) -> int:
    """`batch`, or the size the model fixes. Raises InputError if another than that or 1 was asked for."""
    if not isinstance(batch, Integral):
        raise InputError(f"batch {batch!r}: expects a number of images")
    batch = int(batch)
    if batch < 1:
        raise InputError(f"batch {batch}: a batch has at least one image")
    if batch > MOST_IMAGES:
        raise InputError(f"batch {batch}: a batch has at most {MOST_IMAGES} images")
    shapes = [value.shape for value in inputs.values()]
    images = max(shapes, key=len)  # an input beside them, such as a shift of each channel, has no batch
    if any(BATCH in shape for shape in shapes) or not images:
        return batch
    fixed = int(images[0])
    if batch not in (1, fixed):
        raise InputError(f"batch {batch}: the model fixes it to {fixed}; compile it with an input shape of N,...")
    return fixed


def check_pixels(call: Call, batch: int) -> None:
    """Raises InputError for a launch that would write more pixels than it can count."""
    pixels = max((math.prod(view.shape[:-1]) for view in call.written), default=0)
    if call.kernel is not FALLBACK and pixels > MOST_PIXELS:
        raise InputError(
            f"batch {batch}: '{call.node}' has {pixels} pixels, and a kernel counts at most {MOST_PIXELS}: "
            "use a smaller batch, or smaller images"
        )
