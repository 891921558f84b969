"""Fills the tables of README.md and docs/results.md from benchmarks/results/*.json.

    python -m benchmarks.tables

A table stands between `<!-- table:NAME -->` and `<!-- end -->`; everything between them is replaced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks import record
from benchmarks.columns import GPU, TABLES, Row

DOCUMENTS = (record.ROOT / "README.md", record.ROOT / "docs" / "results.md")
MARKED = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(text: str) -> str:
    """`text` with every marked table made anew. Raises KeyError for a table nobody knows."""
    return MARKED.sub(lambda match: match[1] + table(match[2]) + match[3], text)


def table(name: str) -> str:
    """The named table as Markdown, with a line on when and where it was measured."""
    source, command, columns = TABLES[name]
    path = record.RESULTS / f"{source}.json"
    if not path.exists():
        return f"\nNot measured yet: `{command}`.\n\n"
    found = json.loads(path.read_text())
    header = "| graph | " + " | ".join(columns) + " |\n|---|" + "---:|" * len(columns) + "\n"
    rows = (
        f"| {row['graph']} | " + " | ".join(column(row) for column in columns.values()) + " |\n"
        for row in _rows(name, found)
    )
    return f"\n{header}{''.join(rows)}\n{_where(found, command)}\n\n"


def _rows(name: str, found: Row) -> list[Row]:
    if name in GPU:
        return GPU[name](found["records"].values())
    rows = [row for row in found["rows"] if row.get("table", name) == name]
    if name == "int8":  # beside the same in fp16
        fp16 = {(row["graph"], row["batch"]): row for row in found["rows"] if row["table"] == "cost"}
        rows = [row | {"fp16": fp16[row["graph"], row["batch"]]} for row in rows]
    return rows


def _where(found: Row, command: str) -> str:
    if found.get("prediction"):
        return f"Predicted by `{command}` on {found['date']}; no GPU was used."
    versions = found["versions"]
    shown = ", ".join(f"{p} {versions[p]}" for p in ("python", "torch", "triton", "onnxruntime"))
    return f"`{command}` on {found['date']}, {_device(found)}, {found['cores']} cores; {shown}."


def _device(found: Row) -> str:
    """The GPU, or else the processor."""
    return str(found.get("identity", {}).get("gpu", found["device"]))


def names(document: Path) -> Sequence[str]:
    """The tables that a document has, in order."""
    return [match[2] for match in MARKED.finditer(document.read_text())]


def main() -> None:
    for document in DOCUMENTS:
        document.write_text(fill(document.read_text()))
        print(f"filled {', '.join(names(document))} in {document}")


if __name__ == "__main__":
    main()
