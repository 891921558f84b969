"""Commands that time a model: against ONNX Runtime, and to make it faster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optgraph.cli.options import Backend, Model, ModelOptions, Original, batch_sizes
from optgraph.cli.pictures import PictureOptions
from optgraph.cli.say import Say

if TYPE_CHECKING:
    from optgraph.api.net import Net
    from optgraph.cli.images import Feeds
    from optgraph.compare.bench import Comparison
    from optgraph.onnx.sizes import Size


def bench(
    model: Model,
    against: Annotated[
        str, typer.Option(metavar="NAME", help="What to compare with; there is onnxruntime.")
    ] = "onnxruntime",
    input: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]SOURCE",
            help="Runs on images or .npy files as for run, or on a folder of them, all as one batch. Default: smooth "
            "random images.",
        ),
    ] = None,
    backend: Backend = "auto",
    original: Original = None,
    batch: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="How many random images at a time. Default: 1.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The CPU threads of both sides. Default: one for each core.")
    ] = None,
    warm_up: Annotated[
        int,
        typer.Option("--warm-up", min=1, metavar="N", help="How many runs of each side come before the timed ones."),
    ] = 3,
    repeats: Annotated[int, typer.Option(min=1, metavar="N", help="Time at least so many pairs of runs.")] = 20,
    duration: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Time pairs of runs for at least so long.")
    ] = 2.0,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the time of every run to this file, a row a pair.")
    ] = None,
    *,
    pictures: PictureOptions,
    options: ModelOptions,
    say: Say,
) -> None:
    """Time a backend against ONNX Runtime, run by run in turns. That has the original model.

    \b
    Examples:
      optgraph bench model.onnx --threads 2
      optgraph bench model.onnx --input cat.jpg --preprocess torch
      optgraph bench model.onnx --warm-up 10 --duration 30 --csv runs.csv
      optgraph bench fast.optgraph --backend triton --batch 8 --json
    """
    from optgraph.base.files import replacing
    from optgraph.cli import sizing
    from optgraph.cli.written import check_outputs, source_file
    from optgraph.compare.bench import bench
    from optgraph.report import tables
    from optgraph.report.results import pictures_parts

    settings = options.settings(model) | {"threads": threads, "original": original}
    settings |= {"warm_up": warm_up, "repeats": repeats, "min_seconds": duration}
    check_outputs([csv], model, original, *map(source_file, input or ()))
    done: list[str] = []

    def read(net: Net) -> Feeds:
        reader = pictures.reader(net)
        feeds = reader.batch(input or ())
        done[:] = reader.done
        return feeds

    if input:
        settings["read"] = read
    with say.progress() as tell:
        found = {
            size: bench(model, against, backend, batch, progress=tell, size=size, **settings)
            for size in options.sizes_of(model)
        }
    if csv is not None:
        with replacing(csv) as file:
            file.write(_runs(found).encode())
    results = {size: each.to_json() for size, each in found.items()}
    data, parts = sizing.by_size(results, lambda each: [tables.times_table(each), tables.comparison_table(each)])
    say.note(options.overridden(model))
    say.show(data | {"pictures": done}, *pictures_parts(done), *parts)


def _runs(found: Mapping[Size | None, Comparison]) -> str:
    """The times of all runs as CSV: a row a pair, in milliseconds."""
    from optgraph.onnx.sizes import size_text

    rows = ["size,pair,optgraph_ms,onnxruntime_ms"]
    for size, each in found.items():
        pairs = zip(each.runs["ours"], each.runs["theirs"], strict=True)
        rows += [f"{size_text(size) if size else ''},{i},{ours},{theirs}" for i, (ours, theirs) in enumerate(pairs)]
    return "\n".join(rows) + "\n"


def tune(
    model: Model,
    batch: Annotated[str, typer.Option(metavar="N,...", help="The batch sizes whose launches to tune.")] = "1,8,64",
    minutes: Annotated[
        float, typer.Option(min=0, metavar="MINUTES", help="Start nothing new after so long; the next call goes on.")
    ] = 10,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FOLDER",
            help="The folder to keep what was measured in. Default: OPTGRAPH_TUNED, or the package's.",
        ),
    ] = None,
    *,
    options: ModelOptions,
    say: Say,
) -> None:
    """Measure what is fastest on this GPU. Models compiled later use it: the tile of each launch, and whether one
    launch does what two could. Exit code 1: not all yet.

    \b
    Examples:
      optgraph tune model.onnx --dtype fp16
      optgraph tune fast.optgraph --batch 1 --minutes 5 -o tuned
    """
    from optgraph.report import tables
    from optgraph.tune import tune

    batches = batch_sizes(batch)
    bench = tune.gpu_bench()
    with say.busy(f"reading {model.name}"):
        net = options.net(model, "torch")
    store = tune.open_store(bench.target, output)
    with say.progress() as tell:
        finished = tune.tune(net.fused, net.dtype, batches, bench, store, minutes, tell)
    data = {"output": str(store.path), "finished": finished} | tune.summary(store)
    say.note(options.overridden(model))
    say.show(data, tables.tuning_table(data), "all launches tuned" if finished else "call again to tune the others")
    raise typer.Exit(0 if finished else 1)
