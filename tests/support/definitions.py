"""Operators as their definitions, written out in numpy: what the torch reference is checked against."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch

from optgraph import ops
from optgraph.ir.op import Op
from optgraph.ir.values import Act, Pads, Pair

ACTS: dict[str, tuple[Act, Callable[[np.ndarray], np.ndarray]]] = {
    "identity": (Act(), lambda x: x),
    "relu": (Act("relu"), lambda x: np.maximum(x, 0)),
    "clip": (Act("clip", -0.5, 0.8), lambda x: np.minimum(np.maximum(x, -0.5), 0.8)),
    "leaky_relu": (Act("leaky_relu", 0.2), lambda x: np.where(x >= 0, x, 0.2 * x)),
    "sigmoid": (Act("sigmoid"), lambda x: 1 / (1 + np.exp(-x))),
    "silu": (Act("silu"), lambda x: x / (1 + np.exp(-x))),
    "tanh": (Act("tanh"), np.tanh),
    "hard_sigmoid": (Act("hard_sigmoid", 0.3, 0.4), lambda x: np.clip(0.3 * x + 0.4, 0, 1)),
    "hard_swish": (Act("hard_swish"), lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "elu": (Act("elu", 0.7, 1.0), lambda x: np.where(x > 0, x, 0.7 * np.expm1(np.minimum(x, 0)))),
    "selu": (Act("elu", 1.75, 1.05), lambda x: np.where(x > 0, 1.05 * x, 1.75 * np.expm1(np.minimum(x, 0)))),
    "celu": (Act("celu", 0.6), lambda x: np.maximum(x, 0) + np.minimum(0.6 * np.expm1(np.minimum(x, 0) / 0.6), 0)),
    "gelu": (Act("gelu"), lambda x: x / 2 * (1 + _erf(x * 0.5**0.5))),
    "gelu_tanh": (Act("gelu_tanh"), lambda x: x / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))),
    "softplus": (Act("softplus"), lambda x: np.logaddexp(x, 0)),
    "mish": (Act("mish"), lambda x: x * np.tanh(np.logaddexp(x, 0))),
    "softsign": (Act("softsign"), lambda x: x / (1 + np.abs(x))),
    "threshold": (Act("threshold", 0.4), lambda x: np.where(x > 0.4, x, 0)),
    "power": (Act("power", 3.0), lambda x: x**3),
    "abs": (Act("abs"), np.abs),
    "neg": (Act("neg"), np.negative),
    "exp": (Act("exp"), np.exp),
    "erf": (Act("erf"), lambda x: _erf(x)),
    "sin": (Act("sin"), np.sin),
    "cos": (Act("cos"), np.cos),
    "sign": (Act("sign"), np.sign),
    "floor": (Act("floor"), np.floor),
    "ceil": (Act("ceil"), np.ceil),
    "round": (Act("round"), np.round),
}
_erf = np.vectorize(math.erf)


ACT = {name: act for name, (act, _) in ACTS.items()}


FORMULA = {name: formula for name, (_, formula) in ACTS.items()}


WINDOWS = {
    "plain": {"stride": (1, 1), "pads": (0, 0, 0, 0), "dilation": (1, 1)},
    "symmetric": {"stride": (2, 1), "pads": (1, 2, 1, 2), "dilation": (1, 1)},
    "asymmetric": {"stride": (2, 2), "pads": (0, 1, 1, 2), "dilation": (1, 1)},
    "dilated": {"stride": (1, 2), "pads": (2, 1, 1, 2), "dilation": (2, 3)},
}


POOL_WINDOWS = {
    **WINDOWS,
    "symmetric": {"stride": (2, 1), "pads": (1, 1, 1, 1), "dilation": (1, 1)},
    "dilated_symmetric": {"stride": (1, 1), "pads": (1, 1, 1, 1), "dilation": (2, 3)},
    # More than half of the window, which torch's pools refuse.
    "wide": {"stride": (1, 1), "pads": (2, 1, 2, 1), "dilation": (1, 1)},
}


def rand(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def evaluate(op: Op, *inputs: np.ndarray | None) -> list[np.ndarray]:
    tensors = [None if array is None else torch.from_numpy(array.copy()) for array in inputs]
    return [t.numpy() for t in op.compute(tensors)]


def per_channel(vector: np.ndarray) -> np.ndarray:
    return vector[:, None, None]


def windows(
    x: np.ndarray, kernel: Pair, stride: Pair, pads: Pads, dilation: Pair
) -> Iterator[tuple[int, int, list[tuple[int, int, np.ndarray | None]]]]:
    """(i, j, taps) of every output pixel; a tap is (row, column, pixel [N, C]), the pixel None outside the image."""
    h, w = x.shape[2:]
    rows = (h + pads[0] + pads[2] - (kernel[0] - 1) * dilation[0] - 1) // stride[0] + 1
    columns = (w + pads[1] + pads[3] - (kernel[1] - 1) * dilation[1] - 1) // stride[1] + 1
    for i in range(rows):
        for j in range(columns):
            taps = []
            for r in range(kernel[0]):
                for s in range(kernel[1]):
                    p, q = i * stride[0] + r * dilation[0] - pads[0], j * stride[1] + s * dilation[1] - pads[1]
                    taps.append((r, s, x[:, :, p, q] if 0 <= p < h and 0 <= q < w else None))
            yield i, j, taps


def assemble(pixels: dict[tuple[int, int], np.ndarray]) -> np.ndarray:
    """[N, C, H, W] from its pixels."""
    h, w = max(i for i, _ in pixels) + 1, max(j for _, j in pixels) + 1
    return np.stack([np.stack([pixels[i, j] for j in range(w)], -1) for i in range(h)], -2)


def conv(x: np.ndarray, w: np.ndarray, window: dict[str, tuple[int, ...]], groups: int = 1) -> np.ndarray:
    """Convolution as its definition: a sum over taps, group by group."""
    cin, cout = w.shape[1], w.shape[0] // groups
    pixels = {}
    for i, j, taps in windows(x, w.shape[2:], window["stride"], window["pads"], window["dilation"]):
        out = np.zeros((x.shape[0], w.shape[0]))
        for r, s, pixel in taps:
            for g in range(groups if pixel is not None else 0):
                outs, ins = slice(g * cout, (g + 1) * cout), slice(g * cin, (g + 1) * cin)
                out[:, outs] += pixel[:, ins] @ w[outs, :, r, s].T
        pixels[i, j] = out
    return assemble(pixels)


def pool(x: np.ndarray, op: ops.Pool) -> np.ndarray:
    pixels = {}
    for i, j, taps in windows(x, op.kernel, op.stride, op.pads, op.dilation):
        inside = [pixel for *_, pixel in taps if pixel is not None]
        if op.mode == "max":
            pixels[i, j] = np.max(inside, axis=0)
        else:
            pixels[i, j] = np.sum(inside, axis=0) / (len(taps) if op.count_include_pad else len(inside))
    return assemble(pixels)
