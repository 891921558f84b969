"""A table interrupted at random moments, again and again, is the one that nobody interrupted."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli_models import saved
from tests.support.forks import Ended, Forks
from tests.support.tables import photos, table

NUMBER = 120
TIMES = 3


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    server = Forks(tmp_path_factory.mktemp("said"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("tables")
    (photos(found / "photos", NUMBER) / "broken.jpg").write_bytes(b"no picture")
    saved(found)
    return found


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_interrupted_at_random(forks: Forks, folder: Path, suffix: str, how: signal.Signals) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    whole, output = folder / f"whole.{suffix}", folder / f"{how.name}.{suffix}"
    unfinished = output.with_name(f"{output.name}.unfinished")

    def run(path: Path, **stop: int) -> Ended:
        forks.start("run", folder / "model.onnx", folder / "photos", "-o", path, "--batch", 8, "--json", **stop)
        return forks.wait()

    if not whole.exists():
        ended = run(whole)
        assert ended.code == 1 and json.loads(ended.out)["rows"] == NUMBER + 1, ended
    rng = random.Random(f"{how} {suffix}")
    for i in range(TIMES):  # at first maybe before there are any rows; later after a batch at least, for two are ahead
        ended = run(output, after=rng.randrange(25 if i else 0, NUMBER // TIMES), how=how)
        assert ended.code == (130 if how == signal.SIGINT else -how) and ended.out == "", ended
        assert not output.exists() and unfinished.exists()
        if how == signal.SIGINT:
            assert ended.err.startswith("note: stopped: ") and ended.err.count("\n") == 1, ended
            assert f" rows are in {unfinished}: the same command goes on from there" in ended.err
    ended = run(output)
    assert ended.code == 1 and ended.err == "", ended
    told = json.loads(ended.out)
    assert 0 < told["before"] < NUMBER and told["rows"] == NUMBER + 1
    rows = table(output)
    assert rows == table(whole)
    assert len({row["path"] for row in rows}) == len(rows) == NUMBER + 1
    assert not list(folder.glob("*unfinished*"))
