"""What a table is made by: two runs that differ in any of it would give one table of two kinds of rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from optgraph.api.graph_json import graph_to_json
from optgraph.api.net import Net
from optgraph.base.version import version
from optgraph.compare.verify import computed_dtype
from optgraph.table.columns import Columns
from optgraph.table.found import called


def identity(net: Net, columns: Columns, sources: Sequence[str]) -> dict[str, str]:
    """By what people call it, as text to be compared and shown. How many run at a time is no part of it."""
    kept = ", ".join(net.plans.keep)
    done = replace(net.preprocessing, why="").described() if net.preprocessing else "none"
    return {
        "network": f"{net.source.name or 'unnamed'} {_digest(net)}",
        "backend": net.backend,
        "dtype": computed_dtype(net) + (f", but fp32 for {kept}" if kept else ""),
        "preprocessing": done,
        "--top, --raw or --labels": f"{', '.join(column.name for column in columns.shown)} {_labels(columns)}".strip(),
        "source": ", ".join(_source(*each) for each in zip(called(sources), sources, strict=True)),
        "optgraph": version(),
    }


def _source(name: str, source: str) -> str:
    """Where it is, and what the rows call it: by another name, its pictures would be there twice."""
    place = str(Path(source).resolve())
    return f"{place}, called {name}" if name not in ("", place) else place


def _digest(net: Net) -> str:
    """Of the graphs and weights: the same for a model and for the .optgraph that was compiled from it."""
    digest = hashlib.sha256(json.dumps(graph_to_json(net.fused)).encode())
    for array in net.fused.constants.values():
        digest.update(np.asarray(array, order="C").reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:12]


def _labels(columns: Columns) -> str:
    names = next((column.labels for column in columns.shown if column.labels), ())
    return f"of {len(names)} names {hashlib.sha256(json.dumps(names).encode()).hexdigest()[:12]}" if names else ""
