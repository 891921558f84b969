"""Fills the README's tables from benchmarks/results/*.json.

    python -m benchmarks.tables

A table stands between `<!-- table:NAME -->` and `<!-- end -->`; everything between them is replaced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import record

README = record.ROOT / "README.md"
MARKED = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

Row = dict[str, Any]


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
        for row in found["rows"]
    )
    return f"\n{header}{''.join(rows)}\n{_where(found, command)}\n\n"


def _where(found: Row, command: str) -> str:
    versions = found["versions"]
    shown = ", ".join(f"{p} {versions[p]}" for p in ("python", "torch", "triton", "onnxruntime"))
    return f"`{command}` on {found['date']}, {found['device']}, {found['cores']} cores; {shown}."


def _worst(backend: str) -> Callable[[Row], str]:
    """The larger relative L2 of the images, '–' where the backend was not run."""
    return lambda row: f"{max(row['rel_l2'][backend]):.1e}" if backend in row["rel_l2"] else "–"


def _seconds(row: Row) -> str:
    return f"{row['interpret_seconds']:.0f}" if "interpret_seconds" in row else "–"


def _fallbacks(row: Row) -> str:
    return ", ".join(f"{count} {op}" for op, count in row["fallbacks"].items()) or "–"


def _quartiles(row: Row) -> str:
    return " / ".join(f"{row['spread'][side]['iqr']:.1f}" for side in ("ours", "theirs"))


NETWORKS = "python -m benchmarks.networks --interpret"
# name -> (results file, the command that makes it, the columns)
TABLES: dict[str, tuple[str, str, dict[str, Callable[[Row], str]]]] = {
    "networks": (
        "networks",
        NETWORKS,
        {
            "ONNX nodes": lambda row: f"{row['nodes']}",
            "as simplified ONNX": lambda row: f"{row['optimized_onnx_nodes']}",
            "launches": lambda row: f"{row['launches']}",
            "fallbacks": lambda row: f"{row['fallbacks']}",
            "MB before": lambda row: f"{row['mb_per_image_before_fp16']:.1f}",
            "MB after": lambda row: f"{row['mb_per_image_after_fp16']:.1f}",
            "import and passes, s": lambda row: f"{row['import_and_passes_cpu_seconds']:.2f}",
        },
    ),
    "accuracy": (
        "networks",
        NETWORKS,
        {
            "torch": _worst("torch"),
            "onnxruntime": _worst("onnxruntime"),
            "interpret": _worst("interpret"),
            "interpret, s": _seconds,
            "two images apart": lambda row: f"{row['input_sensitivity']:.2f}",
        },
    ),
    "family": (
        "family",
        "python -m benchmarks.family",
        {
            "exporter": lambda row: row["exporter"],
            "ONNX nodes": lambda row: f"{row['nodes']}",
            "launches": lambda row: f"{row['launches']}",
            "fallbacks": _fallbacks,
            "verified by": lambda row: ", ".join(row["verified"]) or "none",
            "worst of them": lambda row: f"{max(row['verified'].values(), default=float('nan')):.1e}",
            "two images apart": lambda row: f"{row['input_sensitivity']:.2f}",
        },
    ),
    "cpu": (
        "cpu",
        "python -m benchmarks.cpu",
        {
            "optgraph, ms": lambda row: f"{row['ours_ms']:.1f}",
            "ONNX Runtime, ms": lambda row: f"{row['theirs_ms']:.1f}",
            "ratio": lambda row: f"{row['ratio']:.2f}",
            "interquartile ranges, ms": _quartiles,
        },
    ),
}


def names() -> Sequence[str]:
    """The tables the README has, in order."""
    return [match[2] for match in MARKED.finditer(README.read_text())]


def main() -> None:
    README.write_text(fill(README.read_text()))
    print(f"filled {', '.join(names())} in {README}")


if __name__ == "__main__":
    main()
