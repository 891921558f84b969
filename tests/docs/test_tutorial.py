"""The tutorial is done from its first block to its last, and must say what it says it does."""

from __future__ import annotations

import re
import socket
from pathlib import Path

from tests.support.documents import Reader
from tests.support.paths import ROOT

TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
QUANTIZE = (ROOT / "docs" / "howto" / "quantize.md").read_text()


def test_the_tutorial(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with Reader(tmp_path) as reader:
        assert reader.read(TUTORIAL.replace("8000", str(port))) == TUTORIAL.count("\n$ ") == 9
        assert reader.read(QUANTIZE) == 2
    classes = re.findall(r"(?:digit.png is a|\"digit\":) (\d)", reader.said)
    assert len(classes) == 3 and len(set(classes)) == 1, "the label, the file's answer and the server's"
