"""What people see of a quantised network: the losses of its layers, and what came of it all. Of `Quantized.to_json`."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from optgraph.report.layout import facts_table, plain
from optgraph.report.tables import number, size

WORST = 10  # layers that are shown
FEW = 32  # pictures that are too few to tell ranges by
COLUMNS = ("layer", "op", "onnx_nodes", "own", "answer", "weights", "input", "output", "kept", "why")


def losses_parts(losses: Sequence[Mapping[str, Any]], every: bool = False) -> list[RenderableType]:
    """The losses as a table: the worst of them, or all, and in words what the others are."""
    shown, others = (losses, ()) if every else (losses[:WORST], losses[WORST:])
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer", overflow="fold")
    for column in ("own", "answer"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("mostly")
    for loss in shown:
        why = f"in float; {loss['why']}" if loss["kept"] else loss["why"]
        table.add_row(plain(loss["layer"]), _part(loss["own"]), _part(loss["answer"]), plain(why))
    if not others:
        return [table]
    most = max(loss["answer"] for loss in others)
    more = f"and {len(others)} more layers, {_part(most)} of the answer at most (-v shows them)"
    return [table, more]


def quantised_table(data: Mapping[str, Any]) -> Table:
    """What came of it."""
    layers, kept = len(data["losses"]), data["kept"]
    verdict, here = data["verdict"], data["here"]
    ok = verdict["error"] is not None and verdict["error"] <= data["tolerance"]
    rows: dict[str, str | Sequence[str]] = {
        "answer": f"{'ok' if ok else 'not ok'}: {_off(verdict)}; {_part(data['tolerance'])} is allowed",
        "before": f"{_part(data['plain']['error'])} off, all in int8, nothing corrected",
        "integers": f"{_off(here)}, by ONNX Runtime's kernels on this CPU",
        "layers": f"{layers - len(kept)} of {layers} in int8",
        "weights": _weights(data),
        "biases": "corrected" if data["corrected"] else "as they were: correcting them made the answer worse",
        **({"channels": "equalised: ranges that differed much are closer"} if data["equalised"] else {}),
        "size": f"{size(data['bytes']['before'])} -> {size(data['bytes']['after'])}",
    }
    if data["different"] < FEW:
        some = f"{data['different']} different" if data["different"] > 1 else "no two different"
        rows["pictures"] = f"{some}: of what they do not show the ranges know nothing: a hundred or more do"
    if kept:
        rows["in float"] = list(kept)
    if data["saturates"]:
        rows["this CPU"] = "has no VNNI: ONNX Runtime's sums of 8-bit weights are cut off here" + (
            "; those of 7 bits are not, and are what the file has (--no-reduce-range is for other machines)"
            if data["reduce_range"]
            else ", so the file is for other machines"
        )
    return facts_table(rows)


def losses_csv(losses: Sequence[Mapping[str, Any]]) -> str:
    """All of them, a row a layer."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows({**loss, "onnx_nodes": " ".join(loss["onnx_nodes"])} for loss in losses)
    return text.getvalue()


def _off(verdict: Mapping[str, Any]) -> str:
    told = f"{_part(verdict['error'])} off on {verdict['pictures']} pictures"
    if verdict["top1"] is None:
        return told
    return f"{told}, top-1 agrees on {verdict['top1']:.1%}, probabilities {number(verdict['probability'])} off"


def _weights(data: Mapping[str, Any]) -> str:
    bits, scales = 7 if data["reduce_range"] else 8, "a scale a channel" if data["per_channel"] else "one scale each"
    return f"{bits} bits, {scales}; ranges of activations by {data['calibrate']}"


def _part(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.2%}"
