"""The options that commands share: declared once, and what they say in the words of the Python API."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optgraph.base.errors import InputError
from optgraph.base.files import is_artifact

if TYPE_CHECKING:
    from optgraph.api.net import Net
    from optgraph.base.budget import Budget
    from optgraph.onnx.read import InputShape
    from optgraph.onnx.sessions import Feeds
    from optgraph.onnx.sizes import Size
    from optgraph.passes.pipeline import Watch


def _backends(start: str) -> list[str]:
    """What completes a --backend, for the shell."""
    from optgraph.run.backends import NAMES

    return [name for name in NAMES if name.startswith(start)]


def _dtypes(start: str) -> list[str]:
    from optgraph.base.dtypes import DTYPES

    return [name for name in DTYPES if name.startswith(start)]


def targets(start: str) -> list[str]:
    """What completes a --target, after the last comma."""
    from optgraph.base.devices import CARDS, DEVICES

    before, comma, last = start.rpartition(",")
    return [before + comma + name for name in [*map(str, DEVICES), *CARDS] if name.startswith(last)]


OnnxModel = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An ONNX model.", show_default=False)]
Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="An ONNX model, or a compiled .optgraph file.", show_default=False)
]
Backend = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        autocompletion=_backends,
        help="What runs the network: auto (the kernels where there is a GPU, else ONNX Runtime), triton, interpret "
        "(the kernels on the CPU, slowly), onnxruntime or torch.",
    ),
]
Original = Annotated[
    Path | None,
    typer.Option(
        metavar="M.onnx",
        help="The ONNX model that a .optgraph was compiled from. Default: the file of its name beside it.",
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        autocompletion=_dtypes,
        help="The numbers that kernels store and multiply: fp32 (the default), tf32, fp16 or bf16, or int8 for a model "
        "of 8 bits. A .optgraph has its own.",
    ),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape",
        metavar="SHAPE",
        help="Gives an input this shape: N,3,480,640, where N stays open, or NAME=SHAPE if there are several inputs. "
        "It is for the dimensions that the model leaves open; one that it fixes can be changed, too, and that is said.",
    ),
]
Sizes = Annotated[
    str | None,
    typer.Option(
        metavar="HxW,...",
        help="The heights and widths of the images, where the model leaves them open: 480x480,480x640. Of a .optgraph: "
        "which of those it has.",
    ),
]
Cut = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TENSOR",
        help="Cuts the model off at a tensor, which it then answers with in place of its outputs: `outputs` in Python. "
        "Repeat for several.",
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


KeepFp32 = Annotated[
    list[str] | None,
    typer.Option(
        "--keep-fp32",
        metavar="NODE",
        help="Keeps the region that an ONNX node became part of in float32, where the dtype has fewer bits. Repeat for "
        "several; auto: all that leave the range of fp16, on the images of --input or random ones.",
    ),
]


@dataclass(frozen=True)
class ReadOptions:
    """How an ONNX model is read."""

    input_shape: Shapes = None
    cut: Cut = None
    budget: Limits = None

    def shape(self) -> InputShape | dict[str, InputShape] | None:
        """What --input-shape says: one shape, or shapes by input name. Raises InputError for what says none."""
        from optgraph.onnx.inputs import parsed

        arguments = self.input_shape or ()
        shapes: dict[str, InputShape] = {}
        for argument in arguments:
            name, _, dims = argument.rpartition("=")
            if name in shapes or (not name and len(arguments) > 1):
                raise InputError(f"--input-shape {argument}: give each input its own, NAME=SHAPE")
            try:
                shapes[name] = parsed(dims)
            except InputError as error:
                raise InputError(f"--input-shape {argument}: {error}") from None
        return shapes.get("", shapes) or None

    def overridden(self, model: Path) -> list[str]:
        """What is to be said of dimensions that an ONNX model fixes and --input-shape changes, a line each."""
        from optgraph.onnx.inputs import overridden
        from optgraph.onnx.load import load_model

        if not self.input_shape or is_artifact(model):
            return []
        return overridden(load_model(model, external=False), self.shape())

    def outputs(self) -> Sequence[str]:
        """What --cut says, which the API calls `outputs`."""
        return self.cut or ()

    def limits(self) -> Budget:
        """What --budget says. Raises InputError for a limit that there is not."""
        from optgraph.base.budget import Budget

        return Budget.parse(self.budget or [])


@dataclass(frozen=True)
class ModelOptions(ReadOptions):
    """How a model is compiled, where it is not an .optgraph, which has all of this but the budget settled."""

    dtype: Dtype = None
    sizes: Sizes = None
    keep_fp32: KeepFp32 = None

    def asked_sizes(self) -> list[Size]:
        """What --sizes says, in its order."""
        return image_sizes(self.sizes) if self.sizes is not None else []

    def sizes_of(self, model: Path) -> list[Size | None]:
        """One after the other, the sizes a command is for: what --sizes says, else all that an .optgraph has.

        None stands for a model that has a size of its own.
        """
        from optgraph.api import artifact

        found = self.asked_sizes()
        if not found and is_artifact(model):
            found = artifact.sizes(model)
        return [*found] or [None]

    def settings(self, model: Path) -> dict[str, Any]:
        """The arguments of `compiling.compile` that these are. Raises InputError if `model` has its own."""
        if is_artifact(model) and (self.dtype or self.input_shape or self.cut or self.keep_fp32):
            given = "--dtype, --input-shape, --cut and --keep-fp32"
            raise InputError(f"{model}: its dtype, shapes and outputs are settled: give {given} to compile")
        return {
            "dtype": self.dtype or "fp32",
            "input_shape": self.shape(),
            "outputs": self.outputs(),
            "budget": self.limits(),
            "keep_fp32": self.kept(),
        }

    def kept(self) -> Sequence[str] | str:
        """What --keep-fp32 says."""
        from optgraph.api.recipe import AUTO

        return AUTO if self.keep_fp32 == [AUTO] else self.keep_fp32 or ()

    def ranged(
        self, model: Path, read: Callable[[Net], Sequence[Feeds]] | None, size: Size | None = None
    ) -> dict[str, Any]:
        """As `settings`, with the arrays to find ranges on, where that is asked for. read: has them for a net."""
        from optgraph.api import compiling
        from optgraph.api.recipe import AUTO

        settings = self.settings(model)
        if read is None or settings["keep_fp32"] != AUTO:
            return settings
        sizes = self.asked_sizes() if size is None else [size]
        plain = compiling.compile(model, "torch", **settings | {"keep_fp32": ()}, sizes=sizes)
        return settings | {"inputs": read(plain)}

    def net(self, model: Path, backend: str, watch: Watch | None = None) -> Net:
        """A .optgraph file loaded, or an ONNX model compiled, watched; at the first size that --sizes says."""
        from optgraph.api import compiling

        settings, sizes = self.settings(model), self.asked_sizes()
        if not is_artifact(model):
            return compiling.compile(model, backend, **settings, sizes=sizes, watch=watch)
        loaded = compiling.load(model, backend, budget=settings["budget"])
        return loaded.at(*sizes[0]) if sizes else loaded


def batch_sizes(argument: str) -> list[int]:
    """The sizes of a --batch such as '1,8'. Raises InputError for anything else."""
    sizes = [int(size) if size.strip().isdecimal() else 0 for size in argument.split(",")]
    if min(sizes) < 1:
        raise InputError(f"--batch {argument}: expects sizes such as 1,8")
    return sizes


def image_sizes(argument: str) -> list[Size]:
    """The heights and widths of a --sizes such as '480x480,480x640'. Raises InputError for anything else."""
    from optgraph.onnx.sizes import checked_sizes

    found = [re.fullmatch(r"([0-9]{1,18})[xX×]([0-9]{1,18})", size.strip()) for size in argument.split(",")]
    if None in found:
        raise InputError(f"--sizes {argument}: expects heights and widths such as 480x480,480x640")
    return list(checked_sizes((int(match[1]), int(match[2])) for match in found if match))


def flattened(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with an option a field in place of each parameter that is a dataclass of options.

    So typer sees them all, and the command gets one object.
    """
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        kind = parameter.annotation
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            groups[parameter.name] = kind
            parameters += inspect.signature(kind, eval_str=True).parameters.values()
        else:
            parameters.append(parameter)

    @functools.wraps(command)
    def flat(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in dataclasses.fields(group)})
        command(**given)

    keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    flat.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
    return flat
