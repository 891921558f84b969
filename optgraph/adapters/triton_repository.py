"""A model repository of Triton Inference Server: the files that make a network one of its models.

    REPO/NAME/config.pbtxt     what the server is to know: inputs, outputs, how requests are joined, on what they run
    REPO/NAME/labels.txt       the names of the classes, where they are known
    REPO/NAME/1/model.py       an import, which leads to `triton_server.py`
    REPO/NAME/1/model.optgraph

config.pbtxt is for all versions of a model, and people edit it. So a model that is there gets a new version and keeps
its configuration, which has to fit: what it was written for stands in its second line.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optgraph.adapters.triton_config import LABELS, Serving, config_text, serving, written_for
from optgraph.adapters.triton_server import ARTIFACT_NAME
from optgraph.api import compiling
from optgraph.base.errors import InputError
from optgraph.base.progress import Progress, silent

CONFIG, MODEL = "config.pbtxt", "model.py"

MODEL_PY = '''"""Written by `optgraph export-triton`. The Python of the server's stub runs it, and needs optgraph."""

from optgraph.adapters.triton_server import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


@dataclass(frozen=True)
class Exported:
    """A model in a repository. why: why requests are not joined, where nobody asked for that."""

    folder: Path
    version: int
    serving: Serving
    why: str

    def to_json(self) -> dict[str, Any]:
        told = self.serving.to_json()
        return {"model": str(self.folder), "version": self.version, "not_joined": self.why, **told}


def check_place(repo: Path, name: str) -> Path:
    """The folder that a model is to have. Raises InputError for one that cannot be, or is someone else's."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise InputError(f"--name {name}: no name of a model: expects one of letters, digits, '.', '-' and '_'")
    if repo.exists() and not repo.is_dir():
        raise InputError(f"{repo}: is not a directory: name one for the model repository")
    if not repo.absolute().parent.is_dir():
        raise InputError(f"{repo}: cannot be made, for {repo.parent} is not a directory: make it first")
    folder = repo / name
    if folder.exists():
        _written_for(folder)
    return folder


def export(
    save: Callable[[Path], None],
    folder: Path,
    backend: str,
    max_batch: int | None = None,
    delay_us: int | None = None,
    progress: Progress = silent,
) -> Exported:
    """Makes a network the model `folder`, or its next version, at once or not at all.

    Args:
        save: writes the network to the .optgraph file it is given.
        folder: in a repository, which is made if it is not there; `check_place` has it.
        backend: what runs the network in the server; 'auto': the kernels on a GPU, where the server has one or the file
            has machine code, else ONNX Runtime.
        max_batch: the most images of one call; 0: requests are not joined. By default 8, where they can be.
        delay_us: how long a request may wait for others, in microseconds.
        progress: told what is being done.

    Raises:
        InputError: what cannot be served so, or does not fit the versions that are there, or cannot be written.
        OptgraphError: as `optgraph.load`, of the file.
    """
    with _work(folder) as work:
        first = work / "1"
        first.mkdir()
        save(first / ARTIFACT_NAME)
        progress("trying what a batch does", 0.9)
        tried_on = "torch" if backend in ("auto", "triton") else backend
        loaded = compiling.load(first / ARTIFACT_NAME, tried_on)  # what the server will load
        runs_on = "triton" if backend == "auto" and loaded.cubins else backend
        served, why = serving(loaded, runs_on, max_batch, delay_us)
        (first / MODEL).write_text(MODEL_PY)
        (work / CONFIG).write_text(config_text(served, loaded), encoding="utf-8")
        if served.labels:
            (work / LABELS).write_text(
                "".join(f"{' '.join(label.split())}\n" for label in loaded.labels), encoding="utf-8"
            )
        if _put(work, folder):
            return Exported(folder, 1, served, why)
        there = _written_for(folder)
        if difference := there.difference(served):
            raise InputError(
                f"{folder}: one configuration is for all versions, and {difference}: give it another --name"
            )
        version = 1 + max((int(each.name) for each in folder.iterdir() if each.name.isdecimal()), default=0)
        while not _put(first, folder / str(version)):  # which another export has just taken
            version += 1
        return Exported(folder, version, served, why)


def _put(made: Path, place: Path) -> bool:
    """Whether the folder `made` could become `place`, where there was none, or an empty one."""
    try:
        os.rename(made, place)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            return False
        raise
    return True


def _written_for(folder: Path) -> Serving:
    """What the model that is there was written for. Raises InputError if not by us."""
    found = None
    with suppress(OSError, UnicodeDecodeError):
        found = written_for((folder / CONFIG).read_text(encoding="utf-8"))
    if found is None:
        raise InputError(f"{folder}: is there, and was not written by optgraph export-triton: give another --name")
    return found


@contextmanager
def _work(folder: Path) -> Iterator[Path]:
    """A folder to make one in, which is gone at the end. Raises InputError where none can be made.

    It is beside the repository, where that is on one disk with it: a server that looks takes any folder for a model.
    """
    work = None
    try:
        folder.parent.mkdir(exist_ok=True)
        repo = folder.parent.resolve()
        aside = os.access(repo.parent, os.W_OK) and repo.parent.stat().st_dev == repo.stat().st_dev
        work = (repo.parent if aside else repo) / f".{folder.name}.{secrets.token_hex(4)}.tmp"
        work.mkdir()
        yield work
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from None
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
