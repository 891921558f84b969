"""The command line. Heavy modules are imported by the command that needs them, so that --help is quick."""

from __future__ import annotations

import sys

import typer

from optgraph.cli import compiling, rewriting, running
from optgraph.cli.options import flattened
from optgraph.report.terminal import guarded

app = typer.Typer(
    name="optgraph",
    help="Compiles ONNX convolutional networks to fused Triton kernels.",
    epilog="Exit codes: 0 good, 1 the answer is no, 2 bad input. OPTGRAPH_DEBUG=1 shows what passes refused.",
    no_args_is_help=True,
    add_completion=False,
)
for command in (
    compiling.compile,
    running.run,
    running.verify,
    running.bench,
    running.tune,
    compiling.inspect,
    compiling.check,
    rewriting.optimize,
    rewriting.calibrate,
):
    app.command()(guarded(flattened(command)))


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    app()
