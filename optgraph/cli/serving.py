"""Commands that hand a network to a server: export-triton."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from optgraph.base.errors import InputError
from optgraph.base.files import is_artifact
from optgraph.cli.options import Backend, Model, ModelOptions, targets
from optgraph.cli.pictures import Labels
from optgraph.cli.say import Say


def export_triton(
    model: Model,
    repo: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="REPO",
            help="The model repository, a folder, which is made if it is not there.",
            show_default=False,
        ),
    ],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What the server calls the model. Default: the name of the file.")
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="The most images of one call; requests are joined up to that. 0: they are not joined. Default: 8, or "
            "0 where they cannot be, which is said.",
        ),
    ] = None,
    delay_us: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="MICROSECONDS",
            help="How long a request may wait for others. Default: 0, so that those are joined that came during the "
            "call before.",
        ),
    ] = None,
    backend: Backend = "auto",
    target: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            autocompletion=targets,
            help="The GPUs to compile the kernels for, as for compile: there, the server needs not compile them.",
        ),
    ] = None,
    any_size: Annotated[
        bool, typer.Option("--any-size", help="With --sizes: images of other sizes, too, as for compile.")
    ] = False,
    labels: Labels = None,
    *,
    options: ModelOptions,
    say: Say,
) -> None:
    """Write a model for NVIDIA's Triton Inference Server. A model that is there gets a new version.

    \b
    Examples:
      optgraph export-triton resnet50.onnx -o models --labels imagenet.txt
      optgraph export-triton resnet50.onnx -o models --max-batch 32 --delay-us 500 --dtype fp16 --target a100
      optgraph export-triton fast.optgraph -o models --name resnet50 --backend onnxruntime
    """
    from optgraph.adapters.triton_repository import check_place, export
    from optgraph.api import compiling
    from optgraph.report.layout import facts_table
    from optgraph.run.backends import check_backend

    check_backend(backend)
    if any_size and not options.asked_sizes():
        raise InputError("--any-size is for a model compiled with --sizes, such as --sizes 480x480")
    compiled = is_artifact(model)
    if compiled and (target or any_size or labels or options.sizes):
        given = "--target, --sizes, --any-size and --labels"
        raise InputError(f"{model}: is compiled: give {given} to compile")
    settings = options.settings(model)
    folder = check_place(repo, model.stem if name is None else name)

    with say.progress() as tell:

        def save(path: Path) -> None:
            if compiled:
                compiling.load(
                    model, "torch", budget=settings["budget"]
                )  # what is wrong with it is told of it, not of a copy
                shutil.copyfile(model, path)
                return
            tell(f"compiling {model.name}", 0.0)
            given = settings | {"sizes": options.asked_sizes(), "targets": target or (), "labels": labels or ()}
            compiling.compile(model, "torch", **given, progress=tell).save(path, any_size=any_size)

        exported = export(save, folder, backend, max_batch, delay_us, tell)
    served = exported.serving
    say.note(options.overridden(model))
    if exported.why:
        say.note([f"requests are not joined: {exported.why}"])
    waiting = f", waiting {served.delay_us} µs for one another" if served.delay_us else ""
    joined = f"{served.max_batch} images at most{waiting}" if served.max_batch > 1 else "no"
    say.show(
        exported.to_json(),
        facts_table({"runs on": f"{served.backend}, {served.kind}", "joined": joined}),
        f"wrote {exported.folder}, version {exported.version}\nserve it: tritonserver --model-repository={repo}",
    )
