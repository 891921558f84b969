"""1x1 convolution as a GEMM whose columns may belong to several outputs.

    out_i[m, :] = act_i(pre(x[pixel(m), :]) @ weight[:, columns of i] + bias[columns of i])       i < 4
    one output:  out[m, :] = post(act(pre(x[pixel(m), :]) @ weight + bias) + residual[m, :])

m counts output pixels (n, oh, ow); pixel(m) = (n, oh*stride_h, ow*stride_w). x is [N, H, W, K] with any strides,
weight [K, sum C_i] contiguous (`pack`), each output dense pixels with a row stride of its own, so sibling convolutions
of one input become one launch that reads x once and writes each result straight into its concat slice.
An int8 weight is [sum C_i, K] (`pack_integers`), as the tensor cores want bytes; see `frame/ends.py` for its sums.

Bound: a 1x1 with K and C channels does 2KC FLOPs for (K + C) values moved per pixel; an H100 in fp16 needs about 300
FLOPs a byte, so below some 300 channels the bytes bound it. Programs are ordered so that those which share rows of x
or columns of weight run close together and meet in L2.

On sm_90, where x is flat (a row stride, no convolution stride) and everything lies on 16 bytes, the first column of
each output too, blocks of x and weight come through the copy engine (TMA); else every thread fetches its own addresses,
which any strides allow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate, product
from typing import Any

import torch

from optgraph.base.devices import SM_90
from optgraph.ir.quant import Quant
from optgraph.ir.values import IDENTITY, PRELU, RELU, Act, Window
from optgraph.kernels.frame import streamed
from optgraph.kernels.frame.arguments import Grid, ours
from optgraph.kernels.frame.choice import choose
from optgraph.kernels.frame.ends import Epilogue, Prologue, apart, check_grids, check_operands, clears, on_grids
from optgraph.kernels.frame.gemm import Gemm
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch, describable, target_of
from optgraph.kernels.frame.operands import check_contiguous, check_shape, flat_pixels, strides4
from optgraph.kernels.frame.rows import alignment
from optgraph.kernels.frame.sample import STORED, Sample, epilogue, image, prologue, sums, weight
from optgraph.kernels.frame.segments import MAX_SEGMENTS, segments_of
from optgraph.kernels.frame.split import unbound, unsplit_beyond, workspace_bytes
from optgraph.kernels.frame.streamed_launch import streamed_launch
from optgraph.kernels.frame.tile import Tile, cdiv, planned_batch
from optgraph.kernels.frame.variant import Block
from optgraph.kernels.frame.view import View
from optgraph.kernels.frame.work import Read, Work


def pointwise(
    x: torch.Tensor,
    weight: torch.Tensor,
    outs: Sequence[torch.Tensor],
    *,
    stride: tuple[int, int] = (1, 1),
    acts: Sequence[Act] = (),
    quants: Sequence[tuple[Quant, ...]] = (),
    before: Prologue = Prologue(),
    after: Epilogue = Epilogue(),
    precision: str = "ieee",
    tile: Tile | None = None,
) -> Launch:
    """One launch that computes every output of 1x1 convolutions sharing the input `x`.

    acts: the activation of each output where there are several, all alike or identity. quants: the grids of each, then.
    `after` has what is left: bias, and start and scale of an int8 weight.
    """
    stride_n, stride_h, stride_w, stride_c = strides4(x)
    batch, in_height, in_width, channels = x.shape
    height, width = (in_height - 1) // stride[0] + 1, (in_width - 1) // stride[1] + 1
    sizes = [out.shape[-1] for out in outs]
    columns = sum(sizes)
    _check_outs(outs, (batch, height, width))
    before.check(channels)
    integers = check_operands(x, weight, before, after)
    check_contiguous(weight, (columns, channels) if integers else (channels, columns), "weight")
    left = [apart(act, grids) for act, grids in zip(acts, quants, strict=True)] if quants and acts else acts
    end = after if len(outs) == 1 and not acts else _segmented(after, left, len(outs))
    after.check((batch, height, width, columns), torch.float32 if quants else outs[0].dtype)
    grids = _grids(outs, quants)

    pre = Prologue() if integers else before
    plain = not pre and after.residual is None
    flat, target = stride == (1, 1) and flat_pixels(x), target_of(x)
    # The copy engine starts each segment at its first column, which must lie on 16 bytes as the rows do.
    starts = (channels,) if integers else tuple(accumulate(sizes))
    copies = flat and describable(x, (stride_w,)) and describable(weight, starts) and x.dtype == weight.dtype
    pixels = height * width
    extent = (1, planned_batch(batch, target) * pixels, 1)
    problem = Gemm(extent, tuple(sizes), channels, weight.element_size(), plain=plain, tma=copies)
    floats = not (grids or after.quants or after.residual_quant)
    problem = replace(problem, streams=copies and weight.element_size() == 2 and not pre and floats)
    tile = tile or choose(problem, target)
    if tile.streamed:
        plain_tile = choose(replace(problem, streams=False), target)
        options: dict[str, Any] = {"stride": stride, "acts": acts, "before": before, "after": after}
        otherwise = partial(pointwise, x, weight, outs, **options, precision=precision, tile=plain_tile)
        if target.interpreted:  # no interpreter runs Gluon
            return otherwise()
        if not problem.streams or target != SM_90:
            raise ValueError("a streamed tile needs sm_90, 16 bits, and what a tile with a box needs, and no grid")
        extent = (1, batch * pixels, 1)
        assert tile.box is not None
        row_strides = batch * pixels * stride_w, stride_w, stride_w, 1
        row = Block(x, (*extent, channels), row_strides, (*tile.box, tile.block_k))
        matrix = Block(weight, tuple(weight.shape), (columns, 1), (tile.block_k, tile.block_n))
        place = streamed.place(extent, tile, 1, channels, Window((1, 1)))
        work = Work((Read(x), *after.reads), tuple(outs), {"weight": weight, **after.vectors})
        return streamed_launch(
            "pointwise", row, matrix, place, segments_of(outs, acts), end, tile, work, problem, otherwise
        )
    rows, block_m, block_n, block_k = batch * pixels, tile.block_m, tile.block_n, tile.block_k
    operands: dict[str, Any] = {"x": x, "weight": weight, "ahead": None}
    if tile.box is not None:
        if not copies:
            raise ValueError("a tile with a box needs x flat, x and weight of one type, and all segments on 16 bytes")
        operands["ahead"] = weight
        operands["x"] = Block(x, (rows, channels), (stride_w, 1), (block_m, block_k))
        block = (block_n, block_k) if integers else (block_k, block_n)
        operands["weight"] = Block(weight, tuple(weight.shape), (weight.shape[1], 1), block)
    blocks = cdiv(rows, block_m) * sum(cdiv(size, block_n) for size in sizes)
    tile = unsplit_beyond(tile, blocks)
    workspace = workspace_bytes(blocks, tile.splits, block_m, block_n)
    tensors, ends = {**operands, "workspace": unbound(workspace)}, {"pre": pre.argument(), "end": end.argument()}
    size, strides = (rows, pixels, width, channels, columns), (stride_n, stride_h * stride[0], stride_w * stride[1])
    segments = segments_of(outs, left)
    ways = {"STRIDE_C": stride_c, "TMA": tile.box is not None, "FLAT": flat, "SEGMENTED": len(outs) > 1}
    ways |= {"GRIDS": max(map(len, quants), default=0), "INTEGERS": integers, "CLEAR_K": clears(before.act)}
    read, program = Read(x, Window((1, 1), stride), (height, width)), problem.program(tile, after.residual is not None)
    return Launch(
        "pointwise",
        ours("pointwise"),
        (blocks, tile.splits),
        {
            **tensors,
            **ends,
            "size": size,
            "splits": tile.splits,
            "strides": strides,
            **segments,
            "grids": grids or (None,),
        },
        {
            **ways,
            "SPLIT": tile.splits > 1,
            "PRECISION": precision,
            "ALIGN_K": alignment(channels, *strides, itemsize=x.element_size()) if stride_c == 1 else 1,
            "ALIGN_N": alignment(*sizes, *segments["out_rows"], after.residual_row, itemsize=outs[0].element_size()),
            **tile.blocks("MNK"),
            "GROUP_M": 8,
        },
        tile,
        Work((read, *after.reads), tuple(outs), {"weight": weight, **before.vectors, **after.vectors}, program),
        problem,
        workspace,
    )


def _check_outs(outs: Sequence[torch.Tensor], pixels: tuple[int, int, int]) -> None:
    if not 1 <= len(outs) <= MAX_SEGMENTS:
        raise ValueError(f"{len(outs)} outputs, expected 1 to {MAX_SEGMENTS}")
    for i, out in enumerate(outs):
        check_shape(out, (*pixels, out.shape[-1]), f"outs[{i}]")
        if out.dtype != outs[0].dtype:
            raise ValueError(f"outs[{i}] is {out.dtype}, outs[0] {outs[0].dtype}: one launch stores one type")


def _grids(outs: Sequence[torch.Tensor], quants: Sequence[tuple[Quant, ...]]) -> tuple[float | int, ...]:
    """Those of each output: all last scales, their inverses and zeros; then these of the first grids of two, zeros for
    none."""
    if not quants:
        return ()
    if len(quants) != len(outs) or not all(quants):
        raise ValueError(f"{len(outs)} outputs, and {len(quants)} lists of grids: one each, and none empty, is wanted")
    for of_one in quants:
        check_grids(outs[0].dtype, of_one)
    none, most = Grid(0.0, 0.0, 0), max(map(len, quants))
    alike = [[*map(Grid.of, of_one[::-1]), none][:most] for of_one in quants]  # the last of each first
    turns = zip(*alike, *[alike[0]] * (MAX_SEGMENTS - len(quants)), strict=True)
    return tuple(value for turn in turns for field in zip(*turn, strict=True) for value in field)


def _segmented(after: Epilogue, acts: Sequence[Act], count: int) -> Epilogue:
    """What all segments end with: the one activation that some of them have."""
    if len(acts) not in (0, count):
        raise ValueError(f"{len(acts)} activations for {count} outputs")
    if after.residual is not None:
        raise ValueError("a residual needs a single output")
    if after.act or after.post or after.quants:
        raise ValueError("several outputs have their activations in acts and their grids in quants, one each")
    distinct = {act for act in acts if act}
    if len(distinct) > 1:
        raise ValueError(f"the activations of one launch must be equal or identity, got {sorted(map(str, distinct))}")
    return replace(after, act=distinct.pop() if distinct else IDENTITY)


def pack(*weights: torch.Tensor) -> torch.Tensor:
    """ONNX weights [C_i, K, 1, 1] of sibling convolutions as one matrix [K, sum C_i]."""
    return torch.cat([weight.flatten(1) for weight in weights]).t().contiguous()


def pack_integers(*weights: torch.Tensor) -> torch.Tensor:
    """Those of int8 as one matrix [sum C_i, K]."""
    return torch.cat([weight.flatten(1) for weight in weights])


def reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    outs: Sequence[torch.Tensor],
    *,
    stride: tuple[int, int] = (1, 1),
    acts: Sequence[Act] = (),
    quants: Sequence[tuple[Quant, ...]] = (),
    before: Prologue = Prologue(),
    after: Epilogue = Epilogue(),
    precision: str = "ieee",
) -> list[torch.Tensor]:
    """The same in float64; of `outs` only the channel counts are read."""
    sizes = [out.shape[-1] for out in outs]
    x = x[:, :: stride[0], :: stride[1]]
    matrix = weight.double()
    y = x.double() @ matrix.t() if weight.dtype == torch.int8 else before.reference(x) @ matrix
    parts = after.reference(y, y if quants else outs[0]).split(sizes, dim=-1)
    if acts:
        parts = [act.apply(part) for act, part in zip(acts, parts, strict=True)]
    return [on_grids(part, of_one, outs[0]) for part, of_one in zip(parts, quants, strict=True)] if quants else parts


def sample(
    shape: tuple[int, int, int, int],
    *sizes: int,
    x: View | None = None,
    stride: tuple[int, int] = (1, 1),
    before: Prologue = Prologue(),
    after: Epilogue = Epilogue(bias=True),
    integers: bool = False,
    stored: str = STORED,
    **arguments: Any,
) -> Sample:
    """A call on x of `shape` with an output of each of `sizes` channels. before, after: True where they are to have an
    operand. integers: x and weight are int8. stored: the type of the outputs."""
    n, h, w, channels = shape
    pixels, columns = (n, cdiv(h, stride[0]), cdiv(w, stride[1])), sum(sizes)
    beside = 16 if stored == "int8" else 8
    matrix = weight(columns, channels, dtype="int8") if integers else weight(channels, columns)
    after = epilogue(after, *pixels, columns)
    arguments |= {
        "x": x or image(*shape, dtype="int8" if integers else STORED),
        "weight": matrix,
        "outs": tuple(image(*pixels, size, dtype=stored, beside=beside + 8 * i) for i, size in enumerate(sizes)),
        "stride": stride,
        "before": prologue(before, channels),
        "after": sums(after, columns) if integers else after,
        "precision": "ieee",
    }
    return Sample(arguments, ("outs",))


def samples() -> Iterator[tuple[str, Sample]]:
    """Odd sizes, several outputs, every way to fetch, all ends."""
    small, boxed = Tile(16, 16, 16), Tile(32, 16, 16, box=(1, 32, 1))
    clip, acts = Act("clip", 0.0, 0.5), (RELU, IDENTITY, RELU, RELU)
    shapes = ((1, 7, 9, 37), 73), ((3, 13, 5, 3), 5), ((1, 1, 1, 64), 10), ((1, 5, 1, 1), 1)
    for (shape, size), tile in product(shapes, [None, small, Tile(64, 32, 32)]):
        yield "odd sizes", sample(shape, size, acts=(RELU,), tile=tile)
    for stride in ((2, 2), (1, 2), (3, 1)):
        yield "strides", sample((3, 7, 9, 24), 40, stride=stride, tile=Tile(32, 16, 16))
    for sizes, tile in product([(64, 48), (5, 73, 8), (17, 1, 20, 3)], [None, small]):
        for of_each in (acts[: len(sizes)], (clip,) * len(sizes)):
            yield "segments", sample((2, 5, 7, 24), *sizes, acts=of_each, tile=tile)
    yield "many tiles", sample((3, 13, 11, 16), 40, tile=small)  # 27 rows of them: three groups and a part of one
    for sizes in ((72,), (40, 8, 24), (16, 8, 8, 8)):
        yield "boxes", sample((3, 5, 7, 40), *sizes, acts=acts[: len(sizes)], tile=boxed)
    x = image(1, 5, 7, 40, beside=8)  # the channels behind it must not be read as its own
    before, after = Prologue(True, True, RELU), Epilogue(True, residual=True, post=RELU)
    yield "boxes of a slice", sample((1, 5, 7, 40), 24, x=x, before=before, after=after, tile=boxed)
    for splits, box in product([2, 4, 8], [None, (1, 16, 1)]):
        tile = Tile(16, 16, 16, box=box, splits=splits)
        yield "split", sample((1, 3, 7, 136), 24, 8, acts=(RELU, RELU), tile=tile)
    for act in (IDENTITY, RELU, clip, Act("silu"), Act("leaky_relu", 0.1)):
        for after in (Epilogue(True, act), Epilogue(True, act, residual=True, post=RELU)):
            yield "epilogue", sample((2, 5, 7, 19), 21, after=after)
    yield "slopes", sample((2, 5, 7, 19), 21, after=Epilogue(True, PRELU), tile=small)
    after, tile = Epilogue(True, RELU, residual=True, post=PRELU), Tile(16, 16, 16, splits=2)
    yield "slopes", sample((1, 3, 7, 40), 24, after=after, tile=tile)
    for scale, shift, act in product([None, True], [None, True], [IDENTITY, RELU, Act("sigmoid")]):
        yield "prologue", sample((1, 5, 7, 19), 21, before=Prologue(scale, shift, act), tile=small)
    for stride in ((1, 1), (2, 2)):
        yield "planes", sample((3, 7, 9, 20), 24, x=image(3, 7, 9, 20, planes=True), stride=stride, tile=small)
    yield from _integer_samples()


def _integer_samples() -> Iterator[tuple[str, Sample]]:
    """int8 in, out, or both; grids that some of the numbers leave."""
    small, grid, other = Tile(16, 16, 32), Quant(0.03125, -7), Quant(0.375, 100)
    read, ends = Prologue(quant=grid), Epilogue(True, RELU, quants=(Quant(100.0, -128),))
    for (shape, size), tile in product([((1, 7, 9, 37), 73), ((3, 13, 5, 3), 5), ((2, 4, 4, 64), 48)], [None, small]):
        yield "integers", sample(shape, size, integers=True, stored="int8", after=ends, tile=tile)
    yield "integers to numbers", sample((2, 5, 7, 24), 40, integers=True, after=Epilogue(True, RELU), tile=small)
    x = image(2, 9, 7, 40, dtype="int8", beside=8)
    after = Epilogue(True, RELU, True, RELU, None, (Quant(90.0, 3), Quant(60.0, -90)), grid, Quant(90.0, 9))
    yield "integers, all ends", sample((2, 9, 7, 40), 72, integers=True, stored="int8", x=x, stride=(2, 1), after=after)
    boxed, x = Tile(32, 16, 32, box=(1, 32, 1)), image(3, 5, 7, 48, dtype="int8", beside=16)
    yield "integers by boxes", sample((3, 5, 7, 48), 80, integers=True, stored="int8", x=x, after=ends, tile=boxed)
    split, acts = Tile(16, 16, 32, splits=4), (RELU, IDENTITY, RELU)
    yield "integers, split", sample((1, 3, 7, 272), 24, integers=True, stored="int8", after=ends, tile=split)
    of_each = ((Quant(80.0, -128),), (Quant(90.0, 5),), (Quant(120.0, 0),))
    of_two = tuple((*grids, Quant(100.0, 20)) for grids in of_each)
    options: dict[str, Any] = {"integers": True, "stored": "int8", "acts": acts, "tile": small}
    for quants in (of_each, of_two, (of_each[0], of_two[1], of_each[2])):
        yield "integers, segments", sample((2, 5, 7, 48), 16, 5, 40, quants=quants, **options)
    x, after = image(2, 5, 7, 19, dtype="int8", beside=2), Epilogue(True, quants=(Quant(0.1875, 3), other))
    yield "int8 and a float weight", sample((2, 5, 7, 19), 21, x=x, stored="int8", before=read, after=after, tile=small)
    two = Epilogue(True, residual=True, quants=(Quant(90.0, 3), Quant(60.0, -90)))
    yield "integers to numbers of a grid", sample((2, 5, 7, 19), 21, integers=True, after=two)


def streamed_samples() -> Iterator[Sample]:
    """Of the kernel on sm_90 whose blocks are all under way at once."""
    tile = Tile(64, 32, 64, 4, 2, box=(1, 64, 1), streamed=True)
    residual = Epilogue(True, residual=True, post=RELU)
    yield sample((1, 9, 17, 136), 40, after=residual, tile=replace(tile, num_stages=3))
    sizes, acts = (40, 8, 72, 16), (RELU, IDENTITY, RELU, RELU)
    yield sample((2, 5, 7, 200), *sizes, acts=acts, tile=replace(tile, splits=2))
    after, x = Epilogue(True, RELU, residual=True, post=PRELU), image(1, 8, 8, 264, beside=8)
    yield sample((1, 8, 8, 264), 72, x=x, after=after, tile=replace(tile, block_n=64, splits=3))


POINTWISE = Kernel(pointwise, reference, samples)
