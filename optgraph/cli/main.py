"""The command line. Heavy modules are imported by the command that needs them, so that --help is quick."""

from __future__ import annotations

import shutil
import sys
from typing import Annotated

import typer

from optgraph.base.version import version
from optgraph.cli import compiling, profiling, quantizing, rewriting, running, serving, timing
from optgraph.cli.options import flattened
from optgraph.report.terminal import guarded

HELP_COLUMNS = 80  # in a narrower terminal, help is as wide as that

# Plain help: rich's columns cut the names of options off in a narrow terminal, and break what is to be pasted.
app = typer.Typer(
    name="optgraph",
    epilog="Exit codes: 0 good, 1 the answer is no, 2 bad input, 3 a fault of optgraph's own or no memory left. "
    "-v, for a command, shows what passes refused.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    compiling.compile,
    running.run,
    running.verify,
    timing.bench,
    profiling.profile,
    timing.tune,
    compiling.inspect,
    compiling.check,
    rewriting.optimize,
    quantizing.quantize,
    rewriting.calibrate,
    serving.export_triton,
):
    app.command()(guarded(flattened(command)))


def _version(asked: bool) -> None:
    if asked:
        print(f"optgraph {version()}")
        raise typer.Exit


@app.callback()
def overall(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Compile ONNX convolutional networks to fused Triton kernels."""


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    columns = shutil.get_terminal_size().columns
    app(prog_name="optgraph", terminal_width=columns if columns < HELP_COLUMNS else None)
