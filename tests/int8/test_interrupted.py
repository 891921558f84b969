"""quantize interrupted at random moments: what was there stays, and nothing is left over."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.cli_models import saved
from tests.support.forks import Ended, Forks

TIMES = 4


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    found = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(found))
        yield found


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory, temporary: Path) -> Iterator[Forks]:
    server = Forks(tmp_path_factory.mktemp("said"))
    yield server
    server.close()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
def test_interrupted_at_random(forks: Forks, temporary: Path, tmp_path: Path, how: signal.Signals) -> None:
    model, pictures, output = saved(tmp_path), tmp_path / "x.npy", tmp_path / "int8.onnx"
    np.save(pictures, np.random.default_rng(0).uniform(-1, 1, (64, 3, 12, 12)).astype(np.float32))
    arguments = "quantize", model, "--images", pictures, "-o", output, "--batch", 1, "--json"

    def run(after: float | None = None) -> Ended:
        forks.start(*arguments)
        if after is not None:
            time.sleep(after)
            forks.stop(how)
        return forks.wait()

    start = time.monotonic()
    ended = run()
    takes = time.monotonic() - start
    assert ended.code == 0 and json.loads(ended.out)["output"] == str(output), ended
    whole, rng, stopped = output.read_bytes(), random.Random(how.name), 0
    for _ in range(TIMES):
        output.write_bytes(b"old")
        ended = run(rng.uniform(0.1, 0.8) * takes)
        if not ended.code:  # it was quicker this time
            assert output.read_bytes() == whole
            continue
        stopped += 1
        assert ended.code == (130 if how == signal.SIGINT else -how) and ended.out == "", ended
        said = f"note: stopped: nothing was written, {output} is as it was\n"
        assert ended.err == (said if how == signal.SIGINT else "") and output.read_bytes() == b"old"
        assert {path.name for path in tmp_path.iterdir()} == {model.name, pictures.name, output.name}
        assert not list(temporary.glob("optgraph*"))
    assert stopped
    assert not run().code and output.read_bytes() == whole
