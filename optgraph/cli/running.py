"""Commands that run a model: for its answers, and to compare them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from optgraph.base.errors import InputError
from optgraph.cli.options import Backend, Model, ModelOptions, Original
from optgraph.cli.pictures import ClassOptions, PictureOptions
from optgraph.cli.say import Say


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
