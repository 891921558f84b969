"""The tutorial is done from its first block to its last, and the pages that go on with its network after it; all must
say what they say they do."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest

from tests.support.documents import Reader
from tests.support.paths import ROOT

DOCS = ROOT / "docs"
TUTORIAL = (DOCS / "tutorial.md").read_text()
# What each page has to run, in this order: some need what one before has made.
PAGES = {"quantize": 3, "gpu": 2, "prediction": 2, "polygraphy": 3, "triton_server": 4, "many_pictures": 3}


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """The tutorial done, in a folder that pages go on in."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with Reader(tmp_path_factory.mktemp("tutorial")) as reader:
        assert reader.read(TUTORIAL.replace("8000", str(port))) == TUTORIAL.count("\n$ ") == 9
        yield reader


def test_the_tutorial(reader: Reader) -> None:
    classes = re.findall(r"(?:digit.png is a|\"digit\":) (\d)", reader.said)
    assert len(classes) == 3 and len(set(classes)) == 1, "the label, the file's answer and the server's"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_that_goes_on_from_it(page: str, reader: Reader) -> None:
    assert reader.read((DOCS / "howto" / f"{page}.md").read_text()) == PAGES[page]
