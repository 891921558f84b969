# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""What a kernel does to be launched while the one before it on its stream still runs (programmatic dependent launch).

From sm_90 on, a launch may begin before the one it follows ends: its programs come up on what the other leaves free
and wait there. What makes that as safe as one after the other:

- every program waits before it reads what a launch may have written, and before it writes, for the memory of an
  activation is another's later. Weights it may read before;
- it waits whatever it goes on to do, so that a launch that has ended stands for all those before it.

Whether a launch begins early is said when it is enqueued (`run/driver.py`); where it does not, the wait takes no time.
"""

from __future__ import annotations

import triton
from triton.language import core
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


def _may_begin_early(_semantic=None):
    """Whether what is compiled is for sm_90 or newer; the interpreter has no `_semantic`."""
    arch = _semantic and _semantic.builder.options.arch  # 'sm90'
    return core.constexpr(bool(arch) and int(arch.removeprefix("sm")) >= 90)


_may_begin_early.__triton_builtin__ = True  # type: ignore[attr-defined]  # the compiler calls it


@triton.jit
def await_launches():
    """Waits until all earlier launches have ended and what they wrote is there; the next one may begin from here on.

    Not before, so that no more than two are under way. And no later: the next one's programs come up only when all of
    this launch's have come this far, so that they take no place from one of these.
    """
    if _may_begin_early():
        gdc_wait()
        gdc_launch_dependents()
