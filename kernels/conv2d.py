"""kh x kw convolution as an implicit GEMM: no im2col matrix is ever in memory.

    out[n, oh, ow, :] = post(act(sum_{r,s} pre(x[n, oh*sh - top + r*dh, ow*sw - left + s*dw, :]) @ weight[r, s] + bias)
                             + residual[n, oh, ow, :])

Rows of the GEMM are output pixels, columns output channels, and its depth runs over taps (r, s) and input channels c,
c fastest. Positions outside x contribute zero, the prologue notwithstanding. x is [N, H, W, Cin] with any strides,
weight [groups, kh, kw, Cin/groups, Cout/groups] contiguous (`pack`), out and residual dense pixels.

An int8 weight is [groups, Cout/groups, kh, kw, Cin/groups] (`pack_integers`), as the tensor cores want bytes. Positions
outside x are then the integer 0, not the grid's zero, for that is what the hardware fills in: what the zero adds to a
sum depends on which taps are inside. So `start` has a row for each kind of pixel (`frame/starts.py`): near the edges
each row and each column of the output is one of its own, and all between are one.

On sm_90 warps may be specialised (`frame/halo_launch.py`): at large batch, where one fetch of a pixel serves several
taps. Else there are three ways to fetch a block of x and weight:
- TMA (sm_90; stride and dilation 1, one group, no prologue): a box of pixels of one tap comes through the copy engine,
  which writes the zeros of the padding itself. Where no tap moves along an axis, that axis merges with its neighbour
  (1xk: images with rows; kx1: rows with columns), so that boxes fit a 17x17 map.
- gathered: block by block of channels within each tap, contiguous channels behind one mask per row.
- flattened: for the few channels of an RGB stem, (r, s, c) as one axis, where a block of 32 holds all 27 of a 3x3. Its
  kernel and channels are constants: each element has an address and a mask of its own, and integer instructions, not
  bytes, would bind it. Others do not have them, for a network is to need few compiled kernels.

Bound: FLOPs, 2*kh*kw*Cin for every output value; the taps of neighbouring pixels meet in L1 and L2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F

from optgraph.base.devices import SM_90
from optgraph.ir.quant import Quant
from optgraph.ir.values import IDENTITY, PRELU, RELU, Act, Window
from optgraph.kernels.frame import streamed
from optgraph.kernels.frame.arguments import Image, Output, Sliding, ours
from optgraph.kernels.frame.boxes import Boxes, boxed_image
from optgraph.kernels.frame.choice import choose
from optgraph.kernels.frame.ends import Epilogue, Prologue, check_operands
from optgraph.kernels.frame.gemm import Gemm, product_constants
from optgraph.kernels.frame.halo_launch import halo_of, specialised
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch, target_of
from optgraph.kernels.frame.operands import check_contiguous, check_shape, check_window, strides4
from optgraph.kernels.frame.sample import Sample, image, sums, weight, window_sample
from optgraph.kernels.frame.segments import segments_of
from optgraph.kernels.frame.split import unbound, unsplit_beyond, workspace_bytes
from optgraph.kernels.frame.starts import Kinds, kinds_along
from optgraph.kernels.frame.streamed_launch import streamed_launch
from optgraph.kernels.frame.tile import Tile, blocks_along, cdiv, planned_batch
from optgraph.kernels.frame.work import work_of

_FLATTEN_BELOW = 16  # channels of a group: the least depth of a tl.dot
_FLATTEN_TAPS = 64  # bits of an integer, for the rows, the columns and what is beyond


def conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    *,
    window: Window,
    groups: int = 1,
    before: Prologue = Prologue(),
    after: Epilogue = Epilogue(),
    precision: str = "ieee",
    tile: Tile | None = None,
) -> Launch:
    """One launch of a convolution."""
    integers = check_operands(x, weight, before, after)
    if weight.dim() != 5 or weight.shape[0] != groups or weight.shape[2 if integers else 1 :][:2] != window.kernel:
        inner = (*window.kernel, "Cin/groups")
        expected = (groups, "Cout/groups", *inner) if integers else (groups, *inner, "Cout/groups")
        raise ValueError(f"weight has shape {tuple(weight.shape)}, expected [{', '.join(map(str, expected))}]")
    channels, columns = (weight.shape[4], weight.shape[1]) if integers else weight.shape[3:]
    height, width = check_window(x, out, window, groups * columns)
    check_shape(x, (*x.shape[:3], groups * channels), "x")
    check_contiguous(weight, tuple(weight.shape), "weight")
    before.check(groups * channels, rounds=True)
    after.check(tuple(out.shape), out.dtype)
    kinds = Kinds.of(window, tuple(x.shape[1:3]), (height, width))
    if after.start is not None and after.start.shape[:-1] not in ((), kinds.shape):
        raise ValueError(f"start has shape {tuple(after.start.shape)}, expected {(*kinds.shape, groups * columns)}")

    before = Prologue() if integers and before.onto is None else before
    flatten, target = flattens(channels, window), target_of(x)
    boxed = None if before or flatten else boxed_image(x, weight, window, (height, width))
    planned = planned_batch(x.shape[0], target)
    extent = boxed.boxes(planned)[:3] if boxed else (1, planned * height * width, 1)
    depth, taps = (window.taps * channels, 1) if flatten else (channels, window.taps)
    plain, item = not before and after.residual is None, weight.element_size()
    halo = None if before or flatten else halo_of(x, weight, window, (planned, height, width))
    problem = Gemm(extent, (columns,) * groups, depth, item, taps, plain=plain, tma=boxed is not None, halo=halo)
    floats = item == 2 and not (before or flatten or after.quants or after.residual_quant)
    problem = replace(problem, streams=boxed is not None and floats)
    tile = tile or choose(problem, target)
    if tile.producers or tile.streamed:
        plain_tile = choose(replace(problem, halo=None, streams=False), target)
        options: dict[str, Any] = {"window": window, "groups": groups, "before": before, "after": after}
        otherwise = partial(conv2d, x, weight, out, **options, precision=precision, tile=plain_tile)
        if target.interpreted:  # no interpreter runs Gluon
            return otherwise()
        if tile.streamed:
            if boxed is None or not problem.streams or target != SM_90:
                raise ValueError("a streamed tile needs sm_90, 16 bits, and what a tile with a box needs, and no grid")
            given = boxed.operands(x, weight, tile)
            place = streamed.place(boxed.boxes(x.shape[0])[:3], tile, boxed.step, channels, window)
            segments = segments_of((out,), ())
            work = work_of(x, out, window, {"weight": weight}, (after,))
            return streamed_launch(
                "conv2d", given["x"], given["weight"], place, segments, after, tile, work, problem, otherwise
            )
        if halo is None or target != SM_90:
            raise ValueError(
                "specialised warps need sm_90, 16 bits or int8, few taps, channels on 16 bytes, no group, prologue or "
                "dilation"
            )
        return specialised(x, weight, out, window, after, tile, problem, kinds, otherwise)
    if flatten:  # a pipeline no longer than the loop
        tile = replace(tile, num_stages=min(tile.num_stages, cdiv(depth, tile.block_k)))
    image, size, stride_c = Image.of(x), Output.of(out, channels, columns), strides4(x)[3]
    operands: dict[str, Any] = {"x": x, "weight": weight, "ahead": None}
    boxes, row_tiles = Boxes(0, 0, 0, 0), cdiv(size.pixels, tile.block_m)
    if tile.box is not None:
        if boxed is None:
            raise ValueError("a tile with a box needs stride and dilation 1, no prologue, and x and weight on 16 bytes")
        operands, boxes = boxed.operands(x, weight, tile), boxed.boxes(x.shape[0])
        row_tiles = blocks_along(boxes[:3], tile.box)
    blocks = row_tiles * cdiv(columns, tile.block_n)
    tile = unsplit_beyond(tile, blocks * groups)
    workspace = workspace_bytes(blocks * groups, tile.splits, tile.block_m, tile.block_n)
    tensors = {**operands, "out": out, "workspace": unbound(workspace)}
    ends = {"pre": before.argument(), "end": after.argument()}
    numbers = {"size": size, "splits": tile.splits, "kinds": kinds, "boxes": boxes}
    known = (*window.kernel, channels) if flatten else (0, 0, 0)
    ways = {
        "STRIDE_C": stride_c,
        "DILATED": window.dilation != (1, 1),
        "SPLIT": tile.splits > 1,
        "INTEGERS": integers,
        "KINDS": after.start is not None and after.start.dim() > 1,
        "FLATTEN": flatten,
        **dict(zip(("KH", "KW", "CHANNELS"), known, strict=True)),
        "TMA": tile.box is not None,
    }
    program = problem.program(tile, after.residual is not None)
    return Launch(
        "conv2d",
        ours("conv2d"),
        (blocks, groups, tile.splits),
        {**tensors, "image": image, "window": Sliding.of(window), **ends, **numbers},
        {
            **ways,
            **{f"BOX{axis}": size for axis, size in enumerate(tile.box or (0, 0, 0))},
            **product_constants(x, out, channels, (columns, size.row, after.residual_row), precision, tile),
            "GROUP_M": 8,
        },
        tile,
        work_of(x, out, window, {"weight": weight}, (before, after), program),
        problem,
        workspace,
    )


def flattens(channels: int, window: Window) -> bool:
    """Whether (r, s, c) is one axis, of so many channels a group."""
    return channels < _FLATTEN_BELOW and sum(window.kernel) < _FLATTEN_TAPS


def pack(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """ONNX weight [Cout, Cin/groups, kh, kw] as [groups, kh, kw, Cin/groups, Cout/groups]."""
    return weight.reshape(groups, -1, *weight.shape[1:]).permute(0, 3, 4, 2, 1).contiguous()


def pack_integers(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """The same of int8 as [groups, Cout/groups, kh, kw, Cin/groups]."""
    return weight.reshape(groups, -1, *weight.shape[1:]).permute(0, 1, 3, 4, 2).contiguous()


def reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    *,
    window: Window,
    groups: int = 1,
    before: Prologue = Prologue(),
    after: Epilogue = Epilogue(),
    precision: str = "ieee",
) -> torch.Tensor:
    """The same in float64; `out` is not read."""
    integers = weight.dtype == torch.int8
    values = x.double() if integers and before.onto is None else before.reference(x)
    image = (before.onto.integers(values) if integers and before.onto else values).permute(0, 3, 1, 2)
    top, left, bottom, right = window.pads
    onnx_weight = weight.double().permute(*((0, 1, 4, 2, 3) if integers else (0, 4, 3, 1, 2))).flatten(0, 1)
    padded = F.pad(image, (left, right, top, bottom))
    y = F.conv2d(padded, onnx_weight, None, window.stride, 0, window.dilation, groups).permute(0, 2, 3, 1)
    if after.start is not None and after.start.dim() > 1:
        kinds = Kinds.of(window, tuple(x.shape[1:3]), (y.shape[1], y.shape[2]))
        y = y + after.start.double()[kinds_along(y.shape[1], *kinds[:2])][:, kinds_along(y.shape[2], *kinds[2:4])]
        after = replace(after, start=None)
    return after.reference(y, out)


def sample(
    shape: tuple[int, int, int, int],
    columns: int,
    window: Window,
    *,
    groups: int = 1,
    integers: bool = False,
    **arguments: Any,
) -> Sample:
    """A call on x of `shape` that makes `columns` channels; arguments as `window_sample` takes them. integers: x and
    weight are int8."""
    inner, outer = shape[3] // groups, columns // groups
    matrix = weight(groups, *window.kernel, inner, outer)
    if integers:
        height, width = window.over(*shape[1:3])
        kinds = Kinds.of(window, shape[1:3], (int(height), int(width))).shape
        given: Epilogue = arguments.get("after", Epilogue())
        matrix = weight(groups, outer, *window.kernel, inner, dtype="int8")
        arguments |= {"x": arguments.get("x", image(*shape, dtype="int8")), "after": sums(given, columns, *kinds)}
    return window_sample(shape, columns, window, weight=matrix, groups=groups, precision="ieee", **arguments)


def samples() -> Iterator[tuple[str, Sample]]:
    """Every way to fetch, with all that can go with it."""
    small, same, around = Tile(64, 32, 32), Window((3, 3)), Window((3, 3), pads=(1, 1, 1, 1))
    clip = Act("clip", 0.1, 0.5)  # of zero it is not zero: padding must be masked after it
    relu, everything = Epilogue(True, RELU), Epilogue(True, residual=True, post=RELU)
    for (h, w), tile in product([(3, 3), (1, 7), (7, 1), (2, 5), (1, 1)], [None, small]):
        window = Window((h, w), pads=(h // 2, w // 2, h // 2, w // 2))
        yield "kernels", sample((3, 7, 9, 37), 40, window, after=relu, tile=tile)
    for channels, stride in product([1, 3, 5, 15, 16, 17], [(1, 1), (2, 2)]):
        window = replace(around, stride=stride)
        yield "few channels", sample((2, 13, 5, channels), 21, window, tile=Tile(32, 32, 16))
    for channels, pads, dilation in product([3, 20], [(0, 0, 0, 0), (0, 1, 2, 3), (2, 0, 0, 1)], [(1, 1), (2, 3)]):
        window = Window((3, 3), (2, 1), pads, dilation)
        yield "pads, strides, dilations", sample((2, 9, 11, channels), 5, window, tile=small)
    for kernel in ((17, 16), (1, 63)):  # more rows and columns than an int has bits; than a long has
        yield "large kernels", sample((1, 18, 64, 3), 5, Window(kernel, pads=(1, 0, 20, 0)), tile=small)
    for groups, channels, columns in ((2, 40, 60), (5, 15, 25), (7, 7, 7)):
        ends: dict[str, Any] = {"before": Prologue(True, True, RELU), "after": Epilogue(True, residual=True)}
        yield "groups", sample((2, 7, 5, channels), columns, around, groups=groups, tile=small, **ends)
    for channels, scale, shift, act in product([3, 19], [None, True], [None, True], [IDENTITY, RELU, clip]):
        yield "prologue", sample((1, 5, 7, channels), 21, around, before=Prologue(scale, shift, act))
    for act, residual in product([IDENTITY, RELU, Act("hard_swish")], [None, True]):
        yield "epilogue", sample((1, 7, 9, 24), 21, around, after=Epilogue(True, act, residual, RELU))
    windows = (
        *(around, same, Window((2, 5), pads=(2, 1, 0, 3))),
        Window((1, 7), pads=(0, 3, 0, 3)),  # images and rows merged
        Window((1, 3), pads=(1, 1, 1, 1)),  # not: padding parts the rows of two images
        Window((7, 1), pads=(3, 0, 3, 0)),  # rows and columns merged
        *(Window((3, 1)), Window((3, 1), pads=(1, 2, 1, 0))),
    )
    for window, box in product(windows, [(1, 32, 1), (2, 16, 1), (1, 4, 8), (2, 4, 4)]):
        yield "boxes", sample((2, 5, 6, 24), 24, window, after=relu, tile=Tile(32, 32, 32, box=box))
    x, tile = image(2, 7, 9, 40, beside=8), Tile(64, 32, 64, box=(1, 8, 8))
    yield "boxes of a slice", sample((2, 7, 9, 40), 24, around, x=x, after=everything, tile=tile)
    for tile in (Tile(16, 16, 16, splits=4), Tile(16, 16, 16, box=(1, 4, 4), splits=8)):
        yield "split", sample((1, 4, 5, 24), 24, around, after=Epilogue(True, RELU, residual=True), tile=tile)
    for made in (specialised_samples, specialised_integers):
        yield from (("specialised warps", sample) for sample in made())
    for channels, groups in ((3, 1), (40, 2)):
        window, tile = replace(same, stride=(2, 2)), Tile(16, 16, 16, splits=2)
        yield "split", sample((1, 9, 7, channels), 24, window, groups=groups, tile=tile)
    after, tile = Epilogue(True, PRELU), Tile(16, 16, 16, box=(1, 4, 4))
    yield "slopes", sample((1, 4, 5, 16), 24, around, after=after, tile=tile)
    after, tile = Epilogue(None, RELU, residual=True, post=PRELU), Tile(16, 16, 16, splits=2)
    yield "slopes", sample((1, 4, 3, 40), 38, around, groups=2, after=after, tile=tile)
    for channels in (3, 20):
        x, window = image(3, 9, 7, channels, planes=True), Window((3, 3), (2, 2), (0, 0, 1, 1))
        yield "planes", sample((3, 9, 7, channels), 16, window, x=x, tile=small)
    yield "many tiles", sample((3, 9, 11, 16), 24, Window((1, 2)), tile=Tile(16, 16, 16))  # two groups and a part
    x, window = image(1, 9, 9, 3, dtype="float32", planes=True), Window((3, 3), (2, 2))
    yield "float32 input", sample((1, 9, 9, 3), 8, window, x=x, after=Epilogue())
    yield from _integer_samples()


def _integer_samples() -> Iterator[tuple[str, Sample]]:
    """int8 in, out, or both; every way to fetch, and pixels of many kinds."""
    small, around, grid = Tile(16, 16, 32), Window((3, 3), pads=(1, 1, 1, 1)), Quant(0.03125, -7)
    whole: dict[str, Any] = {"integers": True, "stored": "int8"}
    ends = Epilogue(True, RELU, quants=(Quant(300.0, -128),))
    for shape, columns, tile in (((1, 7, 9, 37), 73, None), ((3, 5, 4, 32), 48, small), ((2, 3, 3, 64), 16, small)):
        yield "integers", sample(shape, columns, around, after=ends, tile=tile, **whole)
    dilated, large = Window((3, 3), (1, 1), (2, 2, 2, 2), (2, 2)), Window((7, 7), pads=(3, 3, 3, 3))
    for window in (Window((5, 3), (2, 1), (3, 0, 1, 2)), dilated, large):
        yield "integers, kinds of pixels", sample((2, 6, 5, 16), 24, window, after=ends, tile=small, **whole)
    for channels, tile in ((3, None), (3, small), (1, small)):
        yield "integers, few channels", sample((2, 13, 5, channels), 21, around, after=ends, tile=tile, **whole)
    after = Epilogue(True, RELU, True, RELU, None, (Quant(400.0, 3), Quant(200.0, -90)), grid, Quant(400.0, 9))
    yield "integers, groups", sample((2, 7, 5, 40), 60, around, groups=2, after=after, tile=small, **whole)
    x, tile = image(2, 7, 6, 48, dtype="int8", beside=16), Tile(32, 32, 64, box=(1, 4, 8))
    for window in (around, Window((1, 7), pads=(0, 3, 0, 3)), Window((7, 1), pads=(3, 0, 3, 0))):
        yield "integers by boxes", sample((2, 7, 6, 48), 48, window, x=x, after=ends, tile=tile, **whole)
    for tile in (Tile(16, 16, 32, splits=4), Tile(16, 16, 32, box=(1, 4, 4), splits=8)):
        yield "integers, split", sample((1, 4, 5, 48), 24, around, after=after, tile=tile, **whole)
    x, window = image(1, 9, 9, 3, dtype="float32", planes=True), Window((3, 3), (2, 2), (1, 0, 2, 1))
    floats_or_integers: tuple[dict[str, Any], ...] = ({}, {"after": ends, **whole})
    for onto, tile in product((Quant(0.015625, -100), Quant(0.03125, 20)), (None, small)):  # which some numbers leave
        for before in (Prologue(onto=onto), Prologue(True, True, RELU, onto=onto)):
            for more in floats_or_integers:
                yield "rounded as it is read", sample((1, 9, 9, 3), 8, window, x=x, before=before, tile=tile, **more)
    yield "integers to numbers", sample((2, 5, 7, 3), 40, around, integers=True, after=Epilogue(True, RELU), tile=small)
    options: dict[str, Any] = {"before": Prologue(quant=grid), "after": Epilogue(True, quants=(Quant(0.1875, 3),))}
    for channels in (3, 19):
        x = image(2, 5, 7, channels, dtype="int8", beside=2)
        yield "int8 and a float weight", sample((2, 5, 7, channels), 21, around, x=x, stored="int8", **options)


def specialised_integers() -> Iterator[Sample]:
    """The same of int8: pixels of many kinds or one, both depths of a step, every end."""
    around, strided = Window((3, 3), pads=(1, 1, 1, 1)), Window((3, 3), (2, 2), (0, 0, 1, 1))
    options: dict[str, Any] = {"integers": True, "stored": "int8"}
    grid, saturated = Quant(0.03125, -7), Quant(300.0, -128)
    wide, tall = (Tile(*block, 8, 3, producers=2) for block in ((256, 192, 64), (384, 128, 128)))
    small, ends = Tile(128, 64, 128, 8, 2, producers=2), Epilogue(True, RELU, quants=(saturated,))
    residual = Epilogue(True, RELU, True, RELU, None, (Quant(400.0, 3), Quant(200.0, -90)), grid, Quant(400.0, 9))
    yield sample((3, 5, 9, 80), 144, around, after=ends, tile=replace(wide, box=(8, 4, 1)), **options)
    window, x = Window((5, 2), pads=(2, 0, 1, 1)), image(17, 4, 3, 80, dtype="int8", beside=16)
    tile = replace(small, box=(16, 1, 2))
    yield sample((17, 4, 3, 80), 72, window, x=x, after=residual, tile=tile, **options)
    yield sample((5, 9, 11, 144), 96, strided, after=ends, tile=replace(tall, box=(8, 1, 1)), **options)
    window, after = Window((2, 3), (1, 2), (1, 1, 0, 2)), Epilogue(True, Act("clip", -2e4, 2e4), True, PRELU)
    yield sample((3, 6, 13, 48), 72, window, integers=True, after=after, tile=replace(small, box=(4, 4, 1)))
    after, tile = replace(residual, quants=(Quant(0.0625, 3),), before_residual=None), replace(small, box=(4, 4, 1))
    yield sample((3, 6, 13, 40), 80, around, after=after, stored="int8", tile=replace(tile, block_k=32))
    after, x = replace(ends, bias=None, quants=(Quant(200.0, 5),)), image(5, 3, 20, 64, dtype="int8")
    yield sample((5, 3, 20, 64), 64, Window((1, 7)), x=x, after=after, tile=replace(small, box=(8, 1, 1)), **options)


def specialised_samples() -> Iterator[Sample]:
    """Of the warp-specialised kernel on sm_90: both axes, strides, rings that come round, blocks that are not full."""
    around, strided = Window((3, 3), pads=(1, 1, 1, 1)), Window((3, 3), (2, 2), (0, 0, 1, 1))
    wide, tall = (Tile(*block, 32, 8, 3, producers=2) for block in ((256, 192), (384, 128)))
    small, residual = Tile(128, 64, 32, 8, 2, producers=2), Epilogue(True, RELU, residual=True, post=RELU)
    yield sample((3, 5, 9, 40), 136, around, after=Epilogue(True, RELU), tile=replace(wide, box=(8, 4, 1)))
    window, x = Window((5, 2), pads=(2, 0, 1, 1)), image(17, 4, 3, 40, beside=8)
    yield sample((17, 4, 3, 40), 72, window, x=x, after=residual, tile=replace(small, box=(16, 1, 2)))
    yield sample((5, 9, 11, 72), 96, strided, after=Epilogue(True, Act("silu")), tile=replace(tall, box=(8, 1, 1)))
    window, after = Window((2, 3), (1, 2), (1, 1, 0, 2)), Epilogue(None, PRELU)
    yield sample((3, 6, 13, 24), 72, window, after=after, tile=replace(small, box=(4, 4, 1)))


def streamed_samples() -> Iterator[Sample]:
    """Of the kernel on sm_90 whose blocks are all under way at once: boxes of each kind, parts that have no steps left,
    channels and columns that are no whole blocks, all ends."""
    tile, relu = Tile(64, 32, 64, 4, streamed=True), Epilogue(True, RELU)
    residual = Epilogue(True, RELU, residual=True, post=RELU)
    runs, squares = replace(tile, box=(1, 64, 1)), replace(tile, box=(1, 8, 8))
    odd = replace(tile, box=(1, 3, 17))
    across, down = Window((1, 7), pads=(0, 3, 0, 3)), Window((7, 1), pads=(3, 0, 3, 0))
    yield sample((1, 17, 17, 72), 72, across, after=relu, tile=replace(odd, num_stages=4, splits=4))
    yield sample((2, 9, 11, 40), 24, down, after=residual, tile=replace(runs, num_stages=7))
    window, x = Window((3, 3), pads=(1, 1, 1, 1)), image(3, 5, 9, 80, beside=8)
    wide = replace(squares, block_n=64, box=(2, 3, 9), num_stages=5, splits=4)
    yield sample((3, 5, 9, 80), 136, window, x=x, after=residual, tile=wide)
    window, after = Window((2, 5), pads=(2, 1, 0, 3)), Epilogue(None, PRELU)
    shallow = replace(squares, block_k=32, num_stages=4, splits=3)
    yield sample((1, 13, 9, 24), 40, window, after=after, tile=shallow)
    yield sample(
        (1, 8, 8, 56), 40, Window((3, 3)), after=Epilogue(True, Act("silu")), tile=replace(squares, num_stages=9)
    )


CONV2D = Kernel(conv2d, reference, samples)
