"""The files that a command writes, which are to be none that it reads, and none twice."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from optgraph.base.errors import InputError, ModelError
from optgraph.base.files import check_output, is_artifact


def check_outputs(outputs: Sequence[Path | None], model: Path, *read: Path | str | None) -> None:
    """Raises InputError for one that is no place for a file, or is the model, its weights, or what else is read.

    Both may be None, for a file that is not asked for.
    """
    sources = [model, *(Path(each) for each in read if each is not None)]
    written: list[Path] = []
    for output in (each for each in outputs if each is not None):
        check_output(output, *sources)
        if output.is_file():  # then it may be the model's weights, and finding that out takes reading the model
            check_output(output, *_weights(model))
        if output.resolve() in written:
            raise InputError(f"{output}: is to be written twice: name another output")
        written.append(output.resolve())


def source_file(argument: str) -> str:
    """The path in an argument for an input: 'a.npy', or 'left=a.npy'."""
    return argument if Path(argument).exists() else argument.partition("=")[2] or argument


def _weights(model: Path) -> list[Path]:
    """The files beside a model that have its weights; none of what is no model, which is told where it is read."""
    from optgraph.onnx.external_data import files
    from optgraph.onnx.load import load_model

    if is_artifact(model):
        return []
    with suppress(ModelError, InputError):
        return [model.parent / name for name in files(load_model(model, external=False))]
    return []
