"""What `compile` says of the range of fp16."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optgraph.report.tables import leaving

MOST = 10  # regions that get a line: in a network without real weights, they may be all of them


def ranges_text(data: Mapping[str, Any]) -> str:
    """Of the JSON of `compile`, a line for each region and one for all; '' for a dtype with the range of float32."""
    regions, how = data["out_of_range"], data["ranges"]
    if not how:
        return ""
    if regions is None:
        return f"range of fp16: {how}"
    if not regions:
        return f"range of fp16: no region leaves it, {how}"
    shown = [f"leaves fp16: {leaving(region)}" for region in regions[:MOST]]
    more = f"{len(regions) - MOST} more regions leave it (--json has all)" if len(regions) > MOST else "these leave it"
    return "\n".join([*shown, f"range of fp16: {more}, {how}; --keep-fp32 auto keeps them in float32"])
