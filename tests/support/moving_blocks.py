"""Blocks of random networks that move elements: other sizes, other orders, parts, margins, repetitions."""

from __future__ import annotations

import numpy as np

from tests.support.model_builder import Builder, Image


def _ints(to: Builder, *numbers: int) -> str:
    return to.weight(list(numbers), np.int64)


def shuffle(to: Builder, x: Image) -> Image:
    """ShuffleNet's: channels dealt out anew."""
    groups = to.pick(2, 3)
    if x.c % groups:
        return x
    y = to.node("Reshape", x.name, _ints(to, 0, groups, x.c // groups, x.h, x.w))
    y = to.node("Transpose", y, perm=[0, 2, 1, 3, 4])
    return x._replace(name=to.node("Reshape", y, _ints(to, 0, x.c, x.h, x.w)))


def resize(to: Builder, x: Image) -> Image:
    if x.h * x.w > 100:
        return x
    down, across = to.pick(2.0, 1.5, 3.0, 0.6), to.pick(2.0, 2.0, 1.0, 0.7)
    size = {"h": int(np.float32(down) * np.float32(x.h)), "w": int(np.float32(across) * np.float32(x.w))}
    if min(size.values()) < 1:
        return x
    mode = to.pick("nearest", "nearest", "linear", "linear", "cubic")
    coordinates = to.pick("asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel")
    how = {"mode": mode, "coordinate_transformation_mode": coordinates}
    if mode == "nearest":
        how["nearest_mode"] = to.pick("floor", "round_prefer_floor", "ceil")
    if to.maybe():
        target = ["", to.weight([1.0, 1.0, down, across])]
    else:
        batch = to.node("Shape", x.name)
        batch = to.node("Slice", batch, _ints(to, 0), _ints(to, 1))
        target = ["", "", to.node("Concat", batch, _ints(to, x.c, *size.values()), axis=0)]
    return x._replace(name=to.node("Resize", x.name, *target, **how), **size)


def transposed(to: Builder, x: Image) -> Image:
    if x.h * x.w > 100:
        return x
    groups = 2 if x.c % 2 == 0 and to.maybe() else 1
    kernel, step, columns = to.pick((2, 2), (3, 3), (4, 4), (3, 2)), to.pick(2, 2, 1, 3), to.pick(4, 3)
    weight = to.weight(to.rng.normal(0, (kernel[0] * x.c) ** -0.5, (x.c, columns, *kernel)))
    pads = to.pick((0, 0, 0, 0), (1, 0, 0, 1)) if min(x.h, x.w) > 1 else (0, 0, 0, 0)
    inputs = [x.name, weight, *([to.vector(columns * groups)] if to.maybe() else [])]
    y = to.node("ConvTranspose", *inputs, strides=[step, step], group=groups, pads=list(pads))
    h, w = ((n - 1) * step + k - (1 if any(pads) else 0) for n, k in zip((x.h, x.w), kernel, strict=True))
    image = Image(y, columns * groups, h, w)
    return to.tail(image) if to.maybe() else image


def dealt(to: Builder, x: Image) -> Image:
    """Channels to pixels and pixels to channels."""
    if x.c % 4 == 0 and x.h * x.w < 100:
        y = to.node("DepthToSpace", x.name, blocksize=2, mode=to.pick("DCR", "CRD"))
        return Image(y, x.c // 4, 2 * x.h, 2 * x.w)
    if x.h % 2 == 0 and x.w % 2 == 0:
        return Image(to.node("SpaceToDepth", x.name, blocksize=2), 4 * x.c, x.h // 2, x.w // 2)
    return x


def tokens(to: Builder, x: Image) -> Image:
    """Pixels as rows of their channels, as a head or an attention wants them, and back."""
    if to.maybe():
        y = to.node("Transpose", to.node("Reshape", x.name, _ints(to, 0, x.c, -1)), perm=[0, 2, 1])
    else:
        y = to.node("Reshape", to.node("Transpose", x.name, perm=[0, 2, 3, 1]), _ints(to, 0, x.h * x.w, x.c))
    if to.maybe():
        rows = to.node("Concat", y, y, axis=to.pick(1, 2))
        starts, ends, axes = _ints(to, 0, 0), _ints(to, x.h * x.w, x.c), _ints(to, 1, 2)
        y = to.node("Slice", rows, starts, ends, axes)
    y = to.node("Transpose", y, perm=[0, 2, 1])
    return x._replace(name=to.node("Reshape", y, _ints(to, 0, x.c, x.h, x.w)))


def reordered(to: Builder, x: Image) -> Image:
    """A mirror image, or channels or rows picked one by one."""
    axis = to.pick(1, 2, 3)
    if to.maybe():
        bounds = [_ints(to, number) for number in (-1, -(2**31), axis, -1)]
        return x._replace(name=to.node("Slice", x.name, *bounds))
    at = [int(i) for i in to.rng.integers(-x[axis], x[axis], to.pick(1, 3, 5))]
    return x._replace(name=to.node("Gather", x.name, _ints(to, *at), axis=axis), **{"_chw"[axis]: len(at)})


def margin(to: Builder, x: Image) -> Image:
    """Around the channels, and pixels that are there already."""
    mode = to.pick("constant", "constant", "reflect", "edge")
    least = min(x.c, x.h, x.w)
    front, top, back, bottom = (to.pick(0, 1, 2) if least > 2 or mode != "reflect" else 0 for _ in range(4))
    y = to.node("Pad", x.name, _ints(to, 0, front, top, 0, 0, back, bottom, 0), mode=mode)
    image = Image(y, x.c + front + back, x.h + top + bottom, x.w)
    return to.tail(to.conv(image, 4, (3, 3)))


def repeated(to: Builder, x: Image) -> Image:
    """Tiles, a pooled pixel spread over the image again, rows behind rows."""
    kind = to.pick("Tile", "Expand", "Concat")
    if kind == "Expand":
        pooled = to.node("GlobalAveragePool", x.name)
        wide = x._replace(name=to.node("Expand", pooled, _ints(to, 1, 1, x.h, x.w)))
        return to.tail(to.conv(to.concat([x, wide]), 5))
    if x.h * x.w > 100:
        return x
    if kind == "Tile":
        times = to.pick((1, 2, 1), (2, 1, 1), (1, 1, 3), (2, 1, 2))
        sizes = [times * size for times, size in zip(times, x[1:], strict=True)]
        return to.conv(Image(to.node("Tile", x.name, _ints(to, 1, *times)), *sizes), 4)
    other = to.act(x)
    return Image(to.node("Concat", x.name, other.name, axis=3), x.c, x.h, 2 * x.w)


def coordinates(to: Builder, x: Image) -> Image:
    """Constants beside the channels or the pixels, the same for each image of the batch, as CoordConv has them."""
    axis = to.pick(1, 2, 3)
    sizes = [1 if axis == i else size for i, size in enumerate(x[1:], start=1)]
    constant = to.weight(to.rng.normal(size=(1, *sizes)))
    batch = to.node("Gather", to.node("Shape", x.name), _ints(to, 0), axis=0)
    constant = to.node("Expand", constant, to.node("Concat", batch, _ints(to, *sizes), axis=0))
    parts = [x.name, constant] if to.maybe() else [constant, x.name]
    return x._replace(name=to.node("Concat", *parts, axis=axis), **{"_chw"[axis]: x[axis] + 1})


def anchors(to: Builder, x: Image) -> Image:
    """A detector's head: channels as anchors of their scores, scores last; and back."""
    count = to.pick(2, 3)
    if x.c % count:
        return x
    scores = x.c // count
    y = to.node("Reshape", x.name, _ints(to, 0, count, scores, x.h, x.w))
    y = to.node("Transpose", y, perm=[0, 1, 3, 4, 2])
    rows = to.node("Reshape", y, _ints(to, 0, -1, scores))
    rows = to.node(to.pick("Sigmoid", "Softmax", "Tanh"), rows)
    if to.maybe():  # of another level of the pyramid
        more = to.node("Slice", rows, _ints(to, 0), _ints(to, 2), _ints(to, 1))
        both = to.node("Concat", rows, more, axis=1)
        rows = to.node("Slice", both, _ints(to, 0), _ints(to, count * x.h * x.w), _ints(to, 1))
    y = to.node("Transpose", to.node("Reshape", rows, _ints(to, 0, count, x.h, x.w, scores)), perm=[0, 1, 4, 2, 3])
    return x._replace(name=to.node("Reshape", y, _ints(to, 0, x.c, x.h, x.w)))


MOVING = (shuffle, resize, transposed, dealt, tokens, reordered, margin, repeated, coordinates, anchors)
