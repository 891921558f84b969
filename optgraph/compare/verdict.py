"""Why a network cannot be certified, in one line."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optgraph.compare.oracle import GRIDS_BOUND
from optgraph.compare.original import Original, OutputError
from optgraph.compare.regions import Regions, text
from optgraph.run.fp16_range import Leaving

# Relative L2 that some input must move the answer by (the logits, where it has some): less is no answer to the input.
ALIVE = 1e-4

# What an output may be off, as a share of how far inputs move it. A network that answered the same to everything would
# be off by all of it.
MISSED = 0.25


def reason(
    outputs: Sequence[OutputError],
    regions: Regions,
    original: Original,
    bound: float,
    backend: str,
    out_of_range: Sequence[Leaving] = (),
) -> str:
    """What is wrong, the worst first; '' if nothing is.

    bound: relative L2 that an output may be off. out_of_range: the regions that leave the range of the dtype.
    """
    dead = _dead(original)
    found = _not_finite(outputs, regions, original) or dead or _wrong(outputs, regions, bound, backend)
    if not regions.by_themselves:
        found = found or _lost(outputs, original)
    if found in ("", dead) or not original.finite or not out_of_range:
        return found
    names = [f"'{one.region}'" for one in out_of_range]
    some = ", ".join(names[:3] + ["..."] * (len(names) > 3))
    return f"{found}; out of the range of fp16: {some}: keep them in float32 (--keep-fp32 auto)"


def magnified(outputs: Sequence[OutputError], regions: Regions, bound: float, noise: float) -> list[str]:
    """What is to be said of a network of 8 bits whose answers say little, each region being right by itself.

    bound: relative L2 that an output may be off. noise: by how much rounding alone moves it.
    """
    worst = max(outputs, key=lambda output: output.rel_l2)
    if not GRIDS_BOUND < worst.rel_l2 <= bound:
        return []
    return [
        f"each of the {regions.total} regions is right by itself, to the step. '{worst.name}' is off by "
        f"{worst.rel_l2:.1e} all the same, for this network magnifies a step that rounding takes the other way: "
        f"in plain torch, that alone moves it by {noise:.1e}"
    ]


def _not_finite(outputs: Sequence[OutputError], regions: Regions, original: Original) -> str:
    if not original.finite:
        return "the original itself answers NaN or Inf: verify on another input (--input), or with real weights"
    broken = [output.name for output in outputs if not math.isfinite(output.rel_l2)]
    if not broken and regions.broken is None:
        return ""
    what = f"output '{broken[0]}' has NaN or Inf" if broken else "there are NaN or Inf inside"
    if regions.broken is None:
        return f"{what}, which none of the {len(regions.compared)} regions compared makes"
    return f"{what}, first made by region {text(regions.broken)}"


def _dead(original: Original) -> str:
    name = min(original.moves, key=original.moves.__getitem__, default="")
    if not name or original.moves[name] >= ALIVE:
        return ""
    return (
        f"the original's own answer does not depend on its input: two inputs move '{name}' by "
        f"{original.moves[name]:.1e} only, so that a comparison means nothing: verify with real weights"
    )


def _wrong(outputs: Sequence[OutputError], regions: Regions, bound: float, backend: str) -> str:
    worst = max(outputs, key=lambda output: output.rel_l2)
    wrong = worst.rel_l2 > bound
    if not wrong and regions.bad is None:
        return ""
    off = f"output '{worst.name}' is off by {worst.rel_l2:.1e}, over {bound:.1e}"
    if regions.bad is not None:
        first = f"the first wrong region is {text(regions.bad)}"
        return f"{off}; {first}" if wrong else first
    compared, total = len(regions.compared), regions.total
    if compared < total:
        return f"{off}; none of the {compared} regions compared is wrong: it is one of the {total - compared} others"
    if regions.worst is not None and regions.worst["rel_l2"] > bound:
        return f"{off}; no region is off by more than {regions.bound:.1e}, the furthest is {text(regions.worst)}"
    alone = f"each of the {compared} regions is right when it is run by itself"
    if backend == "onnxruntime":
        return f"{off}; {alone}: ONNX Runtime's optimiser changes the model: use another backend"
    return f"{off}; {alone}: what goes wrong is how they run together"


def _lost(outputs: Sequence[OutputError], original: Original) -> str:
    for output in outputs:
        moves = original.moves.get(output.name, math.inf)
        if original.tails[output.name].judged == output.name and output.rel_l2 > MISSED * moves:
            return (
                f"output '{output.name}' is off by {output.rel_l2:.1e}, and inputs move it by {moves:.1e} only, too "
                "little to tell: verify on other inputs (--input), or with real weights"
            )
    return ""
