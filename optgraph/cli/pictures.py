"""The options that say what is done to pictures, and what classes are called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optgraph.base.errors import InputError
from optgraph.cli.options import image_sizes

if TYPE_CHECKING:
    from optgraph.api.net import Net
    from optgraph.cli.images import Feeds, Reader

Named = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What is done to pictures: torch (shorter side to 256 of 224, the centre, ImageNet's mean and std of "
        "x/255), keras (resized to the input, -1 to 1), caffe (as torch, but BGR, 0 to 255 less ImageNet's mean) or "
        "none (resized, 0 to 255). Default: what the model shows or its exporter suggests, which is said. A .optgraph "
        "remembers it.",
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        metavar="X[,X,X]",
        help="What is taken from a channel, in what --preprocess gives: of 0 to 1 for torch, the default with this, of "
        "0 to 255 for caffe and none.",
    ),
]
Std = Annotated[str | None, typer.Option(metavar="X[,X,X]", help="What a channel is divided by, after --mean.")]
Resize = Annotated[
    str | None,
    typer.Option(
        metavar="SIDE|HxW|whole",
        help="What pictures are resized to, before the centre of the input's size is cut out: the shorter side, or "
        "height and width, in pixels; whole: the input's size itself, whatever the proportions.",
    ),
]
Crop = Annotated[
    float | None,
    typer.Option(
        metavar="PART",
        help="In place of --resize: which part of the resized picture's sides the centre is, as 0.875 is 224 of 256.",
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The names of the classes: text, one a line, or JSON, a list or a dict of numbers. Default: those in the "
        "model's metadata. A .optgraph remembers them.",
    ),
]


@dataclass(frozen=True)
class PictureOptions:
    """What is done to pictures."""

    preprocess: Named = None
    mean: Mean = None
    std: Std = None
    resize: Resize = None
    crop: Crop = None

    def reader(self, net: Net) -> Reader:
        """What reads files for the net, once these are put in place of what it says itself. Raises as `apply`."""
        from optgraph.cli.images import Reader

        self.apply(net)
        return Reader(net.inputs, net.preprocessing)

    def feeds(self, arguments: Sequence[str] | None) -> Callable[[Net], Sequence[Feeds]] | None:
        """What reads these --input for a net; None if there are none."""
        return (lambda net: self.reader(net).feeds(arguments)) if arguments else None

    def apply(self, net: Net) -> None:
        """Puts what these say in place of what the net says itself. Raises InputError if that does not fit it."""
        from optgraph.pictures.preprocess import Preprocess, picture_input

        changes = self._changes()
        if self.preprocess is None and not changes:
            return
        if picture_input(net.inputs) is None:
            raise InputError("no input of the network takes pictures: leave out what is to be done to them")
        base = net.preprocessing or Preprocess.named("keras")
        if self.preprocess is not None or self.mean is not None or self.std is not None:
            base = Preprocess.named(self.preprocess or "torch")
        net.preprocessing = base.changed(**changes)

    def _changes(self) -> dict[str, Any]:
        """The fields of a Preprocess that are given."""
        changes: dict[str, Any] = {}
        if self.mean is not None:
            changes["mean"] = _numbers("--mean", self.mean)
        if self.std is not None:
            changes["std"] = _numbers("--std", self.std)
        if self.crop is not None:
            changes["crop"] = self.crop
        if self.resize is not None:
            changes["resize"] = _resize(self.resize)
        return changes


@dataclass(frozen=True)
class ClassOptions(PictureOptions):
    """What is done to pictures, and what the classes in them are called."""

    labels: Labels = None

    def apply(self, net: Net) -> None:
        from optgraph.pictures.labels import check_labels, read_labels

        super().apply(net)
        if self.labels is not None:
            net.labels = read_labels(self.labels)
            check_labels(net.labels, net.outputs, str(self.labels))


def _numbers(option: str, argument: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, argument.split(",")))
    except ValueError:
        raise InputError(f"{option} {argument}: expects a number, or one for each channel: 0.485,0.456,0.406") from None


def _resize(argument: str) -> int | tuple[int, int] | None:
    if argument == "whole":
        return None
    if argument.isdecimal() and len(argument) < 10:
        return int(argument)
    try:
        (size,) = image_sizes(argument)
    except (InputError, ValueError):
        raise InputError(f"--resize {argument}: expects the shorter side, as in 256, 256x256 or whole") from None
    return size
