"""How a picture becomes what a network was trained on: resized, cut, its channels in an order, its numbers scaled.

    x = (pixels / scale - mean) / std        of 8-bit pixels, channel by channel

| name  | resized to                                      | channels | x                                    |
|-------|-------------------------------------------------|----------|--------------------------------------|
| torch | shorter side 256 of 224, 342 of 299; the centre | RGB      | (pixels/255 - mean)/std, of ImageNet |
| keras | the input's size, whatever the proportions      | RGB      | pixels/127.5 - 1                     |
| caffe | as torch                                        | BGR      | pixels - mean, of ImageNet           |
| none  | as keras                                        | RGB      | pixels, 0 to 255                     |

torch is torchvision's `transforms/_presets.py`, the others the modes 'tf' and 'caffe' of `preprocess_input` in Keras's
`applications/imagenet_utils.py`, which leaves resizing to others.

Resizing is Pillow's bilinear filter, which averages all pixels that become one ("antialias"), as torchvision's does of
pictures. The sizes and the centre are rounded as torchvision rounds them, so `torch` is that preset to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from optgraph.base.errors import InputError
from optgraph.ir.values import BATCH, Pair, Value, channels_last
from optgraph.onnx.sizes import size_text
from optgraph.pictures.decode import MOST, Picture, decoded

LEAST = 1e-18  # to divide by, once and again: 255 by that is still a float32
CENTRE = 0.875  # 224 of 256, and 299 of 342: what the centre is of the shorter side


@dataclass(frozen=True)
class Preprocess:
    """What is done to a picture; call it with one, and the input it is for.

    Attributes:
        name: what most of it is called; '' for none of the four.
        scale: what 8-bit pixels are divided by first.
        mean: what is taken from what this gives: one number, or three in the order of the channels.
        std: what that is divided by, the same way.
        bgr: blue first, not red.
        resize: the shorter side, or height and width, in pixels, before the centre of the input's size is cut out.
        crop: in its place, which part of the resized picture's sides the centre is at least: 0.875 is 224 of 256.
            With neither, a picture is resized to the input's size, whatever its proportions.
        why: where it comes from, if nobody said: for people.
    """

    name: str = ""
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    bgr: bool = False
    resize: int | Pair | None = None
    crop: float | None = None
    why: str = ""

    def __post_init__(self) -> None:
        """Raises InputError for numbers that make no sense. A list or one number will do for `mean` and `std`."""
        for what in ("mean", "std"):
            given = getattr(self, what)
            numbers = tuple(map(float, given if isinstance(given, Iterable) else (given,)))
            object.__setattr__(self, what, numbers)
            if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)):
                raise InputError(f"{what} {_listed(numbers)}: expects one number, or one for each of three channels")
        for what, numbers in (("scale", (self.scale,)), ("std", self.std)):
            if not all(LEAST <= number < math.inf for number in numbers):
                raise InputError(f"{what} {_listed(numbers)}: expects numbers above 0, {LEAST:g} at least")
        if max(self.mean) > 255 / self.scale:
            raise InputError(
                f"mean {_listed(self.mean)} is over {255 / self.scale:g}, and pixels are 0 to {255 / self.scale:g} by "
                "then: give it in these, or use the preprocessing 'none', which leaves them 0 to 255"
            )
        if self.resize is not None and self.crop is not None:
            raise InputError("resize and crop are two ways to say one thing: give one of them")
        if self.resize is not None and min(_pair(self.resize)) < 1:
            raise InputError(f"resize {self.resize}: expects pixels, at least 1")
        if self.crop is not None and not 0 < self.crop <= 1:
            raise InputError(f"crop {self.crop:g}: expects a part of the picture, above 0 and up to 1")

    @classmethod
    def named(cls, name: str, **changes: Any) -> Preprocess:
        """One of those that have a name.

        Args:
            name: 'torch', 'keras', 'caffe' or 'none'.
            changes: fields in place of its own.

        Raises:
            InputError: another name, or fields that make no sense.
        """
        if name not in NAMED:
            raise InputError(f"preprocessing '{name}': use {', '.join(NAMED)}")
        return NAMED[name].changed(**changes)

    def changed(self, **changes: Any) -> Preprocess:
        """The same with other fields: one of `resize` and `crop` takes the place of the other."""
        if {"resize", "crop"} & changes.keys():
            changes = {"resize": None, "crop": None} | changes
        return replace(self, **changes)

    def __call__(self, picture: str | Path | Image.Image | Picture, value: Value) -> np.ndarray:
        """A picture as a batch of one for an input: 1×C×H×W, or 1×H×W×C as its shape says, of its dtype.

        Raises:
            InputError: it cannot be read or resized so, or the input takes none.
        """
        found = picture if isinstance(picture, Picture) else decoded(picture)
        height, width, channels = picture_shape(value)
        if max(len(self.mean), len(self.std)) > channels:
            raise InputError(
                f"the {self.name or 'given'} preprocessing is for 3 channels, and the input has 1: "
                "give it one mean and one std, or use the preprocessing keras or none"
            )
        image = found.image.convert("RGB" if channels == 3 else "L")
        down, across = self.resized(found.size, (height, width))
        image = image.resize((across, down), Image.Resampling.BILINEAR)
        top, left = round((down - height) / 2), round((across - width) / 2)
        image = image.crop((left, top, left + width, top + height))
        pixels = np.asarray(image, np.float32).reshape(height, width, channels)
        if self.bgr:
            pixels = pixels[..., ::-1]
        x = self._normalised(pixels, value)
        return (x if channels_last(value.shape) else x.transpose(2, 0, 1))[None].astype(value.dtype, order="C")

    def _normalised(self, pixels: np.ndarray, value: Value) -> np.ndarray:
        if not value.dtype.startswith("float") and not self._plain:
            raise InputError(f"the input is {value.dtype}: it takes pixels as they are, the preprocessing 'none'")
        mean, std = (np.asarray(numbers, np.float32) for numbers in (self.mean, self.std))
        x: np.ndarray = (pixels / np.float32(self.scale) - mean) / std
        return x

    @property
    def _plain(self) -> bool:
        return self.scale == 1 and not any(self.mean) and set(self.std) == {1.0}

    def resized(self, size: Pair, target: Pair) -> Pair:
        """What a picture of this height and width is resized to, for its centre of `target` to be cut out.

        Raises InputError if the one is smaller than the other, or far larger.
        """
        if self.resize is None and self.crop is None:
            return target
        height, width = size
        if self.crop is not None:
            down, across = (round(pixels / self.crop) for pixels in target)
            if down * width >= across * height:
                across = max(target[1], int(down * width / height))
            else:
                down = max(target[0], int(across * height / width))
        elif isinstance(self.resize, int):
            down, across = (self.resize, int(self.resize * width / height))
            if height > width:
                down, across = int(self.resize * height / width), self.resize
        else:
            down, across = _pair(self.resize)
        if down < target[0] or across < target[1]:
            raise InputError(
                f"a picture of {size_text(size)} resized to {size_text((down, across))} has no centre of "
                f"{size_text(target)}: "
                "resize it to more, or give crop=1, which resizes it to what is needed"
            )
        if down * across > MOST:
            raise InputError(
                f"a picture of {size_text(size)} is too long to be resized to {size_text((down, across))}: cut it"
            )
        return down, across

    def told(self, picture: Picture, value: Value) -> str:
        """In one line for people: 'cat.jpg: 480x640 -> shorter side 256, centre 224x224, RGB, ...'."""
        *target, channels = picture_shape(value)
        height, width = target
        after = self.resized(picture.size, (height, width))
        steps = []
        if after != picture.size:
            kept = self.crop is not None or isinstance(self.resize, int)
            steps.append(f"shorter side {min(after)}" if kept else f"resized to {size_text(after)}")
        if after != (height, width):
            steps.append(f"centre {size_text((height, width))}")
        steps += [self.colours(channels)]
        before = ", ".join((size_text(picture.size), *picture.notes))
        return f"{picture.name}: {before} -> {', '.join(steps)}"

    def described(self) -> str:
        """What is done to any picture, for people: 'the centre, 0.875 of a side, RGB, (x/255 - mean)/std (torch)'."""
        if self.crop is not None:
            first = f"the centre, {self.crop:g} of a side"
        elif self.resize is not None:
            size = str(self.resize) if isinstance(self.resize, int) else size_text(self.resize)
            first = f"{'shorter side' if isinstance(self.resize, int) else 'resized to'} {size}, centre"
        else:
            first = "resized as a whole"
        return f"{first}, {self.colours()}"

    def colours(self, channels: int = 3) -> str:
        """'RGB, (x/255 - mean)/std (torch)': what is done to the numbers of a picture, for people."""
        order = "grey" if channels == 1 else "BGR" if self.bgr else "RGB"
        like = NAMED.get(self.name)
        same = like is not None and (like.scale, like.mean, like.std) == (self.scale, self.mean, self.std)
        words = same and len(self.mean) > 1
        x = "x" if self.scale == 1 else f"x/{self.scale:g}"
        if self._plain:
            x = "0 to 255"
        elif any(self.mean):
            x += f" - {'mean' if words else _listed(self.mean)}"
        if set(self.std) != {1.0}:
            x = f"({x})" if " - " in x else x
            x += f"/{'std' if words else _listed(self.std)}"
        about = ", ".join(filter(None, (self.name if same else "", self.why)))
        return f"{order}, {x}{f' ({about})' if about else ''}"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Preprocess:
        """What `to_json` made. Raises InputError, or what Python raises, for anything else."""
        resize, crop = data["resize"], data["crop"]
        return cls(
            name=str(data["name"]),
            scale=float(data["scale"]),
            mean=data["mean"],
            std=data["std"],
            bgr=bool(data["bgr"]),
            resize=_pair(resize) if isinstance(resize, list) else resize if resize is None else int(resize),
            crop=None if crop is None else float(crop),
            why=str(data["why"]),
        )


NAMED = {
    "keras": Preprocess("keras", scale=127.5, mean=(1.0,)),
    "torch": Preprocess("torch", scale=255.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop=CENTRE),
    "caffe": Preprocess("caffe", mean=(103.939, 116.779, 123.68), bgr=True, crop=CENTRE),
    "none": Preprocess("none"),
}


def picture_input(inputs: Mapping[str, Value]) -> str | None:
    """The first input that takes pictures; None if none does."""
    return next((name for name, value in inputs.items() if _takes_pictures(value)), None)


def picture_shape(value: Value) -> tuple[int, int, int]:
    """Height, width and channels of an input for pictures. Raises InputError if it takes none."""
    if not _takes_pictures(value):
        raise InputError(f"an input of {value.dtype} {list(value.shape)} takes no pictures: pass a .npy file")
    shape = tuple(1 if d == BATCH else int(d) for d in value.shape)
    return shape[1:] if channels_last(value.shape) else (*shape[2:], shape[1])  # type: ignore[return-value]


def _takes_pictures(value: Value) -> bool:
    if len(value.shape) != 4 or not value.dtype.startswith(("float", "uint8")):
        return False
    pixels = value.shape[1:3] if channels_last(value.shape) else value.shape[2:]
    return (channels_last(value.shape) or value.shape[1] in (1, 3)) and all(isinstance(d, int) for d in pixels)


def _pair(data: Any) -> Pair:
    height, width = (data, data) if isinstance(data, int) else data
    return int(height), int(width)


def _listed(numbers: Sequence[float]) -> str:
    """'0.5', or '[0.485 0.456 0.406]'."""
    words = [f"{number:g}" for number in numbers]
    return words[0] if len(words) == 1 else f"[{' '.join(words)}]"
