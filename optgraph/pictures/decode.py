"""Picture files as one sees them: upright, 8 bits a channel, nothing transparent.

What Pillow's own `convert` would do in silence is wrong for some: it clips 16 bits to white, shows what hides under
full transparency, and leaves a photograph lying on its side as the camera held it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from optgraph.base.errors import InputError
from optgraph.base.files import as_path
from optgraph.ir.values import Pair

FORMATS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MOST = 89_478_485  # pixels of a picture, before and after resizing: Pillow's own limit, 256 MiB of RGB

_ORIENTATION = 0x0112  # EXIF's tag for how the camera was held, and what puts each of its values right
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DEEP = 65535  # the most that 16 bits hold


@dataclass(frozen=True)
class Picture:
    """image: RGB or L, 8 bits. name: of its file, '' for none. notes: what was done to it, for people."""

    image: Image.Image
    name: str = ""
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> Pair:
        """Height and width, in pixels."""
        return self.image.height, self.image.width


def is_picture(path: Path) -> bool:
    """Whether a file is one by its name."""
    return path.suffix.lower() in FORMATS


def decoded(source: str | Path | Image.Image) -> Picture:
    """A file or an image of Pillow's, read. Raises InputError if it is none, damaged or too large."""
    if isinstance(source, Image.Image):
        return _seen(source, "picture")
    path = as_path(source)
    with _opened(path) as image:
        return _seen(image, path.name)


def picture_size(path: Path) -> Pair:
    """Height and width, in pixels, upright; of the file only the beginning is read. Raises as `decoded`."""
    with _opened(path) as image:
        lying = _orientation(image) >= 5
        return (image.width, image.height) if lying else (image.height, image.width)


@contextmanager
def quiet() -> Iterator[None]:
    """What Pillow warns of, such as damaged EXIF, is no line of a command's; what cannot be read is an error.

    Of all threads: where several decode, it is for the one that waits for them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The image in a file. Raises InputError if it is none, when it is opened or read."""
    huge = InputError(f"{path}: has over {MOST / 1e6:.0f} million pixels: scale it down first")
    try:
        with Image.open(path) as image:
            if image.width * image.height > MOST:
                raise huge
            if image.format == "EPS":  # a program, which Pillow has Ghostscript run
                raise InputError(f"{path}: is PostScript, which is not read: save it as .png")
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise huge from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:  # Pillow raises each of them for a damaged file
        reason = getattr(error, "strerror", None) or "damaged, or no picture"
        raise InputError(f"{path}: cannot be read: {reason}") from None


def _seen(image: Image.Image, name: str) -> Picture:
    if not image.width or not image.height:
        raise InputError(f"{name}: has no pixels")
    notes = []
    if getattr(image, "is_animated", False) and image.format != "MPO":  # whose others are views of the same
        notes.append("one picture of several")
    turn = _UPRIGHT.get(_orientation(image))
    if turn is not None:
        image = image.transpose(turn)
        notes.append("upright by its EXIF")
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _of_16_bits(image, name)
        notes.append("16 bits made 8")
    if image.mode == "La":
        image = image.convert("LA")  # the one way from it
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        colours = image.convert("RGBA")
        image = Image.new("RGB", colours.size, "white")
        image.paste(colours, mask=colours.getchannel("A"))
        if colours.getchannel("A").getextrema() != (255, 255):
            notes.append("on white where transparent")
    if image.mode not in ("RGB", "L"):
        if image.mode == "F":
            raise InputError(f"{name}: has floating-point pixels: scale them to 8 bits first")
        image = image.convert("RGB")
    image.load()
    return Picture(image, name, tuple(notes))


def _of_16_bits(image: Image.Image, name: str) -> Image.Image:
    pixels = np.asarray(image)
    if pixels.size and (pixels.min() < 0 or pixels.max() > _DEEP):
        raise InputError(f"{name}: has pixels of more than 16 bits: scale them to 8 first")
    grey = Image.fromarray(np.rint(pixels.astype(np.float32) * (255.0 / _DEEP)).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):  # which of the 16-bit levels is
        grey.putalpha(Image.fromarray(np.where(pixels == clear, 0, 255).astype(np.uint8)))
    return grey


def _orientation(image: Image.Image) -> int:
    """EXIF's, 1 to 8; 1 where there is none, or none that can be read, which spoils no picture."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # of a damaged block Pillow raises whatever its reader stumbles over
        return 1
    return found if isinstance(found, int) else 1
