"""Commands that run a model: for its answers, to compare them, to time it, to make it faster."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType

from optgraph.base.errors import InputError
from optgraph.cli.options import Backend, Model, ModelOptions, Original, batch_sizes
from optgraph.cli.pictures import ClassOptions, PictureOptions
from optgraph.cli.say import Say

if TYPE_CHECKING:
    from optgraph.api.net import Net
    from optgraph.cli.images import Feeds
    from optgraph.compare.bench import Comparison
    from optgraph.onnx.sizes import Size


def run(
    model: Model,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=]SOURCE...", help="Pictures, arrays and folders, as --input.", show_default=False
        ),
    ] = None,
    input: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]SOURCE",
            help="A picture (.png, .jpg, .webp, .bmp), made ready as --preprocess says; a .npy or .npz, as it is; a "
            "folder of these; or random, normal with seed 0. Several are a batch. NAME= says for which input, where "
            "there are several. Default: random.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="The file to write: .npy, or .npz for several outputs. Or a table, .csv or .parquet: a row for each "
            "picture, in folders and those inside them; after an interruption the same command goes on with it.",
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, metavar="K", help="How many classes to show.")] = 5,
    raw: Annotated[
        bool, typer.Option("--raw", help="In a table, all numbers of the outputs in place of the best classes.")
    ] = False,
    batch: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="How many images at a time. Default: 32 at most, of random ones one."),
    ] = None,
    backend: Backend = "auto",
    *,
    pictures: ClassOptions,
    options: ModelOptions,
    say: Say,
) -> None:
    """Run a model on pictures or arrays. The best classes of each are shown.

    \b
    Examples:
      optgraph run xception.optgraph cat.jpg dog.jpg
      optgraph run resnet50.onnx cat.jpg --preprocess torch --labels imagenet.txt
      optgraph run model.onnx x.npy --output y.npy --backend interpret
      optgraph run detector.onnx page.png --sizes 480x480,480x640
      optgraph run two_inputs.onnx left=a.npy right=random
      optgraph run resnet50.onnx photographs/ -o classes.parquet --top 3
    """
    from optgraph.cli import sizing, tabulate
    from optgraph.cli.images import RANDOM, sources_by_name
    from optgraph.cli.results import check_results, together, write_results
    from optgraph.cli.written import check_outputs
    from optgraph.compare.verify import computed_dtype
    from optgraph.report.results import pictures_parts, results_dict, results_parts

    given = [*(sources or ()), *(input or ())] or [RANDOM]
    if output is not None and output.suffix.lower() in tabulate.SUFFIXES:
        given_options = tabulate.Table(output, top, raw, batch)
        raise typer.Exit(tabulate.tabulate(model, given, given_options, backend, pictures, options, say))
    if raw:
        raise InputError("--raw is for a table: name an --output that ends in .csv or .parquet")
    with say.busy(f"loading {model.name}"):
        net, resized = sizing.net_for(model, backend, options, given)
        reader = pictures.reader(net)
    named = sources_by_name(given, list(net.inputs))
    if output is not None:
        check_results(output, list(net.outputs))
        check_outputs([output], model, pictures.labels, *(file for files in named.values() for file in files))
    answers, seconds = [], 0.0
    with say.busy(f"running on {net.backend}"):
        for feeds in reader.batches(named, batch):
            start = time.perf_counter()
            found: Any = net(feeds)
            seconds += time.perf_counter() - start
            answers.append(found if isinstance(found, Mapping) else {next(iter(net.outputs)): found})
    results = together(answers, net.outputs)
    data: dict[str, Any] = {"backend": net.backend, "dtype": computed_dtype(net), "ms": round(seconds * 1e3, 3)}
    data |= {"batches": len(answers), "pictures": reader.done, "outputs": results_dict(results, net.labels, top)}
    often = "first run" if len(answers) == 1 else f"{len(answers)} batches, the first run among them"
    lines = [f"{data['ms']:.1f} ms on {net.backend}, {often}"]
    if resized:
        data["image"] = resized
        lines.append(resized)
    if output is not None:
        write_results(output, results)
        data["output"] = str(output)
        lines.append(f"wrote {output}")
    say.note(options.overridden(model))
    say.show(data, *pictures_parts(reader.done), *results_parts(data["outputs"], _images(named)), *lines)


def _images(sources: Mapping[str, Sequence[str]]) -> list[str]:
    """What the images of a batch are called: their files, where there is one input and each of its files is one."""
    from optgraph.pictures.decode import is_picture

    files = [Path(file) for files in sources.values() for file in files]
    return [file.name for file in files] if len(sources) == 1 and all(map(is_picture, files)) else []


def verify(
    model: Model,
    input: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]SOURCE",
            help="Compares on images or .npy files as for run, or on a folder of them. Repeat it for several, "
            "with NAME= for a network of several inputs. Default: a random smooth image.",
        ),
    ] = None,
    backend: Backend = "auto",
    original: Original = None,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="How many random images to compare on.")] = 1,
    *,
    pictures: PictureOptions,
    options: ModelOptions,
    say: Say,
) -> None:
    """Compare a backend with ONNX Runtime, region by region. That has the original model. Exit code 1 if they differ.

    \b
    Examples:
      optgraph verify model.onnx --backend interpret
      optgraph verify detector.onnx --sizes 480x480,480x640
      optgraph verify model.onnx --dtype fp16 --input cat.jpg --input dog.jpg
      optgraph verify fast.optgraph --original model.onnx --batch 4 --json
    """
    from optgraph.cli import sizing
    from optgraph.compare.verify import compiled_for, open_with_original, verify_net
    from optgraph.report import tables
    from optgraph.report.results import pictures_parts

    with say.progress() as tell:
        found = {}
        for size in options.sizes_of(model):
            tell(f"reading {model.name}", 0.0)
            settings = options.ranged(model, pictures.feeds(input), size)
            given = {"original": original, "size": size, "progress": tell, **settings}
            net, source = open_with_original(model, compiled_for(backend), **given)
            reader = pictures.reader(net)
            feeds = reader.feeds(input or [])
            verified = verify_net(net, source, batch, progress=tell, inputs=feeds, backend=backend)
            found[size] = verified.to_json() | {"pictures": reader.done}

    def shown(each: Mapping[str, Any]) -> list[RenderableType]:
        return [*pictures_parts(each["pictures"]), tables.verification_table(each)]

    data, parts = sizing.by_size(found, shown)
    good = all(each["ok"] for each in found.values())
    say.note(options.overridden(model))
    say.show(data | {"ok": good}, *parts)
    raise typer.Exit(0 if good else 1)


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
