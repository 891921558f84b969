"""Commands that compile a model, or say what would become of it: compile, inspect, check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType

from optgraph.base.errors import InputError
from optgraph.base.files import ARTIFACT, is_artifact
from optgraph.cli.options import (
    Model,
    ModelOptions,
    OnnxModel,
    ReadOptions,
    Sizes,
    batch_sizes,
    image_sizes,
    targets,
)
from optgraph.cli.pictures import ClassOptions
from optgraph.cli.say import Say

if TYPE_CHECKING:
    from optgraph.api.net import Net
    from optgraph.onnx.sizes import Size


def compile(
    model: OnnxModel,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="The file to write. Default: MODEL.optgraph, beside the model."
        ),
    ] = None,
    batch: Annotated[
        str, typer.Option(metavar="N,...", help="The batch sizes to report the memory of; any other runs, too.")
    ] = "1",
    target: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            autocompletion=targets,
            help="The GPUs to compile the kernels for, for any batch size: h100, a100, l4, rtx4090 or another, or "
            "sm_90, sm_80, sm_89 or sm_86. There, the file then runs with no compiling.",
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse a model with nodes that have no kernel.")] = False,
    any_size: Annotated[
        bool,
        typer.Option(
            "--any-size",
            help="With --sizes: put the ONNX model into the file, too, so that images of other sizes are compiled for "
            "as they come.",
        ),
    ] = False,
    input: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]SOURCE",
            help="Looks on these images, .npy files or folders of them for the regions that leave the range of fp16, "
            "which --keep-fp32 auto keeps in float32. Default: a random smooth image.",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a page to look at in a browser: every pass, the graph, launches, memory."
        ),
    ] = None,
    *,
    pictures: ClassOptions,
    options: ModelOptions,
    say: Say,
) -> None:
    """Compile a model into one .optgraph file. What each pass did is shown.

    \b
    Examples:
      optgraph compile inception_v3.onnx
      optgraph compile xception.onnx -o fast.optgraph --dtype fp16 --batch 1,8 --target sm_80,sm_90
      optgraph compile dynamic.onnx --input-shape N,3,480,640
      optgraph compile resnet50.onnx --preprocess torch --labels imagenet.txt
      optgraph compile detector.onnx --sizes 480x480,480x640
      optgraph compile audio.onnx --dtype fp16 --keep-fp32 auto --input clips/
      optgraph compile model.onnx -o features.optgraph --cut /global_pool/output_0
      optgraph compile model.onnx --dtype fp16 --target h100 --report model.html
    """
    from optgraph.api import compiling
    from optgraph.api.fp16_range import ranges
    from optgraph.cli.written import check_outputs, source_file
    from optgraph.onnx.load import check_not_compiled
    from optgraph.report import facts, tables
    from optgraph.report.fp16_range import ranges_text
    from optgraph.report.page.data import page_dict, seen_on
    from optgraph.report.page.steps import Steps
    from optgraph.report.page.write import write_page
    from optgraph.report.results import pictures_parts

    batches, sizes = batch_sizes(batch), options.asked_sizes()
    if any_size and not sizes:
        raise InputError("--any-size is for a model compiled with --sizes, such as --sizes 480x480")
    if output is None and model.parts[:2] in (("/", "dev"), ("/", "proc")):
        raise InputError(f"{model}: say where to write the compiled network, with -o FILE{ARTIFACT}")
    if not model.name:
        raise InputError(f"{model}: not a file")
    check_not_compiled(model)  # before its own name is found to be the output's
    output = output or model.with_suffix(ARTIFACT)
    check_outputs([output, report], model, pictures.labels, *map(source_file, input or ()))
    with say.progress() as tell:
        tell(f"compiling {model.name}", 0.0)
        settings = options.ranged(model, pictures.feeds(input))
        steps = Steps() if report is not None else None
        compiled = compiling.compile(
            *(model, "torch"),
            **settings,
            strict=strict,
            batches=batches,
            sizes=sizes,
            targets=() if target is None else target,
            progress=tell,
            labels=pictures.labels or (),
            watch=steps,
        )
        reader = pictures.reader(compiled)
        data = facts.net_dict(compiled, batches)
        data |= {"variants": facts.variants_dict(compiled), "passes": facts.passes_dict(compiled.reports)}
        data["output"] = str(output)
        found = ranges(compiled, reader.feeds(input or ()))
        data["out_of_range"] = None if found.regions is None else [region.to_json() for region in found.regions]
        data["ranges"] = found.how
        data["read"] = reader.done
        compiled.save(output, any_size=any_size)
        if report is not None:
            data["report"] = str(report)
            write_page(report, [page_dict(compiled, batches[0], seen_on(compiled), steps, data["out_of_range"] or ())])
    variants = data["variants"]
    shown = [tables.passes_table(data["passes"], say.verbose), tables.net_table(data)]
    lines = [f"wrote {output}"]
    if report is not None:
        lines.append(f"wrote {report}")
    lines[:0] = filter(None, [ranges_text(data), tables.refusals_text(data["passes"]) if say.verbose else ""])
    if variants:
        shown.append(tables.variants_table(variants))
        lines.insert(0, tables.variants_line(variants))
    say.note(options.overridden(model))
    say.show(data, *shown, *pictures_parts(reader.done), *lines)


def inspect(
    model: Model,
    dot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the fused graph to this file, for Graphviz.")
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a page to look at in a browser: every pass, the graph, launches, memory."
        ),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL", help="With --html: this model, by the same options, or this .optgraph beside it."
        ),
    ] = None,
    cost: Annotated[
        bool, typer.Option("--cost", help="List the launches, with a prediction of their times, in place of the graph.")
    ] = False,
    batch: Annotated[
        int, typer.Option(min=1, metavar="N", help="For --cost, --html and --json: how many images at a time.")
    ] = 1,
    target: Annotated[
        str,
        typer.Option(
            metavar="NAME", autocompletion=targets, help="For those, too: the GPU to predict for, such as h100 or a100."
        ),
    ] = "sm_90",
    *,
    options: ModelOptions,
    say: Say,
) -> None:
    """Show the fused graph, its launches, and the bytes it moves.

    \b
    Examples:
      optgraph inspect xception.optgraph
      optgraph inspect model.onnx --json
      optgraph inspect model.onnx --dot graph.dot
      optgraph inspect model.onnx --dtype fp16 --html page.html
      optgraph inspect half.optgraph --html page.html --compare single.optgraph
      optgraph inspect model.onnx --dtype fp16 --cost --batch 8 --target sm_80
    """
    from optgraph.base.files import replacing
    from optgraph.cli.written import check_outputs
    from optgraph.cost.predict import predictable
    from optgraph.ir import text
    from optgraph.report import anatomy, facts, tables
    from optgraph.report.page.write import write_page

    if compare is not None and html is None:
        raise InputError("--compare is for a page: give --html FILE")
    check_outputs([dot, html], model, compare)
    with say.busy(f"reading {model.name}"):
        net, page = (options.net(model, "torch"), None) if html is None else _page(model, options, batch, target)
        data = facts.net_dict(net, net.batches)
        if cost:
            data["cost"] = facts.cost_dict(net, batch, target, cached=True)
        if say.json:
            data["graph"] = anatomy.graph_dict(net.fused)
            data["schedule"] = anatomy.schedule_dict(net, batch, predictable(target))
    if html is not None and page is not None:
        with say.busy("drawing the page"):
            if compare is not None and is_artifact(compare):  # which has all else settled
                options = ModelOptions(sizes=options.sizes, budget=options.budget)
            others = [_page(compare, options, batch, target)[1]] if compare is not None else []
            write_page(html, [page, *others])
    if dot is not None:
        with replacing(dot) as file:
            file.write(text.graph_dot(net.fused).encode())
    say.note(options.overridden(model))
    if cost:
        shown = tables.cost_table(data["cost"]), tables.net_table(data), tables.prediction_table(data["cost"])
        say.show(data, *shown)
    elif html is not None:
        say.show(data, tables.net_table(data), f"wrote {html}")
    else:
        say.show(data, text.graph_text(net.fused).rstrip(), tables.net_table(data))


def _page(model: Path, options: ModelOptions, batch: int, target: str) -> tuple[Net, dict[str, Any]]:
    """The network and what its page shows."""
    from optgraph.api.fp16_range import ranges
    from optgraph.report.page.data import page_dict
    from optgraph.report.page.steps import Steps

    steps = Steps() if not is_artifact(model) else None
    net = options.net(model, "torch", steps)
    leaving = [region.to_json() for region in ranges(net, ()).regions or ()]
    return net, page_dict(net, batch, target, steps, leaving, cached=True)


def check(model: OnnxModel, sizes: Sizes = None, *, options: ReadOptions, say: Say) -> None:
    """List the nodes that cannot be compiled, or have no kernel. Needs no weights. Exit code 1 if some cannot.

    \b
    Examples:
      optgraph check model.onnx
      optgraph check dynamic.onnx --input-shape N,3,480,640 --json
      optgraph check detector.onnx --sizes 480x480,480x640
    """
    from optgraph.api.check import check
    from optgraph.cli import sizing
    from optgraph.report import tables

    shape, outputs, budget = options.shape(), options.outputs(), options.limits()
    asked: list[Size | None] = [*image_sizes(sizes)] if sizes is not None else [None]
    with say.busy(f"checking {model.name}"):
        found = {size: check(model, shape, outputs, budget, size).to_json() for size in asked}

    def shown(data: dict[str, Any]) -> list[RenderableType]:
        table = [tables.unsupported_table(data["unsupported"])] if data["unsupported"] else []
        return [*table, tables.compatibility_table(data)]

    data, parts = sizing.by_size(found, shown)
    good = all(each["ok"] for each in found.values())
    say.note(options.overridden(model))
    say.show({"ok": good} | data, *parts)
    raise typer.Exit(0 if good else 1)
