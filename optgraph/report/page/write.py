"""Writes the page: its parts and the facts in one file, which asks nothing of any network.

What a model says is hostile: it is JSON without a `<` in it, which the script shows as text, and a policy allows no
script but ours.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from optgraph.base.files import replacing
from optgraph.report.terminal import strict

SCRIPTS = ("core", "graph", "charts", "launches", "passes", "search", "compare", "page")  # in this order


def write_page(path: Path, compiles: Sequence[Mapping[str, Any]]) -> None:
    """One HTML file of a compile, or of two side by side: each a `page_dict`. Raises InputError if it has no place."""
    with replacing(path) as file:
        file.write(page_html(compiles).encode("utf-8", "replace"))


def page_html(compiles: Sequence[Mapping[str, Any]]) -> str:
    """The text of the file."""
    style = _part("page.css")
    script = "\n".join(_part(f"{name}.js") for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}\n}})();'
    facts = json.dumps(strict({"compiles": compiles}), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    parts = {
        "STYLE_HASH": _hash(style),
        "SCRIPT_HASH": _hash(script),
        "STYLE": style,
        "SCRIPT": script,
        "FACTS": facts.replace("<", "\\u003c"),  # so that nothing in it ends the element it is in
    }
    before, *rest = _part("page.html").split("{")
    return before + "".join(parts[name] + after for name, after in (piece.split("}", 1) for piece in rest))


def _part(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
