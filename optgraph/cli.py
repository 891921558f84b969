"""The command line. Heavy modules are imported by the command that needs them, so that --help is quick.

Exit codes: 0 good, 1 the answer is no (a verification failed), 2 bad input, 3 a bug or out of memory, 130 interrupted.
"""

from __future__ import annotations

import functools
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType

from optgraph import config
from optgraph.errors import GraphError, InputError, OptgraphError

if TYPE_CHECKING:
    from optgraph.net import Net
    from optgraph.onnx_import import InputShape

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
        help="What kernels store and multiply in: fp32, tf32, fp16 or bf16. Default: fp32, or what a .optgraph "
        "was compiled for.",
    ),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape",
        metavar="SHAPE",
        help="Fixes open dimensions, such as N,3,299,299, where N stays open; NAME=SHAPE if there are several inputs.",
    ),
]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Registers a command whose errors are one line on stderr and an exit code, never a traceback."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
            sys.stdout.flush()
        except typer.Exit:
            raise
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except BrokenPipeError:  # a reader such as `head` has left
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(141) from None
        except MemoryError:
            _fail(3, "error: out of memory: use a smaller batch or model")
        except GraphError as error:
            _internal(error)
        except OptgraphError as error:
            _fail(2, f"error: {error}")
        except OSError as error:
            _fail(2, f"error: {f'{error.filename}: ' if error.filename else ''}{error.strerror or error}")
        except Exception as error:
            _internal(error)

    return app.command()(guarded)


def _internal(error: Exception) -> None:
    if config.debug():
        traceback.print_exception(error)
    _fail(3, f"internal error: {type(error).__name__}: {error}: please report, OPTGRAPH_DEBUG=1 shows the traceback")


def _fail(code: int, message: str) -> None:
    from optgraph.report import printable

    print(printable(message), file=sys.stderr)
    raise typer.Exit(code)


# ---- commands


@command
def compile(
    model: OnnxModel,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Default: MODEL.optgraph, beside the model.")
    ] = None,
    dtype: Dtype = None,
    batch: Annotated[str, typer.Option(metavar="N,...", help="Batch sizes to report the memory of.")] = "1",
    input_shape: Shapes = None,
    json: Json = False,
) -> None:
    """Compile a model into one .optgraph file, and show what each pass did.

    \b
    Examples:
      optgraph compile inception_v3.onnx
      optgraph compile xception.onnx -o fast.optgraph --dtype fp16 --batch 1,8
      optgraph compile dynamic.onnx --input-shape N,3,299,299
    """
    from optgraph import net, report
    from optgraph.files import check_output

    batches = _batches(batch)
    output = output or model.with_suffix(ARTIFACT)
    check_output(output, model)
    with _busy(f"compiling {model.name}"):
        compiled = net.compile(model, "torch", dtype or "fp32", _shapes(input_shape), batches=batches)
        data = report.net_dict(compiled, batches)
        data |= {"passes": report.passes_dict(compiled.reports), "output": str(output)}
        compiled.save(output)
    _print(json, data, report.passes_table(data["passes"]), report.net_table(data), f"wrote {output}")


@command
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
    json: Json = False,
) -> None:
    """Run a model on one input, and show the top 5 classes.

    \b
    Examples:
      optgraph run xception.optgraph --input cat.png
      optgraph run model.onnx --input x.npy --output y.npy --backend interpret
      optgraph run two_inputs.onnx --input left=a.npy --input right=random
    """
    from optgraph import images, report
    from optgraph.files import check_output

    with _busy(f"loading {model.name}"):
        net = _net(model, backend, dtype, input_shape)
    feeds = images.read_inputs(input or [images.RANDOM], net.inputs)
    if output is not None:
        images.check_results(output, list(net.outputs))
        check_output(output, model)
    with _busy(f"running on {net.backend}"):
        start = time.perf_counter()
        found: Any = net(feeds)
        seconds = time.perf_counter() - start
    results = found if isinstance(found, Mapping) else {next(iter(net.outputs)): found}
    data: dict[str, Any] = {"backend": net.backend, "dtype": net.dtype, "ms": round(seconds * 1e3, 3)}
    data["outputs"] = report.results_dict(results)
    lines = [f"{data['ms']:.1f} ms on {net.backend}, first run"]
    if output is not None:
        images.write_results(output, results)
        data["output"] = str(output)
        lines.append(f"wrote {output}")
    _print(json, data, report.results_table(data["outputs"]), *lines)


@command
def verify(
    model: Model,
    backend: Backend = "auto",
    original: Annotated[
        Path | None,
        typer.Option(metavar="M.onnx", help="What a .optgraph was compiled from. Default: the file beside it."),
    ] = None,
    dtype: Dtype = None,
    batch: Annotated[int, typer.Option(min=1, help="Images to compare on.")] = 1,
    input_shape: Shapes = None,
    json: Json = False,
) -> None:
    """Compare a backend with ONNX Runtime on the original model, region by region. Exit code 1 if they differ.

    \b
    Examples:
      optgraph verify model.onnx --backend interpret
      optgraph verify fast.optgraph --original model.onnx --batch 4 --json
    """
    from optgraph import report
    from optgraph.verify import open_with_original, verify_net

    with _busy(f"loading {model.name}"):
        net, source = open_with_original(model, backend, dtype or "fp32", _shapes(input_shape), original)
    _check_settled(model, net, dtype, input_shape)
    with _progress() as progress:
        found = verify_net(net, source, batch, progress=progress)
    data = found.to_json()
    _print(json, data, report.verification_table(data))
    raise typer.Exit(0 if found.ok else 1)


@command
def inspect(
    model: Model,
    dtype: Dtype = None,
    dot: Annotated[Path | None, typer.Option(help="Write the fused graph as Graphviz.")] = None,
    input_shape: Shapes = None,
    json: Json = False,
) -> None:
    """Show the fused graph, its launches, and the bytes it moves.

    \b
    Examples:
      optgraph inspect xception.optgraph
      optgraph inspect model.onnx --json
      optgraph inspect model.onnx --dot graph.dot
    """
    from optgraph import report, text
    from optgraph.files import check_output, replacing

    if dot is not None:
        check_output(dot, model)
    with _busy(f"reading {model.name}"):
        net = _net(model, "torch", dtype, input_shape)
        data = report.net_dict(net, net.batches)
    if dot is not None:
        with replacing(dot) as file:
            file.write(text.graph_dot(net.fused).encode())
    _print(json, data, text.graph_text(net.fused).rstrip(), report.net_table(data))


@command
def optimize(
    model: OnnxModel,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.onnx", help="Where.", show_default=False)],
    input_shape: Shapes = None,
    json: Json = False,
) -> None:
    """Write the simplified model as standard ONNX, for any runtime.

    \b
    Example:
      optgraph optimize model.onnx -o smaller.onnx
    """
    from optgraph import onnx_import, pipeline, report
    from optgraph.checks import check_finite
    from optgraph.files import check_output
    from optgraph.onnx_export import save_onnx

    check_output(output, model)
    with _busy(f"optimizing {model.name}"):
        graph = onnx_import.read(model, _shapes(input_shape))
        check_finite(graph)
        passes = report.passes_dict(pipeline.apply(graph, pipeline.SIMPLIFY))
        save_onnx(graph, output)
    data = {"nodes": graph.source_nodes, "optimized_nodes": len(graph), "passes": passes, "output": str(output)}
    summary = f"{data['nodes']} operators before, {data['optimized_nodes']} after"
    _print(json, data, report.passes_table(passes), summary, f"wrote {output}")


@command
def calibrate(
    model: OnnxModel,
    output: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="Where.", show_default=False)],
    seed: Annotated[int, typer.Option(min=0, help="Of the weights and the images.")] = 0,
    size: Annotated[int, typer.Option(min=1, help="Height and width of the images, where the model allows it.")] = 128,
) -> None:
    """Fill a model whose weights were stripped with random ones of sound scale.

    \b
    Example:
      optgraph calibrate stripped.onnx whole.onnx --size 96
    """
    from optgraph import calibrate as calibration
    from optgraph.files import check_output, replacing
    from optgraph.onnx_import import load_model

    check_output(output, model)
    with _busy(f"calibrating {model.name}"):
        proto = load_model(model, allow_stripped=True)
        if not calibration.is_stripped(proto):
            proto = load_model(model)
        filled = calibration.calibrate(proto, seed, size)
    with replacing(output) as file:
        file.write(filled.SerializeToString())
    print(f"wrote {output}")


# ---- what they share


def _net(model: Path, backend: str, dtype: str | None, input_shape: Sequence[str] | None) -> Net:
    """A .optgraph file loaded, or an ONNX model compiled."""
    from optgraph import net

    if model.suffix != ARTIFACT:
        return net.compile(model, backend, dtype or "fp32", _shapes(input_shape))
    loaded = net.load(model, backend)
    _check_settled(model, loaded, dtype, input_shape)
    return loaded


def _check_settled(model: Path, net: Net, dtype: str | None, input_shape: Sequence[str] | None) -> None:
    """Raises InputError for an option that a .optgraph file has settled otherwise."""
    if model.suffix == ARTIFACT and input_shape:
        raise InputError(f"{model}: its shapes are fixed: give --input-shape when it is compiled")
    if dtype not in (None, net.dtype):
        raise InputError(f"{model}: was compiled for {net.dtype}, not {dtype}: compile the model again")


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
    return shapes[""] if "" in shapes else shapes


def _batches(argument: str) -> list[int]:
    sizes = [int(size) if size.strip().isdecimal() else 0 for size in argument.split(",")]
    if min(sizes) < 1:
        raise InputError(f"--batch {argument}: expects sizes such as 1,8")
    return sizes


@contextmanager
def _busy(what: str) -> Iterator[None]:
    """Shows on stderr, if that is a terminal, that something is under way."""
    from optgraph.report import printable

    with Console(stderr=True).status(printable(what)):
        yield


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    """A progress bar on stderr, if that is a terminal; call it with what is being done and how much of it, 0 to 1."""
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda what, done: bar.update(task, description=what, completed=done)


def _print(json: bool, data: Mapping[str, Any], *parts: RenderableType) -> None:
    """To stdout: `data` as JSON, or `parts` for people, with an empty line between them."""
    from optgraph import report

    if json:
        print(report.dumps(data))
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    with console.capture() as captured:  # rich would leave on a broken pipe with a code of its own
        for i, part in enumerate(parts):
            if i:
                console.print()
            console.print(part, markup=False, highlight=False, soft_wrap=isinstance(part, str))
    print(captured.get(), end="")


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    app()
