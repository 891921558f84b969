"""What pages of the documentation show is run, from the first block to the last, and must say what they say it does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from optgraph.adapters.torch_compile import backend
from tests.support.documents import Block, Reader, blocks, check_shown, commands
from tests.support.paths import ROOT

DOCS = ROOT / "docs"


def test_the_page_on_torch(tmp_path: Path) -> None:
    if "optgraph" not in torch.compiler.list_backends():  # installed before it had this entry point
        torch._dynamo.register_backend(backend, name="optgraph")
    with Reader(tmp_path) as reader:
        assert reader.read((DOCS / "howto" / "torch.md").read_text()) == 3


def test_the_design(tmp_path: Path) -> None:
    text = (DOCS / "design.md").read_text()
    with Reader(tmp_path) as reader:
        assert reader.read(text) == text.count("```python") == 5


def test_excerpts_are_of_the_files_they_name() -> None:
    found = blocks((DOCS / "howto" / "pass_and_kernel.md").read_text())
    assert len(found) == 6
    for block in found:
        assert block.content in (ROOT / block.title).read_text()


def test_what_a_page_shows_is_compared() -> None:
    ((typed, shown),) = commands(Block("console", "", "$ optgraph check x.onnx\nanswer  ok\n2 of 2 regions\n"))
    assert typed == "optgraph check x.onnx"
    check_shown(shown, "answer     ok\n\n17 of 18 regions, none left\n")
    for other in ("answer  not ok\n2 of 2 regions", "2 of 2 regions\nanswer  ok"):
        with pytest.raises(AssertionError, match="does not follow"):
            check_shown(shown, other)
