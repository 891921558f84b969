"""quantize: a float ONNX model as an int8 one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optgraph.cli.options import OnnxModel, ReadOptions
from optgraph.cli.pictures import PictureOptions
from optgraph.cli.say import Say

if TYPE_CHECKING:
    from optgraph.api.net import Net
    from optgraph.cli.images import Feeds


def quantize(
    model: OnnxModel,
    images: Annotated[
        list[str],
        typer.Option(
            "--images",
            "--input",
            metavar="[NAME=]SOURCE",
            help="Pictures of the kind that the model is for: a folder, a picture, a .npy or .npz, as --input of run; "
            "repeat it for several. Ranges are found by them, and answers compared. A hundred or more do.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT.onnx", help="The file to write.", show_default=False)
    ],
    calibrate: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="How the range of a tensor is found: minmax, percentile (99.999, for numbers far out that hardly ever "
            "come) or entropy.",
        ),
    ] = "minmax",
    per_channel: Annotated[
        bool,
        typer.Option("--per-channel/--per-tensor", help="A scale for each channel of a weight, or one for all of it."),
    ] = True,
    reduce_range: Annotated[
        bool | None,
        typer.Option(
            "--reduce-range/--no-reduce-range",
            help="Weights of 7 bits, for ONNX Runtime on CPUs that cut off sums of 8 bits. Default: if this machine's "
            "does, which is tried.",
        ),
    ] = None,
    equalise: Annotated[
        bool,
        typer.Option(
            "--equalise/--no-equalise",
            help="Brings ranges of channels together between convolutions, where they differ much and it helps.",
        ),
    ] = True,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="NODE", help="Keeps the layer that an ONNX node became part of in float. Repeatable."),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="L2",
            help="How far the answers to all pictures may be off, as relative L2 of the output where that is largest. "
            "Layers that harm the answer most stay in float, as few as that takes.",
        ),
    ] = 0.05,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="How many pictures at a time.")] = 8,
    look: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="On how many pictures losses are measured: each takes about half a run of the model a layer.",
        ),
    ] = 4,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the table of losses to this file, a row a layer.")
    ] = None,
    *,
    pictures: PictureOptions,
    options: ReadOptions,
    say: Say,
) -> None:
    """Write the model in int8, and tell what each layer loses. Any runtime takes it: it is ONNX with QuantizeLinear
    and DequantizeLinear.

    \b
    Examples:
      optgraph quantize model.onnx --images photographs -o int8.onnx
      optgraph quantize model.onnx --images x.npy -o int8.onnx --csv losses.csv
      optgraph quantize model.onnx --images photographs -o int8.onnx --keep /stem/Conv
    """
    from optgraph.api.compiling import compile
    from optgraph.base.files import replacing
    from optgraph.cli.images import sources_by_name
    from optgraph.cli.written import check_outputs
    from optgraph.int8.quantize import Settings, check_float, quantize_net
    from optgraph.onnx.load import load_model
    from optgraph.report.quantised import losses_csv, losses_parts, quantised_table
    from optgraph.report.results import pictures_parts

    settings = Settings(calibrate, per_channel, reduce_range, equalise, keep or (), tolerance, batch, look)
    check_float(model)
    try:
        with say.progress() as tell:
            tell(f"reading {model.name}", 0.0)
            shape, outputs, limits = options.shape(), options.outputs(), options.limits()
            net = compile(model, "torch", input_shape=shape, outputs=outputs, budget=limits)
            sources = sources_by_name(images, list(net.inputs))
            check_outputs([output, csv], model, *(file for files in sources.values() for file in files))
            given = _Given(net, sources, pictures, batch)
            found = quantize_net(net, load_model(model, external=False), given, settings, tell)
    except KeyboardInterrupt:
        say.note([f"stopped: nothing was written, {output} is as it was"])
        raise typer.Exit(130) from None
    data = found.to_json() | {"pictures": given.done, "output": str(output)}
    weights = sum(array.nbytes for array in net.simplified.constants.values())
    data |= {"bytes": {"before": weights, "after": found.model.ByteSize()}}
    if csv is not None:
        with replacing(csv) as file:
            file.write(losses_csv(data["losses"]).encode())
    found.save(output)
    say.note(options.overridden(model))
    shown = losses_parts(data["losses"], say.verbose)
    say.show(data, *pictures_parts(given.done), *shown, quantised_table(data), f"wrote {output}")


@dataclass
class _Given:
    """What arguments name, to be read again for each pass. done: what was done to pictures in the first."""

    net: Net
    sources: dict[str, list[str]]
    pictures: PictureOptions
    batch: int
    done: Sequence[str] = field(default=())

    def __iter__(self) -> Iterator[Feeds]:
        from optgraph.ir.values import BATCH

        reader = self.pictures.reader(self.net)
        fixed = any(value.shape and value.shape[0] != BATCH for value in self.net.inputs.values())
        yield from reader.batches(self.sources, None if fixed else self.batch)
        self.done = self.done or reader.done
