"""Picture files of every kind become what one sees, in 8 bits; what is none is refused in one line."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from optgraph.base.errors import InputError
from optgraph.pictures.decode import FORMATS, MOST, decoded, is_picture, picture_size

RNG = np.random.default_rng(0)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(decoded(path).image)


def smooth(height: int = 24, width: int = 40) -> np.ndarray:
    """A picture that every format keeps nearly as it is, unlike itself however it is turned."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([4 * y + 40, 3 * x + 60, 2 * (x + y) + 20], -1).astype(np.uint8)


def png(path: Path, rows: np.ndarray, depth: int, colour: int) -> Path:
    """A PNG by hand: Pillow writes no 16-bit colours. rows: height × width × channels, big endian."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = rows.shape[:2]
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("suffix", [suffix for suffix in FORMATS if suffix != ".jpeg"])
def test_every_format_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix.upper()}"
    Image.fromarray(smooth()).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    assert is_picture(path) and picture_size(path) == (24, 40)
    assert abs(pixels(path).astype(int) - smooth()).max() <= (12 if suffix == ".jpg" else 0)
    assert decoded(path).notes == () and decoded(path).name == path.name


@pytest.mark.parametrize("kind", ["grey", "RGB", "grey and alpha", "RGB and alpha"])
def test_16_bits_are_scaled_and_not_clipped(tmp_path: Path, kind: str) -> None:
    """A picture of 16 bits is its 8-bit twin, to a level. Pillow's own `convert` makes the grey one white."""
    colour, channels = {"grey": (0, 1), "RGB": (2, 3), "grey and alpha": (4, 2), "RGB and alpha": (6, 4)}[kind]
    deep = RNG.integers(0, 65536, (9, 11, channels)).astype(">u2")
    deep.flat[:2] = 0, 65535
    if "alpha" in kind:
        deep[..., -1] = 65535
        channels -= 1
    seen = pixels(png(tmp_path / "x.png", deep, 16, colour)).reshape(9, 11, -1).astype(float)
    wanted = deep[..., :channels].astype(float) / 257
    assert abs(seen - wanted).max() < 1.0 and seen.std() > 50
    if kind == "grey":
        assert abs(seen - wanted).max() <= 0.5 and decoded(tmp_path / "x.png").notes == ("16 bits made 8",)


def test_more_than_16_bits_and_fractions_are_refused() -> None:
    with pytest.raises(InputError, match="more than 16 bits"):
        decoded(Image.fromarray(np.array([[70000, 3]], np.int32)))
    with pytest.raises(InputError, match="floating-point pixels"):
        decoded(Image.fromarray(np.array([[0.5, 0.25]], np.float32)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_a_photograph_is_turned_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    """What the camera stored, turned as its EXIF says, is the scene; its size is told upright, too."""
    scene = Image.fromarray(smooth())
    stored = {
        1: scene,
        2: scene.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: scene.transpose(Image.Transpose.ROTATE_180),
        4: scene.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: scene.transpose(Image.Transpose.TRANSPOSE),
        6: scene.transpose(Image.Transpose.ROTATE_90),
        7: scene.transpose(Image.Transpose.TRANSVERSE),
        8: scene.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x{suffix}"
    stored.save(path, exif=exif)
    assert picture_size(path) == (24, 40)
    assert abs(pixels(path).astype(int) - smooth()).max() <= 12
    assert decoded(path).notes == (() if orientation == 1 else ("upright by its EXIF",))


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_exif_spoils_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    Image.fromarray(smooth()).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\x7f\0\0")
    assert picture_size(path) == (24, 40) and pixels(path).shape == (24, 40, 3)


def test_a_palette_is_its_colours(tmp_path: Path) -> None:
    image = Image.fromarray(smooth()).quantize(16)
    image.save(tmp_path / "x.png")
    assert (pixels(tmp_path / "x.png") == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(tmp_path: Path, mode: str) -> None:
    """Not what hides under it, which a viewer never shows."""
    image = Image.new("RGBA", (4, 2), (200, 200, 200, 255))
    image.paste((10, 10, 10, 0), (0, 0, 2, 2))
    if mode == "P":
        image = image.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
        image.info["transparency"] = image.getpixel((0, 0))
    else:
        image = image.convert(mode)
    image.save(tmp_path / "x.png")
    seen = decoded(tmp_path / "x.png")
    assert seen.notes == ("on white where transparent",)
    assert np.asarray(seen.image)[0, :, 0].tolist() == [255, 255, 200, 200]


def test_a_level_of_16_bits_that_is_transparent(tmp_path: Path) -> None:
    Image.fromarray(np.array([[300, 65535, 301, 0]], np.uint16)).save(tmp_path / "x.png", transparency=300)
    assert pixels(tmp_path / "x.png")[0, :, 0].tolist() == [255, 255, 1, 0]
    assert decoded(tmp_path / "x.png").notes == ("16 bits made 8", "on white where transparent")


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "LA", "PA", "RGBa", "La"]
)
def test_every_mode_of_pillow(mode: str) -> None:
    image = Image.fromarray(smooth())
    if mode in ("PA", "La"):
        image = image.convert("LA")
    seen = decoded(image.convert(mode)).image
    assert seen.mode in ("RGB", "L") and seen.size == image.size
    off = np.asarray(seen.convert("L"), int) - np.asarray(image.convert("L"), int)
    assert abs(off.mean()) <= 5 and (mode == "1" or abs(off).mean() <= 15)


@pytest.mark.parametrize("suffix", [".webp", ".gif", ".png"])
def test_one_picture_of_several_is_told(tmp_path: Path, suffix: str) -> None:
    first, other = Image.fromarray(smooth()).convert("P"), Image.new("P", (40, 24))
    first.save(tmp_path / f"x{suffix}", save_all=True, append_images=[other])
    assert decoded(tmp_path / f"x{suffix}").notes == ("one picture of several",)
    assert pixels(tmp_path / f"x{suffix}").std() > 30


def test_no_program_is_run_and_no_pixels_are_told(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png", format="EPS")
    for source, message in ((tmp_path / "x.png", "is PostScript"), (Image.new("L", (0, 5)), "has no pixels")):
        with pytest.raises(InputError, match=message):
            decoded(source)


def test_half_transparent_is_halfway_to_white_and_opaque_says_nothing(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (100, 0, 0, 128)).save(tmp_path / "half.png")
    Image.new("RGBA", (2, 2), (100, 0, 0, 255)).save(tmp_path / "opaque.png")
    assert abs(pixels(tmp_path / "half.png")[0, 0].astype(int) - [177, 127, 127]).max() <= 1
    assert decoded(tmp_path / "opaque.png").notes == () and pixels(tmp_path / "opaque.png")[0, 0].tolist() == [
        100,
        0,
        0,
    ]


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "YCbCr", "I;16", "HSV"])
def test_other_modes_keep_their_light(mode: str) -> None:
    grey = Image.linear_gradient("L")
    image = Image.fromarray(np.asarray(grey, np.uint16) * 257) if mode == "I;16" else grey.convert("RGB").convert(mode)
    seen = decoded(image).image
    assert seen.mode in ("L", "RGB")
    assert abs(np.asarray(seen.convert("L"), float).mean() - np.asarray(grey, float).mean()) < 3


def test_a_cmyk_jpeg(tmp_path: Path) -> None:
    Image.fromarray(smooth()).convert("CMYK").save(tmp_path / "x.jpg")
    assert abs(pixels(tmp_path / "x.jpg").astype(int) - smooth()).mean() < 4


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "no header"])
@pytest.mark.parametrize("suffix", [suffix for suffix in FORMATS if suffix != ".jpeg"])
def test_a_damaged_file_is_one_line(tmp_path: Path, damage: str, suffix: str) -> None:
    whole = io.BytesIO()
    noise = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8))
    noise.save(whole, {".jpg": "JPEG"}.get(suffix, suffix[1:]))
    data = whole.getvalue()
    path = tmp_path / f"x{suffix}"
    path.write_bytes(
        {"empty": b"", "text": b"no picture\n", "truncated": data[: len(data) // 2], "no header": data[40:]}[damage]
    )
    with pytest.raises(InputError, match=r"cannot be read: damaged, or no picture") as error:
        decoded(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        picture_size(tmp_path / "x.png")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pixels", [MOST + 1, 3 * MOST])
def test_a_huge_picture_is_refused_before_it_is_unpacked(tmp_path: Path, pixels: int) -> None:
    """Pillow warns of the one and raises of the other: both are errors here."""
    path = png(tmp_path / "x.png", np.zeros((1, 8), np.uint8), 8, 0)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", pixels // 1000 + 1, 1000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    path.write_bytes(data)
    for read in (decoded, picture_size):
        with pytest.raises(InputError, match="over 89 million pixels: scale it down first"):
            read(path)
