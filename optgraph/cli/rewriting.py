"""Commands from one ONNX file to another: optimize, calibrate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optgraph.cli.options import OnnxModel, ReadOptions
from optgraph.cli.say import Say


def optimize(
    model: OnnxModel,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT.onnx", help="The file to write.", show_default=False)
    ],
    functions: Annotated[
        bool,
        typer.Option(
            "--functions",
            help="Make a Conv and the Relu after it one call of a function that the model carries: fewer nodes, for a "
            "runtime that reads functions, as ONNX Runtime does.",
        ),
    ] = False,
    *,
    options: ReadOptions,
    say: Say,
) -> None:
    """Write the simplified model as standard ONNX. Any runtime reads that.

    \b
    Examples:
      optgraph optimize model.onnx -o smaller.onnx
      optgraph optimize model.onnx -o smaller.onnx --functions
    """
    from optgraph.cli.written import check_outputs
    from optgraph.ir.checks import check_finite, check_size
    from optgraph.onnx import read
    from optgraph.onnx.write import save_onnx
    from optgraph.passes import pipeline
    from optgraph.report import facts, tables

    check_outputs([output], model)
    with say.busy(f"optimizing {model.name}"):
        graph = read.read(model, options.shape(), outputs=options.outputs(), budget=options.limits())
        check_size(graph)
        check_finite(graph)
        passes = facts.passes_dict(pipeline.apply(graph, pipeline.SIMPLIFY))
        nodes = save_onnx(graph, output, functions=functions)
    data = {"nodes": graph.source_nodes, "optimized_nodes": nodes, "passes": passes, "output": str(output)}
    summary = f"{data['nodes']} operators before, {data['optimized_nodes']} after"
    refused = [tables.refusals_text(passes)] if say.verbose else []
    say.note(options.overridden(model))
    say.show(data, tables.passes_table(passes, say.verbose), *filter(None, refused), summary, f"wrote {output}")


def calibrate(
    model: OnnxModel,
    output: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="The file to write.", show_default=False)],
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Draws the weights and the images by this seed.")] = 0,
    size: Annotated[
        int,
        typer.Option(
            min=1, metavar="PIXELS", help="The height and width of the images, where the model leaves them open."
        ),
    ] = 128,
    refill: Annotated[bool, typer.Option("--refill", help="Draw the weights that are there anew, too.")] = False,
    *,
    say: Say,
) -> None:
    """Fill a model without weights with random ones. These are of sound scale.

    \b
    Example:
      optgraph calibrate stripped.onnx whole.onnx --size 96
    """
    from optgraph.base.files import replacing
    from optgraph.cli.written import check_outputs
    from optgraph.onnx.calibrate import calibrate
    from optgraph.onnx.load import load_model

    check_outputs([output], model)
    with say.busy(f"calibrating {model.name}"):
        filled = calibrate(load_model(model), seed, size, refill)
    with replacing(output) as file:
        file.write(filled.SerializeToString())
    say.show({"output": str(output)}, f"wrote {output}")
