"""What `optgraph tune` found fastest, one JSON file a target: `tuned/sm_90.json`, part of the package.

A record says which tile of a launch was fastest, or whether one launch was or several (`fusion.py`), on which chip, by
how much and how close to float64. It is advice: a launch whose problem is not among the records, or whose record names
a tile that is no candidate any more, gets the tile of least estimated cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from optgraph.base import config, store
from optgraph.base.devices import Target
from optgraph.kernels.frame.tile import Problem, Tile

_DEFAULTS = {f.name: f.default for f in fields(Tile) if f.default is not MISSING}


def path(target: Target, folder: Path | None = None) -> Path:
    """The file of a target, in `folder` or where the package looks: OPTGRAPH_TUNED, or its own folder."""
    return (folder or config.tuned_folder()) / f"{target}.json"


def key(problem: Any) -> str:
    """All that a choice depends on, a Problem or a Fusion, for people too: `Gemm: extent 1×289×1, n 192×128, ...`."""
    facts = ", ".join(f"{f.name} {_text(getattr(problem, f.name))}" for f in fields(problem))
    return f"{type(problem).__name__}: {facts}"


def record(tile: Tile) -> dict[str, Any]:
    """The tile as JSON has it."""
    return {f.name: getattr(tile, f.name) for f in fields(tile)}


def kept(target: Target) -> Mapping[str, Any]:
    """The records of a target, by key."""
    return _records(path(target))


def fastest(problem: Problem, candidates: list[Tile], records: Mapping[str, Any]) -> Tile | None:
    """The candidate that the records name, or that an older one does, which lacks fields that tiles have now; None if
    there is none."""
    found = records.get(key(problem), {}).get("tile")
    wanted = {**_DEFAULTS, **found} if isinstance(found, dict) else None
    return next((tile for tile in candidates if _plain(record(tile)) == wanted), None)


@lru_cache(maxsize=8)
def _records(file: Path) -> Mapping[str, Any]:
    return {name: entry for name, entry in store.read(file).get("records", {}).items() if isinstance(entry, dict)}


def _plain(tile: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in tile.items()}


def _text(value: Any) -> str:
    if is_dataclass(value):
        return " ".join(f"{f.name} {_text(getattr(value, f.name))}" for f in fields(value))
    return "×".join(map(str, value)) if isinstance(value, tuple) else str(value)
