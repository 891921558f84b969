"""The command that measures where a run's time goes: profile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optgraph.base.files import is_artifact
from optgraph.cli.options import Backend, Model, ModelOptions
from optgraph.cli.say import Say


def profile(
    model: Model,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write a trace, for chrome://tracing or ui.perfetto.dev."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the page of `inspect --html`, with the measured times in it."),
    ] = None,
    backend: Backend = "auto",
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="How many images at a time.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, metavar="N", help="How many runs to measure.")] = 5,
    threads: Annotated[
        int, typer.Option(min=0, metavar="N", help="The CPU threads of ONNX Runtime; 0: one for each core.")
    ] = 0,
    nvtx: Annotated[
        bool,
        typer.Option("--nvtx", help="On a GPU, say which ONNX nodes each launch is of, for Nsight Systems to show."),
    ] = False,
    top: Annotated[int, typer.Option(min=1, metavar="K", help="How many of the slowest regions to show.")] = 15,
    *,
    options: ModelOptions,
    say: Say,
) -> None:
    """Measure how long each region of a model takes, here. The ONNX nodes that it came from are named.

    \b
    Examples:
      optgraph profile model.onnx
      optgraph profile model.onnx --backend torch --batch 8 -o trace.json
      optgraph profile fast.optgraph --html page.html --threads 1
      nsys profile optgraph profile fast.optgraph --backend triton --nvtx
    """
    from optgraph.api.profile import profile
    from optgraph.base.files import replacing
    from optgraph.cli.written import check_outputs
    from optgraph.report import profiles, terminal
    from optgraph.report.page.data import page_dict, seen_on
    from optgraph.report.page.steps import Steps
    from optgraph.report.page.write import write_page

    check_outputs([output, html], model)
    steps = Steps() if html is not None and not is_artifact(model) else None
    with say.busy(f"reading {model.name}"):
        net = options.net(model, backend, steps)
    with say.busy(f"running on {net.backend}"):
        measured = profile(net, batch, repeats, threads, nvtx)
        data = profiles.profile_dict(net, measured)
    lines = [profiles.profile_line(data, top)]
    if output is not None:
        with replacing(output) as trace:
            trace.write(terminal.dumps(profiles.trace_dict(net, measured)).encode("utf-8", "replace"))
        lines.append(f"wrote {output}")
    if html is not None:
        write_page(html, [page_dict(net, batch, seen_on(net), steps, measured=data)])
        lines.append(f"wrote {html}")
    say.show(data, profiles.profile_table(data, top), *lines)
