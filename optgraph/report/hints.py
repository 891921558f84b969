"""What may be worth a look in a compiled network: what, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Dict = dict[str, Any]

PADDED = 1.5  # a tile that multiplies more than this many times what the product needs is worth a look
# So is a region that takes more than this share of the time, and more than so many times an even one.
DOMINATES, UNEVEN = 0.2, 3


def hints(facts: Mapping[str, Any], times: Sequence[float], sms: int) -> list[Dict]:
    """Of the facts of a page: each a `title`, the `nodes` it is about, worst first, what there is to it, what to `do`.

    times: of the launches, in microseconds. sms: of the device.
    """
    return [hint for hint in (*_of_regions(facts, times), *_of_launches(facts, times, sms)) if hint["nodes"]]


def _hint(title: str, do: str, where: Mapping[str, str]) -> Dict:
    return {"title": title, "do": do, "nodes": list(where), "details": list(where.values())}


def _of_regions(facts: Mapping[str, Any], times: Sequence[float]) -> Iterator[Dict]:
    yield _hint(
        "No kernel: runs as plain torch",
        "Each costs several launches and trips through memory. Rewrite the operator in the model, or write a kernel "
        "for it: `optgraph check` lists all such nodes.",
        {f["node"]: f"{f['op']}: {f['reason']}" for f in facts["net"]["fallbacks"]},
    )
    yield _hint(
        "Leaves the range of fp16",
        "Results become infinite, or lose their small numbers. Compile with --keep-fp32 auto, or --dtype bf16.",
        {leaving["region"]: f"{leaving['end']} numbers, {leaving['value']:.3g}" for leaving in facts["out_of_range"]},
    )
    inputs = {value["name"] for value in facts["graph"]["inputs"]}
    reading = {edge["to"]: edge["value"] for edge in facts["graph"]["edges"] if edge["value"] in inputs}
    yield _hint(
        "Transposes an input",
        "The image arrives in another order of its axes than the network computes in. Give the model an input in the "
        "order it uses, and this launch goes.",
        {
            node["name"]: f"of '{reading[node['name']]}'"
            for node in facts["graph"]["nodes"]
            if node["op"] == "Transpose" and node["name"] in reading
        },
    )
    by_node: dict[str, float] = {}
    for launch, time in zip(facts["schedule"]["launches"], times, strict=True):
        by_node[launch["node"]] = by_node.get(launch["node"], 0.0) + time
    total = sum(by_node.values()) or 1.0
    least = max(DOMINATES, UNEVEN / max(1, len(by_node)))
    yield _hint(
        f"Takes over {least:.0%} of the time of all launches",
        "Nothing else is worth tuning before it: `optgraph tune` measures which tile is fastest.",
        {node: f"{time / total:.0%}" for node, time in _worst(by_node) if time / total > least},
    )


def _of_launches(facts: Mapping[str, Any], times: Sequence[float], sms: int) -> Iterator[Dict]:
    launches = facts["schedule"]["launches"]
    few = {}
    padding = {}
    for launch in launches:
        if "grid" in launch and launch["programs"] < sms:
            few[launch["node"]] = launch["programs"]
        if (launch["padded"] or 0.0) > PADDED:
            padding[launch["node"]] = launch["padded"]
    yield _hint(
        f"Fewer blocks than the {sms} SMs",
        "Part of the GPU has nothing to do. A larger batch fills it; so do branches that run at the same time.",
        {node: f"{count} blocks" for node, count in sorted(few.items(), key=lambda item: (item[1], item[0]))},
    )
    yield _hint(
        f"Tiles that multiply over {PADDED} times what is needed",
        "Channels or pixels do not fill the blocks. A multiple of 16 channels, or a larger batch, would.",
        {node: f"{padded:.2f} times" for node, padded in _worst(padding)},
    )
    variants = facts["variants"]
    yield _hint(
        "Spills registers to memory",
        "The compiler ran out of registers: a smaller tile is likely to be faster. `optgraph tune` tries them.",
        {
            launch["node"]: f"{variants[launch['variant']]['spills']} bytes"
            for launch in launches
            if launch["variant"] is not None and variants[launch["variant"]]["spills"]
        },
    )


def _worst(found: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(found.items(), key=lambda item: (-item[1], item[0]))
