"""Commands that run a model: for its answers, to compare them, to time it, to make it faster."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from optgraph.cli.options import Backend, Model, ModelOptions, Original, batch_sizes
from optgraph.cli.say import Say


def run(
    model: Model,
    input: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]SOURCE",
            help="x.npy, as it is; a .png or .jpg, resized to the input's height and width, of several sizes to the "
            "nearest, RGB, scaled to -1..1, N×C×H×W or N×H×W×C as the input asks; or random, normal with seed 0. "
            "Repeat with NAME= for several inputs. Default: random.",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="A .npy, or .npz for several outputs.")] = None,
    backend: Backend = "auto",
    *,
    options: ModelOptions,
    say: Say,
) -> None:
    """Run a model on one input, and show the top 5 classes.

    \b
    Examples:
      optgraph run xception.optgraph --input cat.png
      optgraph run model.onnx --input x.npy --output y.npy --backend interpret
      optgraph run detector.onnx --input page.png --sizes 480x480,480x640
      optgraph run two_inputs.onnx --input left=a.npy --input right=random
    """
    from optgraph.base.files import check_output
    from optgraph.cli import images, sizing
    from optgraph.compare.verify import computed_dtype
    from optgraph.report import facts, tables

    with say.busy(f"loading {model.name}"):
        given = input or [images.RANDOM]
        net, resized = sizing.net_for(model, backend, options, given)
    feeds = images.read_inputs(given, net.inputs)
    if output is not None:
        images.check_results(output, list(net.outputs))
        check_output(output, model)
    with say.busy(f"running on {net.backend}"):
        start = time.perf_counter()
        found: Any = net(feeds)
        seconds = time.perf_counter() - start
    results = found if isinstance(found, Mapping) else {next(iter(net.outputs)): found}
    data: dict[str, Any] = {"backend": net.backend, "dtype": computed_dtype(net), "ms": round(seconds * 1e3, 3)}
    data["outputs"] = facts.results_dict(results)
    lines = [f"{data['ms']:.1f} ms on {net.backend}, first run"]
    if resized:
        data["image"] = resized
        lines.append(resized)
    if output is not None:
        images.write_results(output, results)
        data["output"] = str(output)
        lines.append(f"wrote {output}")
    say.show(data, tables.results_table(data["outputs"]), *lines)


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
    options: ModelOptions,
    say: Say,
) -> None:
    """Compare a backend with ONNX Runtime on the original model, region by region. Exit code 1 if they differ.

    \b
    Examples:
      optgraph verify model.onnx --backend interpret
      optgraph verify detector.onnx --sizes 480x480,480x640
      optgraph verify model.onnx --dtype fp16 --input cat.jpg --input dog.jpg
      optgraph verify fast.optgraph --original model.onnx --batch 4 --json
    """
    from optgraph.cli import images, sizing
    from optgraph.compare.verify import compiled_for, open_with_original, verify_net
    from optgraph.report import tables

    with say.progress() as tell:
        found = {}
        for size in options.sizes_of(model):
            tell(f"reading {model.name}", 0.0)
            settings = options.ranged(model, input, size)
            given = {"original": original, "size": size, "progress": tell, **settings}
            net, source = open_with_original(model, compiled_for(backend), **given)
            feeds = images.read_feeds(input or [], net.inputs)
            found[size] = verify_net(net, source, batch, progress=tell, inputs=feeds, backend=backend).to_json()
    data, parts = sizing.by_size(found, lambda each: [tables.verification_table(each)])
    good = all(each["ok"] for each in found.values())
    say.show(data | {"ok": good}, *parts)
    raise typer.Exit(0 if good else 1)


def bench(
    model: Model,
    against: Annotated[
        str, typer.Option(metavar="NAME", help="What to compare with; there is onnxruntime.")
    ] = "onnxruntime",
    backend: Backend = "auto",
    original: Original = None,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="How many images at a time.")] = 1,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The CPU threads of both sides. Default: one for each core.")
    ] = None,
    *,
    options: ModelOptions,
    say: Say,
) -> None:
    """Time a backend against ONNX Runtime on the original model, run by run in turns.

    \b
    Examples:
      optgraph bench model.onnx --threads 2
      optgraph bench fast.optgraph --backend triton --batch 8 --json
    """
    from optgraph.cli import sizing
    from optgraph.compare.bench import bench
    from optgraph.report import tables

    settings = options.settings(model) | {"threads": threads, "original": original}
    with say.progress() as tell:
        found = {
            size: bench(model, against, backend, batch, progress=tell, size=size, **settings).to_json()
            for size in options.sizes_of(model)
        }
    data, parts = sizing.by_size(found, lambda each: [tables.comparison_table(each)])
    say.show(data, *parts)


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
    """Measure which tile of each launch is fastest on this GPU, for models compiled later. Exit code 1: not all yet.

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
    say.show(data, tables.tuning_table(data), "all launches tuned" if finished else "call again to tune the others")
    raise typer.Exit(0 if finished else 1)
