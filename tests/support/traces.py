"""A trace as a viewer takes it: by the schema beside this file, then by the rules of Perfetto's importer.

Events go by their time. Pieces of a row lie behind one another or within; an arrow begins in the piece that is open on
its row, and ends in the one that is open there. What breaks a rule is dropped by viewers without a word, and an error
here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema

SCHEMA = json.loads(Path(__file__).with_name("trace_event.schema.json").read_text())
jsonschema.Draft202012Validator.check_schema(SCHEMA)
VALID = jsonschema.Draft202012Validator(SCHEMA)


@dataclass(frozen=True)
class Piece:
    """Times in microseconds."""

    row: str
    name: str
    start: float
    took: float
    args: Mapping[str, Any] = field(compare=False)


@dataclass
class Trace:
    """process: its name. pieces: by their begin. arrows: from a piece to a piece. counters: by name, time and value."""

    process: str = ""
    pieces: list[Piece] = field(default_factory=list)
    arrows: list[tuple[Piece, Piece]] = field(default_factory=list)
    counters: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def rows(self) -> dict[str, list[Piece]]:
        found: dict[str, list[Piece]] = {}
        for piece in self.pieces:
            found.setdefault(piece.row, []).append(piece)
        return found


def read(data: Mapping[str, Any]) -> Trace:
    """Raises jsonschema.ValidationError, or ValueError for what the schema cannot say."""
    VALID.validate(json.loads(json.dumps(data, allow_nan=False)))
    trace = Trace()
    events = data["traceEvents"]
    rows = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    if len(set(rows.values())) < len(rows):
        raise ValueError("two rows of one name")
    opened: dict[int, list[Piece]] = {tid: [] for tid in rows}
    begun: dict[Any, Piece] = {}
    for event in sorted((each for each in events if each["ph"] != "M"), key=lambda each: each["ts"]):
        at, stack = event["ts"], opened[event["tid"]]  # a row without a name has no order
        while stack and stack[-1].start + stack[-1].took <= at + 1e-6:  # a tenth of a nanosecond: sums of decimals
            stack.pop()
        match event["ph"]:
            case "X":
                piece = Piece(rows[event["tid"]], event["name"], at, event["dur"], event.get("args", {}))
                if stack and at + piece.took > stack[-1].start + stack[-1].took + 1e-6:
                    raise ValueError(f"{piece} is partly in {stack[-1]}")
                stack.append(piece)
                trace.pieces.append(piece)
            case "C":
                for name, value in event["args"].items():
                    trace.counters.setdefault(f"{event['name']} {name}", []).append((at, value))
            case "s" if stack:
                key = event["cat"], event["name"], event["id"]
                if key in begun:
                    raise ValueError(f"two arrows by one identifier: {event}")
                begun[key] = stack[-1]
            case "f" if stack and event.get("bp") == "e":
                trace.arrows.append((begun.pop((event["cat"], event["name"], event["id"])), stack[-1]))
            case _:
                raise ValueError(f"an arrow begins or ends in no piece: {event}")
    if begun:
        raise ValueError(f"arrows without an end: {begun}")
    trace.process = next(event["args"]["name"] for event in events if event["name"] == "process_name")
    return trace
