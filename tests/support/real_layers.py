"""Launches of the size of real layers, in fp16: what must compile well for every GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from optgraph.ir.quant import Quant
from optgraph.ir.values import IDENTITY, PRELU, RELU, Act, Window
from optgraph.kernels import (
    bottleneck,
    conv2d,
    dense,
    depthwise,
    matmul,
    normalise,
    pointwise,
    pooled_pointwise,
    separable,
)
from optgraph.kernels.copy import COPY
from optgraph.kernels.elementwise import ELEMENTWISE
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.sample import Sample, image, prologue, vector, weight, window_sample
from optgraph.kernels.global_pool import GLOBAL_POOL
from optgraph.kernels.lrn import LRN
from optgraph.kernels.pad import PAD
from optgraph.kernels.pool import POOL
from optgraph.kernels.reduce import REDUCE
from optgraph.kernels.resample import RESAMPLE
from optgraph.kernels.softmax import SOFTMAX
from optgraph.tune.layers import Layer

MIDDLE = (8, 19, 19, 728)  # Xception's middle flow: 8 divides its channels, 16 does not
SAME, HALF = Window((3, 3), pads=(1, 1, 1, 1)), Window((3, 3), stride=(2, 2))
RELU_ADD = Epilogue(True, RELU, residual=True, post=RELU)
ADD_RELU = Epilogue(True, residual=True, post=RELU)
ENDS = Epilogue(True, RELU)
AFFINE = Prologue(True, True, RELU)


def real_layers() -> dict[str, Layer]:
    """By name. Outputs are slices of wider buffers, as in a concatenation."""
    found = (*_products(), *_windows(), *_rows(), *_integers())
    return {name: Layer(kernel, sample.typed("fp16")) for name, kernel, sample in found}


def _products() -> Iterator[tuple[str, Kernel, Sample]]:
    kernel = pointwise.POINTWISE
    yield "pointwise", kernel, pointwise.sample(MIDDLE, 728, after=RELU_ADD)
    acts = RELU, RELU, IDENTITY
    yield "pointwise_segments", kernel, pointwise.sample((8, 17, 17, 768), 192, 128, 192, acts=acts)
    acts = RELU, RELU, RELU, IDENTITY
    yield "pointwise_streamed", kernel, pointwise.sample((1, 17, 17, 768), 192, 192, 160, 192, acts=acts)
    yield "pointwise_split", kernel, pointwise.sample((1, 8, 8, 2048), 320, after=ENDS)

    kernel = conv2d.CONV2D
    window = Window((1, 7), pads=(0, 3, 0, 3))
    down = Window((7, 1), pads=(3, 0, 3, 0))
    yield "conv2d", kernel, conv2d.sample((8, 17, 17, 160), 192, down, after=ENDS)
    yield "conv2d_specialised", kernel, conv2d.sample((64, 17, 17, 192), 192, window, after=ENDS)
    yield "conv2d_specialised_wide", kernel, conv2d.sample((64, 73, 73, 80), 192, Window((3, 3)), after=ENDS)
    sample = conv2d.sample((64, 35, 35, 288), 384, HALF, after=Epilogue(True, PRELU, residual=True, post=RELU))
    yield "conv2d_specialised_strided", kernel, sample
    yield "conv2d_strided", kernel, conv2d.sample((8, 35, 35, 288), 384, HALF, after=ENDS)
    yield "conv2d_streamed", kernel, conv2d.sample((1, 35, 35, 64), 96, SAME, after=ADD_RELU)
    yield "conv2d_split", kernel, conv2d.sample((1, 8, 8, 448), 384, SAME, after=ENDS)
    x = image(8, 299, 299, 3, dtype="float32", planes=True)
    yield "conv2d_stem", kernel, conv2d.sample((8, 299, 299, 3), 32, HALF, x=x, after=ENDS)
    yield "conv2d_slopes", kernel, conv2d.sample((8, 28, 28, 128), 128, SAME, after=Epilogue(True, PRELU))

    kernel = bottleneck.BOTTLENECK
    shape = (64, 56, 56, 64)
    yield "bottleneck", kernel, bottleneck.sample(shape, 64, 256, SAME, x=image(*shape), mid=RELU, after=ADD_RELU)
    shape, window = (128, 17, 17, 160), Window((7, 1), pads=(3, 0, 3, 0))
    options = {"x": image(*shape), "rest_first": True, "mid": RELU}
    sample = bottleneck.sample(shape, 192, 1088, window, rest=192, after=ADD_RELU, **options)
    yield "bottleneck_rest", kernel, sample

    before = Prologue(act=RELU)
    yield "separable", separable.SEPARABLE, separable.sample(MIDDLE, 728, SAME, depthwise_bias=False, before=before)
    sample = separable.sample((64, 19, 19, 728), 728, SAME, depthwise_bias=False, before=before, after=RELU_ADD)
    yield "separable_specialised_narrow", separable.SEPARABLE, sample
    sample = separable.sample((64, 74, 74, 256), 256, SAME, depthwise_bias=False, before=before, after=RELU_ADD)
    yield "separable_specialised", separable.SEPARABLE, sample
    sample = separable.sample((8, 28, 28, 128), 128, HALF, mid=PRELU, after=Epilogue(True, PRELU))
    yield "separable_slopes", separable.SEPARABLE, sample
    sample = pooled_pointwise.sample((8, 147, 147, 64), 80, HALF, after=ENDS)
    yield "pooled_pointwise", pooled_pointwise.POOLED_POINTWISE, sample
    yield "dense", dense.DENSE, dense.sample(image(1, 2048), 1000, bias=True)
    yield "dense_batched", dense.DENSE, dense.sample(image(64, 2048), 1000, bias=True)
    heads, scores = image(8, 197, 12, 64), image(8, 12, 197, 197)  # attention, of 768 channels
    yield "matmul", matmul.MATMUL, matmul.sample(heads.permute(0, 2, 1, 3), heads.permute(0, 2, 3, 1), scores)
    rows = image(1, 1, 1576, 768)
    yield "matmul_weight", matmul.MATMUL, matmul.sample(rows, weight(1, 1, 768, 768), rows)


def _integers() -> Iterator[tuple[str, Kernel, Sample]]:
    """In int8, with grids of many kinds."""
    grid = Quant(0.1, -3)
    whole: dict[str, Any] = {"integers": True, "stored": "int8"}
    ends, add = (
        Epilogue(True, RELU, quants=(grid,)),
        replace(ADD_RELU, quants=(grid,), residual_quant=grid, before_residual=grid),
    )

    kernel = pointwise.POINTWISE
    yield "pointwise_int8", kernel, pointwise.sample((64, 28, 28, 128), 512, after=add, **whole)
    quants, acts = ((grid,), (Quant(0.2, 5),)), (RELU, IDENTITY)
    sample = pointwise.sample((8, 17, 17, 768), 192, 128, acts=acts, quants=quants, **whole)
    yield "pointwise_segments_int8", kernel, sample
    yield "pointwise_split_int8", kernel, pointwise.sample((1, 8, 8, 2048), 320, after=ends, **whole)

    kernel = conv2d.CONV2D
    yield "conv2d_int8", kernel, conv2d.sample((1, 112, 112, 128), 128, SAME, after=add, **whole)
    yield "conv2d_specialised_wide_int8", kernel, conv2d.sample((64, 35, 35, 96), 96, SAME, after=ends, **whole)
    window = Window((1, 7), pads=(0, 3, 0, 3))
    yield "conv2d_specialised_row_int8", kernel, conv2d.sample((64, 17, 17, 192), 192, window, after=ends, **whole)
    yield "conv2d_strided_int8", kernel, conv2d.sample((8, 35, 35, 288), 384, HALF, after=ends, **whole)
    window = Window((7, 7), (2, 2), (3, 3, 3, 3))
    yield "conv2d_stem_int8", kernel, conv2d.sample((8, 224, 224, 3), 64, window, after=ends, **whole)
    x = image(8, 299, 299, 3, dtype="float32", planes=True)
    sample = conv2d.sample((8, 299, 299, 3), 32, HALF, x=x, before=Prologue(onto=grid), after=ends, **whole)
    yield "conv2d_stem_rounding_int8", kernel, sample

    options: dict[str, Any] = {"before": Prologue(quant=grid), "stored": "int8"}
    sample = depthwise.sample((64, 56, 56, 144), SAME, after=ends, integers=True, **options)
    yield "depthwise_int8", depthwise.DEPTHWISE, sample
    shape = (64, 35, 35, 288)
    options |= {"x": image(*shape, dtype="int8"), "after": Epilogue(quants=(grid,))}
    yield "pool_max_int8", POOL, window_sample(shape, 288, HALF, kind="max", **options)
    yield "pool_average_int8", POOL, window_sample(shape, 288, SAME, kind="average", **options)
    x, out = image(64, 8, 8, 2048, dtype="int8"), image(64, 1, 1, 2048, dtype="int8")
    options = {"kind": "average", "before": Prologue(quant=grid), "quants": (grid,)}
    yield "global_pool_int8", GLOBAL_POOL, Sample({"x": x, "out": out, **options})
    x = image(64, 28, 28, 256, dtype="int8")
    grids = {"before": Prologue(quant=grid), "other_quant": grid, "quants": (grid,), "post": RELU}
    yield "elementwise_int8", ELEMENTWISE, Sample({"x": x, "out": x, "other": x, **grids})
    sample = dense.sample(image(64, 2048, dtype="int8"), 1000, bias=True, integers=True)
    yield "dense_int8", dense.DENSE, sample


def _windows() -> Iterator[tuple[str, Kernel, Sample]]:
    kernel = depthwise.DEPTHWISE
    yield "depthwise", kernel, depthwise.sample(MIDDLE, SAME, before=Prologue(act=RELU))
    window, after = Window((5, 5), pads=(2, 2, 2, 2)), Epilogue(True, residual=True)
    yield "depthwise_5x5_affine", kernel, depthwise.sample(MIDDLE, window, before=AFFINE, after=after)

    yield "pool_max", POOL, window_sample((8, 35, 35, 288), 288, HALF, kind="max", after=Epilogue())
    yield "pool_average", POOL, window_sample((8, 17, 17, 192), 192, SAME, kind="average", after=ENDS)
    for name, kind, shape, before in (
        ("global_pool", "average", (1, 8, 8, 2048), Prologue()),
        ("global_pool_max", "max", (64, 10, 10, 2048), Prologue()),
        ("global_pool_affine", "average", (8, 7, 7, 2048), AFFINE),
    ):
        out, before = image(shape[0], 1, 1, 2048), prologue(before, 2048)
        yield name, GLOBAL_POOL, Sample({"x": image(*shape), "out": out, "kind": kind, "before": before})


def _rows() -> Iterator[tuple[str, Kernel, Sample]]:
    x, out = image(8, 55, 55, 96), image(8, 55, 55, 96)
    yield "lrn", LRN, Sample({"x": x, "out": out, "size": 5, "alpha": 1e-4, "beta": 0.75, "bias": 1.0})
    yield "pad", PAD, Sample({"x": image(8, 112, 112, 64), "out": image(8, 114, 114, 64), "begin": (1, 1, 0)})
    yield "copy", COPY, Sample({"x": image(8, 28, 28, 240), "out": image(8, 28, 28, 240, beside=16)})
    x, out = image(8, 28, 28, 240), image(8, 56, 56, 240)
    tables = {"rows": vector(56 * 4), "columns": vector(56 * 4)}
    yield "resample", RESAMPLE, Sample({"x": x, "out": out, **tables})
    yield "resample_rows", RESAMPLE, Sample({"x": x, "out": image(8, 56, 28, 240), "rows": vector(56)})
    for name, columns in (("softmax", 1000), ("softmax_long", 50000)):
        yield name, SOFTMAX, Sample({"x": image(1, 1, 8, columns), "out": image(1, 1, 8, columns)})
    x, out = (image(8, 16, 4, 8400).permute(0, 2, 3, 1) for _ in range(2))
    yield "softmax_apart", SOFTMAX, Sample({"x": x, "out": out})
    yield "normalise", normalise.NORMALISE, normalise.sample(image(1, 8, 197, 768), image(1, 8, 197, 768))
    x, out = (image(8, 784, 1, 64).permute(0, 2, 3, 1) for _ in range(2))
    yield "normalise_apart", normalise.NORMALISE, normalise.sample(x, out, by_line=True)
    yield "reduce", REDUCE, Sample({"x": image(8, 1, 196, 768), "out": image(8, 1, 196, 1), "kind": "mean"})
    x, out = image(8, 49, 1, 768).permute(0, 2, 3, 1), image(8, 1, 1, 768).permute(0, 1, 3, 2)
    yield "reduce_apart", REDUCE, Sample({"x": x, "out": out, "kind": "max"})
    operands = {"x": image(*MIDDLE), "out": image(*MIDDLE), "other": image(*MIDDLE)}
    yield "elementwise", ELEMENTWISE, Sample({**operands, "before": prologue(AFFINE, 728), "post": RELU})
    operands = {"x": image(8, 1, 196, 768), "out": image(8, 1, 196, 768), "other": image(1, 1, 196, 1)}
    yield "elementwise_broadcast", ELEMENTWISE, Sample({**operands, "combine": "pow", "post": Act("gelu")})
