"""The command line. Heavy modules are imported by the command that needs them, so that --help is quick."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optgraph.base.errors import InputError
from optgraph.report.terminal import busy, guarded, progress, show

if TYPE_CHECKING:
    from optgraph.api.net import Net
    from optgraph.onnx.read import InputShape

ARTIFACT = ".optgraph"

app = typer.Typer(
    name="optgraph",
    help="Compiles ONNX convolutional networks to fused Triton kernels.",
    epilog="Exit codes: 0 good, 1 the answer is no, 2 bad input. OPTGRAPH_DEBUG=1 shows what passes refused.",
    no_args_is_help=True,
    add_completion=False,
)

OnnxModel = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An ONNX model.", show_default=False)]
Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="An ONNX model, or a compiled .optgraph file.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Backend = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="auto (a GPU's kernels, else ONNX Runtime), triton, interpret (the kernels on the CPU, slowly), "
        "onnxruntime or torch.",
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What kernels store and multiply in: fp32 (the default), tf32, fp16 or bf16. A .optgraph has its own.",
    ),
]
Original = Annotated[
    Path | None,
    typer.Option(metavar="M.onnx", help="What a .optgraph was compiled from. Default: the file of its name beside it."),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape",
        metavar="SHAPE",
        help="Fixes open dimensions: N,3,299,299, where N stays open, or NAME=SHAPE if there are several inputs.",
    ),
]
Cut = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TENSOR",
        help="Cuts the model off at a tensor, which it then answers with in place of its outputs. Repeat for several.",
    ),
]
Limits = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        metavar="NAME=NUMBER",
        help="Raises a limit on what a model may ask for: nodes, folded_bytes, arena_bytes or nesting.",
    ),
]


# ---- commands


@app.command()
@guarded
def compile(
    model: OnnxModel,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Default: MODEL.optgraph, beside the model.")
    ] = None,
    dtype: Dtype = None,
    batch: Annotated[str, typer.Option(metavar="N,...", help="Batch sizes to report the memory of.")] = "1",
    target: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="GPUs to compile the kernels for, for any batch size: sm_80 (A100), sm_86, sm_89, sm_90 (H100). "
            "There, the file then runs with no compiling.",
        ),
    ] = None,
    input_shape: Shapes = None,
    cut: Cut = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse a model with nodes that have no kernel.")] = False,
    budget: Limits = None,
    json: Json = False,
) -> None:
    """Compile a model into one .optgraph file, and show what each pass did.

    \b
    Examples:
      optgraph compile inception_v3.onnx
      optgraph compile xception.onnx -o fast.optgraph --dtype fp16 --batch 1,8 --target sm_80,sm_90
      optgraph compile dynamic.onnx --input-shape N,3,299,299
      optgraph compile model.onnx -o features.optgraph --cut /global_pool/output_0
    """
    from optgraph.api import net
    from optgraph.base.files import check_output
    from optgraph.report import report

    batches = _batches(batch)
    output = output or model.with_suffix(ARTIFACT)
    check_output(output, model)
    targets = list(dict.fromkeys(target.split(","))) if target else []
    with progress() as tell:
        tell(f"compiling {model.name}", 0.0)
        settings = _settings(model, dtype, input_shape, cut, budget)
        compiled = net.compile(
            model, "torch", **settings, strict=strict, batches=batches, targets=targets, progress=tell
        )
        data = report.net_dict(compiled, batches)
        data |= {"variants": report.variants_dict(compiled), "passes": report.passes_dict(compiled.reports)}
        data["output"] = str(output)
        compiled.save(output)
    variants = data["variants"]
    tables = [report.passes_table(data["passes"]), report.net_table(data)]
    lines = [f"wrote {output}"]
    if variants:
        tables.append(report.variants_table(variants))
        lines.insert(0, report.variants_line(variants))
    show(json, data, *tables, *lines)


@app.command()
@guarded
def run(
    model: Model,
    input: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]SOURCE",
            help="x.npy, as it is; a .png or .jpg, resized to the input's height and width, RGB, scaled to -1..1, "
            "N×C×H×W or N×H×W×C as the input asks; or random, normal with seed 0. Repeat with NAME= for several "
            "inputs. Default: random.",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="A .npy, or .npz for several outputs.")] = None,
    backend: Backend = "auto",
    dtype: Dtype = None,
    input_shape: Shapes = None,
    cut: Cut = None,
    budget: Limits = None,
    json: Json = False,
) -> None:
    """Run a model on one input, and show the top 5 classes.

    \b
    Examples:
      optgraph run xception.optgraph --input cat.png
      optgraph run model.onnx --input x.npy --output y.npy --backend interpret
      optgraph run two_inputs.onnx --input left=a.npy --input right=random
    """
    from optgraph.base.files import check_output
    from optgraph.cli import images
    from optgraph.compare.verify import computed_dtype
    from optgraph.report import report

    with busy(f"loading {model.name}"):
        net = _net(model, backend, dtype, input_shape, cut, budget)
    feeds = images.read_inputs(input or [images.RANDOM], net.inputs)
    if output is not None:
        images.check_results(output, list(net.outputs))
        check_output(output, model)
    with busy(f"running on {net.backend}"):
        start = time.perf_counter()
        found: Any = net(feeds)
        seconds = time.perf_counter() - start
    results = found if isinstance(found, Mapping) else {next(iter(net.outputs)): found}
    data: dict[str, Any] = {"backend": net.backend, "dtype": computed_dtype(net), "ms": round(seconds * 1e3, 3)}
    data["outputs"] = report.results_dict(results)
    lines = [f"{data['ms']:.1f} ms on {net.backend}, first run"]
    if output is not None:
        images.write_results(output, results)
        data["output"] = str(output)
        lines.append(f"wrote {output}")
    show(json, data, report.results_table(data["outputs"]), *lines)


@app.command()
@guarded
def verify(
    model: Model,
    backend: Backend = "auto",
    original: Original = None,
    dtype: Dtype = None,
    batch: Annotated[int, typer.Option(min=1, help="Images to compare on.")] = 1,
    input_shape: Shapes = None,
    cut: Cut = None,
    budget: Limits = None,
    json: Json = False,
) -> None:
    """Compare a backend with ONNX Runtime on the original model, region by region. Exit code 1 if they differ.

    \b
    Examples:
      optgraph verify model.onnx --backend interpret
      optgraph verify fast.optgraph --original model.onnx --batch 4 --json
    """
    from optgraph.compare.verify import verify
    from optgraph.report import report

    settings = _settings(model, dtype, input_shape, cut, budget)
    with progress() as tell:
        found = verify(model, backend, original=original, batch=batch, progress=tell, **settings)
    data = found.to_json()
    show(json, data, report.verification_table(data))
    raise typer.Exit(0 if found.ok else 1)


@app.command()
@guarded
def bench(
    model: Model,
    against: Annotated[str, typer.Option(metavar="NAME", help="What to compare with: onnxruntime.")] = "onnxruntime",
    backend: Backend = "auto",
    original: Original = None,
    dtype: Dtype = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Of both sides, on the CPU. Default: all.")] = None,
    input_shape: Shapes = None,
    cut: Cut = None,
    budget: Limits = None,
    json: Json = False,
) -> None:
    """Time a backend against ONNX Runtime on the original model, run by run in turns.

    \b
    Examples:
      optgraph bench model.onnx --threads 2
      optgraph bench fast.optgraph --backend triton --batch 8 --json
    """
    from optgraph.compare.bench import bench
    from optgraph.report import report

    settings = _settings(model, dtype, input_shape, cut, budget)
    with progress() as tell:
        found = bench(model, against, backend, batch, threads=threads, original=original, progress=tell, **settings)
    data = found.to_json()
    show(json, data, report.comparison_table(data))


@app.command()
@guarded
def tune(
    model: Model,
    dtype: Dtype = None,
    batch: Annotated[str, typer.Option(metavar="N,...", help="Batch sizes whose launches to tune.")] = "1,8,64",
    minutes: Annotated[float, typer.Option(min=0, help="Start nothing new after so long; the next call goes on.")] = 10,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FOLDER", help="Default: OPTGRAPH_TUNED, or the package's.")
    ] = None,
    input_shape: Shapes = None,
    cut: Cut = None,
    budget: Limits = None,
    json: Json = False,
) -> None:
    """Measure which tile of each launch is fastest on this GPU, for models compiled later. Exit code 1: not all yet.

    \b
    Examples:
      optgraph tune model.onnx --dtype fp16
      optgraph tune fast.optgraph --batch 1 --minutes 5 -o tuned
    """
    from optgraph.report import report
    from optgraph.tune import tune

    batches = _batches(batch)
    bench = tune.gpu_bench()
    with busy(f"reading {model.name}"):
        net = _net(model, "torch", dtype, input_shape, cut, budget)
    store = tune.open_store(bench.target, output)
    with progress() as tell:
        finished = tune.tune(net.fused, net.dtype, batches, bench, store, minutes, tell)
    data = {"output": str(store.path), "finished": finished} | tune.summary(store)
    show(json, data, report.tuning_table(data), "all launches tuned" if finished else "call again to tune the others")
    raise typer.Exit(0 if finished else 1)


@app.command()
@guarded
def inspect(
    model: Model,
    dtype: Dtype = None,
    dot: Annotated[Path | None, typer.Option(help="Write the fused graph as Graphviz.")] = None,
    cost: Annotated[
        bool, typer.Option("--cost", help="List the launches, with a prediction of their times, in place of the graph.")
    ] = False,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time, for --cost.")] = 1,
    target: Annotated[str, typer.Option(metavar="NAME", help="sm_90 (H100) or sm_80 (A100), for --cost.")] = "sm_90",
    input_shape: Shapes = None,
    cut: Cut = None,
    budget: Limits = None,
    json: Json = False,
) -> None:
    """Show the fused graph, its launches, and the bytes it moves.

    \b
    Examples:
      optgraph inspect xception.optgraph
      optgraph inspect model.onnx --json
      optgraph inspect model.onnx --dot graph.dot
      optgraph inspect model.onnx --dtype fp16 --cost --batch 8 --target sm_80
    """
    from optgraph.base.files import check_output, replacing
    from optgraph.ir import text
    from optgraph.report import report

    if dot is not None:
        check_output(dot, model)
    with busy(f"reading {model.name}"):
        net = _net(model, "torch", dtype, input_shape, cut, budget)
        data = report.net_dict(net, net.batches)
        if cost:
            data["cost"] = report.cost_dict(net, batch, target)
    if dot is not None:
        with replacing(dot) as file:
            file.write(text.graph_dot(net.fused).encode())
    if cost:
        tables = report.cost_table(data["cost"]), report.net_table(data), report.prediction_table(data["cost"])
        show(json, data, *tables)
    else:
        show(json, data, text.graph_text(net.fused).rstrip(), report.net_table(data))


@app.command()
@guarded
def check(
    model: OnnxModel,
    input_shape: Shapes = None,
    cut: Cut = None,
    budget: Limits = None,
    json: Json = False,
) -> None:
    """List all nodes that cannot be compiled, and those without a kernel. Needs no weights. Exit code 1 if some cannot.

    \b
    Examples:
      optgraph check model.onnx
      optgraph check dynamic.onnx --input-shape N,3,299,299 --json
    """
    from optgraph.api.check import check
    from optgraph.base.budget import Budget
    from optgraph.report import report

    with busy(f"checking {model.name}"):
        found = check(model, _shapes(input_shape), cut or (), Budget.parse(budget or []))
    data = found.to_json()
    tables = [report.unsupported_table(data["unsupported"])] if data["unsupported"] else []
    show(json, data, *tables, report.compatibility_table(data))
    raise typer.Exit(0 if found.ok else 1)


@app.command()
@guarded
def optimize(
    model: OnnxModel,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.onnx", help="Where.", show_default=False)],
    input_shape: Shapes = None,
    cut: Cut = None,
    budget: Limits = None,
    plain: Annotated[bool, typer.Option("--plain", help="Keep Conv and Relu apart: no function in the model.")] = False,
    json: Json = False,
) -> None:
    """Write the simplified model as standard ONNX, for any runtime.

    A Conv and the Relu after it become one call of a function that the model carries, which is standard ONNX from
    IR version 8 on. For a tool that cannot read functions, use --plain.

    \b
    Examples:
      optgraph optimize model.onnx -o smaller.onnx
      optgraph optimize model.onnx -o smaller.onnx --plain
    """
    from optgraph.base.budget import Budget
    from optgraph.base.files import check_output
    from optgraph.ir.checks import check_finite, check_size
    from optgraph.onnx import read
    from optgraph.onnx.write import save_onnx
    from optgraph.passes import pipeline
    from optgraph.report import report

    check_output(output, model)
    with busy(f"optimizing {model.name}"):
        limits = Budget.parse(budget or [])
        graph = read.read(model, _shapes(input_shape), outputs=cut or [], budget=limits)
        check_size(graph)
        check_finite(graph)
        passes = report.passes_dict(pipeline.apply(graph, pipeline.SIMPLIFY))
        nodes = save_onnx(graph, output, functions=not plain)
    data = {"nodes": graph.source_nodes, "optimized_nodes": nodes, "passes": passes, "output": str(output)}
    summary = f"{data['nodes']} operators before, {data['optimized_nodes']} after"
    show(json, data, report.passes_table(passes), summary, f"wrote {output}")


@app.command()
@guarded
def calibrate(
    model: OnnxModel,
    output: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="Where.", show_default=False)],
    seed: Annotated[int, typer.Option(min=0, help="Of the weights and the images.")] = 0,
    size: Annotated[int, typer.Option(min=1, help="Height and width of the images, where the model allows it.")] = 128,
    refill: Annotated[bool, typer.Option("--refill", help="Draw the weights that are there anew, too.")] = False,
) -> None:
    """Fill a model whose weights were stripped with random ones of sound scale.

    \b
    Example:
      optgraph calibrate stripped.onnx whole.onnx --size 96
    """
    from optgraph.base.files import check_output, replacing
    from optgraph.onnx import calibrate as calibration
    from optgraph.onnx.read import load_model

    check_output(output, model)
    with busy(f"calibrating {model.name}"):
        filled = calibration.calibrate(load_model(model), seed, size, refill)
    with replacing(output) as file:
        file.write(filled.SerializeToString())
    show(False, {}, f"wrote {output}")


# ---- what they share


def _net(
    model: Path,
    backend: str,
    dtype: str | None,
    input_shape: Sequence[str] | None,
    cut: Sequence[str] | None,
    budget: Sequence[str] | None,
) -> Net:
    """A .optgraph file loaded, or an ONNX model compiled."""
    from optgraph.api import net

    settings = _settings(model, dtype, input_shape, cut, budget)
    if model.suffix == ARTIFACT:
        return net.load(model, backend, budget=settings["budget"])
    return net.compile(model, backend, **settings)


def _settings(
    model: Path,
    dtype: str | None,
    input_shape: Sequence[str] | None,
    cut: Sequence[str] | None,
    budget: Sequence[str] | None,
) -> dict[str, Any]:
    """The arguments of `net.compile` that these options are. Raises InputError if `model` has its own."""
    from optgraph.base.budget import Budget

    if model.suffix == ARTIFACT and (dtype or input_shape or cut):
        given = "--dtype, --input-shape and --cut"
        raise InputError(f"{model}: its dtype, shapes and outputs are settled: give {given} to compile")
    shape, limits = _shapes(input_shape), Budget.parse(budget or [])
    return {"dtype": dtype or "fp32", "input_shape": shape, "outputs": cut or (), "budget": limits}


def _shapes(arguments: Sequence[str] | None) -> InputShape | dict[str, InputShape] | None:
    """What --input-shape says: one shape, or shapes by input name."""
    if not arguments:
        return None
    shapes: dict[str, InputShape] = {}
    for argument in arguments:
        name, _, dims = argument.rpartition("=")
        if name in shapes or (not name and len(arguments) > 1):
            raise InputError(f"--input-shape {argument}: give each input its own, NAME=N,3,299,299")
        try:
            shapes[name] = [None if d.strip() in ("N", "?") else int(d) for d in dims.split(",")]
        except ValueError:
            raise InputError(f"--input-shape {argument}: expects sizes such as N,3,299,299") from None
    return shapes.get("", shapes)


def _batches(argument: str) -> list[int]:
    sizes = [int(size) if size.strip().isdecimal() else 0 for size in argument.split(",")]
    if min(sizes) < 1:
        raise InputError(f"--batch {argument}: expects sizes such as 1,8")
    return sizes


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    app()
