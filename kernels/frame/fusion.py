"""What decides whether one launch does what two could: it is predicted, unless `optgraph tune` has measured both."""

from __future__ import annotations

from dataclasses import dataclass

from optgraph.base.devices import Target
from optgraph.ir.values import Window
from optgraph.kernels.frame import tuned


@dataclass(frozen=True)
class Fusion:
    """Two operators that a kernel does in one launch, as far as which way is faster depends on them.

    kernel:   of the one launch.
    image:    its input, as (images, rows, columns, channels); images as tiles are planned for.
    hidden:   channels between the two operators.
    rest:     channels of another value that are concatenated to these; copied: by a launch more, if there are two.
    """

    kernel: str
    image: tuple[int, int, int, int]
    hidden: int
    columns: int
    window: Window
    affine: bool
    residual: bool
    dtype: str
    rest: int = 0
    copied: bool = False

    def measured(self, target: Target) -> bool | None:
        """Whether one launch was the faster way on `target`; None where nobody measured."""
        found = tuned.kept(target).get(tuned.key(self), {}).get("one_launch")
        return found if isinstance(found, bool) else None
