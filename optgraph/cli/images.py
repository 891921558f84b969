"""Inputs for a network from the command line: .npy files, images, random numbers; and its outputs to a file."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from optgraph.base.errors import InputError
from optgraph.base.files import replacing
from optgraph.ir.values import BATCH, Shape, Value, channels_last

IMAGES = (".png", ".jpg", ".jpeg")
RANDOM = "random"


def read_inputs(arguments: Sequence[str], inputs: Mapping[str, Value]) -> dict[str, np.ndarray]:
    """Arrays by input name, from arguments such as 'cat.png', 'mask=mask.npy' or 'random'.

    An argument without a name is for the only input; 'random' without one is for all that have no other.
    Whether an array fits its input is for the network to say. Raises InputError for anything else that is wrong.
    """
    sources = sources_by_name(arguments, list(inputs))
    return {name: _read(name, value, sources[name]) for name, value in inputs.items()}


def sources_by_name(arguments: Sequence[str], inputs: Sequence[str]) -> dict[str, str]:
    """What each input is read from. Raises as `read_inputs`."""
    sources: dict[str, str] = {}
    fill = False
    for argument in arguments:
        name, equals, source = argument.partition("=")
        if argument == RANDOM:
            fill = True
            continue
        if not equals or name not in inputs:
            if len(inputs) > 1:
                raise InputError(f"--input {argument}: say for which input, NAME={argument}: {', '.join(inputs)}")
            (name,), source = inputs, argument
        if name in sources:
            raise InputError(f"--input {argument}: input '{name}' is given twice")
        sources[name] = source
    missing = [name for name in inputs if name not in sources]
    if missing and not fill:
        raise InputError(f"input '{missing[0]}' is missing: --input {missing[0]}=FILE, or --input random")
    return dict.fromkeys(missing, RANDOM) | sources


def image_size(sources: Mapping[str, str], name: str) -> tuple[int, int] | None:
    """Height and width, in pixels, of the image file that input `name` is read from; None if it is no image.

    Raises InputError if it cannot be read.
    """
    path = Path(sources[name])
    if path.suffix.lower() not in IMAGES:
        return None
    with _opened(path) as image:
        return image.height, image.width


def array_shape(sources: Mapping[str, str], name: str) -> tuple[int, ...]:
    """The shape of the .npy file that input `name` is read from; () if it is none. Raises InputError as above."""
    path = Path(sources[name])
    return _array(path).shape if path.suffix.lower() == ".npy" else ()


def read_feeds(arguments: Sequence[str], inputs: Mapping[str, Value]) -> list[dict[str, np.ndarray]]:
    """Several inputs, from arguments such as 'a.png', 'b.png' or a folder of images; a dict of arrays for each.

    Where a network has several inputs, NAME= says which an argument is for, and each gets as many. Raises as
    `read_inputs` does, and InputError for a folder without images or for other numbers of arguments.
    """
    given: dict[str, list[str]] = {}
    for argument in arguments:
        name, equals, source = argument.partition("=")
        name, source = (name, source) if equals and name in inputs else ("", argument)
        given.setdefault(name, []).extend(f"{name}={file}" if name else file for file in _files(source))
    if len({len(files) for files in given.values()}) > 1:
        numbers = ", ".join(f"{len(files)} for '{name}'" for name, files in given.items())
        raise InputError(f"--input: each input of the network gets as many: got {numbers}")
    return [read_inputs(files, inputs) for files in zip(*given.values(), strict=True)]


def _files(source: str) -> list[str]:
    """The images and arrays of a folder, or what `source` is itself."""
    if not Path(source).is_dir():
        return [source]
    found = sorted(str(p) for p in Path(source).iterdir() if p.suffix.lower() in (*IMAGES, ".npy"))
    if not found:
        raise InputError(f"--input {source}: a folder without images ({', '.join(IMAGES)}) or .npy files")
    return found


def _read(name: str, value: Value, source: str) -> np.ndarray:
    if source == RANDOM:
        return _random(name, value)
    path = Path(source)
    if path.suffix.lower() in IMAGES:
        return read_image(path, name, value)
    if path.suffix.lower() != ".npy":
        raise InputError(f"--input {source}: expects a .npy file, an image ({', '.join(IMAGES)}) or 'random'")
    return _array(path)


def _array(path: Path) -> np.ndarray:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError):
        raise InputError(f"{path}: not a .npy file of numbers, or a truncated one: write it with numpy.save") from None


def _random(name: str, value: Value) -> np.ndarray:
    if not value.dtype.startswith("float"):
        raise InputError(f"input '{name}' is {value.dtype}, and random numbers are for floats: pass a .npy file")
    return np.random.default_rng(0).standard_normal(_one(value.shape)).astype(value.dtype)


def read_image(path: Path, name: str, value: Value) -> np.ndarray:
    """An image as one batch for input `name`: resized (bilinear) to its height and width, RGB, or grey where it has one
    channel, scaled from 0..255 to [-1, 1], N×C×H×W or N×H×W×C as its shape says.

    Raises InputError if the file is no image or the input takes none.
    """
    shape = _one(value.shape)
    last = channels_last(shape)
    if len(shape) != 4 or not value.dtype.startswith("float") or not (last or shape[1] in (1, 3)):
        raise InputError(
            f"{path}: input '{name}' ({value.dtype}, {list(value.shape)}) takes no image: pass a .npy file"
        )
    height, width, channels = shape[1:] if last else (*shape[2:], shape[1])
    with _opened(path) as image:
        resized = image.convert("RGB" if channels == 3 else "L").resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(resized, np.float32).reshape(height, width, channels) / 127.5 - 1.0
    return (pixels if last else pixels.transpose(2, 0, 1))[None].astype(value.dtype, order="C")


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The image in a file. Raises InputError if it is none, when it is opened or read."""
    try:
        with Image.open(path) as image:
            yield image
    except Image.DecompressionBombError:
        raise InputError(f"{path}: too large an image: scale it down first") from None
    except (OSError, ValueError, SyntaxError) as error:  # Pillow raises each of them for a damaged file
        reason = getattr(error, "strerror", None) or "damaged, or no image"
        raise InputError(f"{path}: cannot be read: {reason}") from None


def _one(shape: Shape) -> tuple[int, ...]:
    """The shape for a batch of one."""
    return tuple(1 if d == BATCH else int(d) for d in shape)


def check_results(path: Path, outputs: Sequence[str]) -> None:
    """Raises InputError unless `path` is named for the outputs it is to hold."""
    if path.suffix not in (".npy", ".npz"):
        raise InputError(f"{path}: outputs are written as .npy, or several as .npz")
    if path.suffix == ".npy" and len(outputs) > 1:
        raise InputError(f"{path}: the network has {len(outputs)} outputs ({', '.join(outputs)}): name a .npz file")


def write_results(path: Path, results: Mapping[str, np.ndarray]) -> None:
    """Writes the only output as .npy, or all by name as .npz. Raises InputError if that cannot be."""
    with replacing(path) as file:
        if path.suffix == ".npz":
            with zipfile.ZipFile(file, "w") as archive:  # np.savez takes no array of the name 'file'
                for name, array in results.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                        np.lib.format.write_array(entry, array)
        else:
            np.save(file, next(iter(results.values())))
