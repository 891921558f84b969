"""Options that commands share come from one dataclass, and a command sees them as one object."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from optgraph.base.budget import Budget
from optgraph.base.errors import InputError
from optgraph.cli.options import ModelOptions, ReadOptions, flattened


def test_a_command_gets_one_object_of_what_typer_sees_as_options() -> None:
    got: list[object] = []

    def command(
        model: Path,
        size: Annotated[int, typer.Option()] = 3,
        *,
        options: ModelOptions,
        last: Annotated[bool, typer.Option("--last")] = False,
    ) -> None:
        """What it does."""
        got.extend((model, size, options, last))

    app = typer.Typer()
    app.command()(flattened(command))
    arguments = ["m.onnx", "--cut", "a", "--cut", "b", "--dtype", "fp16", "--size", "7", "--last"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert got == [Path("m.onnx"), 7, ModelOptions(cut=["a", "b"], dtype="fp16"), True]
    shown = CliRunner().invoke(app, ["--help"]).output
    places = [shown.index(text) for text in ("What it does", "--size", "--cut", "--budget", "--dtype", "--last")]
    assert places == sorted(places)


def test_what_the_options_say() -> None:
    nothing = ReadOptions()
    assert (nothing.shape(), list(nothing.outputs()), nothing.limits()) == (None, [], Budget())
    assert ReadOptions(input_shape=["N, 3,9,?"]).shape() == [None, 3, 9, None]
    assert ReadOptions(input_shape=["a=N,3", "b=2"]).shape() == {"a": [None, 3], "b": [2]}
    assert ReadOptions(budget=["nodes=7"]).limits() == Budget(nodes=7)
    for shapes in (["N,3", "N,4"], ["a=1", "a=2"], ["a=x"], [""]):
        with pytest.raises(InputError, match="--input-shape"):
            ReadOptions(input_shape=shapes).shape()


def test_an_artifact_has_all_but_its_budget_settled() -> None:
    settings = ModelOptions(budget=["nodes=7"]).settings(Path("m.optgraph"))
    unsaid = {"dtype": "fp32", "input_shape": None, "outputs": (), "keep_fp32": ()}
    assert settings == unsaid | {"budget": Budget(nodes=7)}
    given = {"dtype": "fp32"}, {"cut": ["y"]}, {"input_shape": ["N,3"]}, {"keep_fp32": ["conv"]}
    for options in (ModelOptions(**option) for option in given):
        with pytest.raises(InputError, match=r"settled: give --dtype, --input-shape, --cut and --keep-fp32 to compile"):
            options.settings(Path("m.optgraph"))
        options.settings(Path("m.onnx"))
