"""Small graphs for the tests of passes: a builder, the blocks of four networks, and the comparison of two graphs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch

from optgraph.api.net import Net
from optgraph.ir.graph import Graph, Node
from optgraph.ir.values import BATCH, RELU, Act, Value
from optgraph.ops import Activation, Affine, Binary, Concat, Conv, Pool
from optgraph.run import reference


class Builder:
    """Adds operators with random weights to `graph`, whose input is `x`; each method returns the new value."""

    def __init__(self, channels: int = 12, size: int = 9, seed: int = 0) -> None:
        self.graph = Graph()
        self.x = self.graph.add_input("x", Value((BATCH, channels, size, size)))
        self._random = np.random.default_rng(seed)

    def constant(self, *shape: int, scale: float = 1.0, mean: float = 0.0) -> str:
        return self.graph.add_constant((mean + scale * self._random.standard_normal(shape)).astype(np.float32))

    def conv(
        self,
        x: str,
        channels: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
        **fields: Any,
    ) -> str:
        """A convolution that keeps height and width at stride 1."""
        kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
        cin = int(self.graph.shape(x)[1]) // groups
        w = self.constant(channels, cin, kh, kw, scale=(cin * kh * kw) ** -0.5)
        b = self.constant(channels) if bias else ""
        pads = (kh // 2, kw // 2, kh // 2, kw // 2)
        op = Conv(kernel=(kh, kw), stride=(stride, stride), pads=pads, groups=groups, **fields)
        return self.graph.add(op, (x, w, b), origin=(f"conv_{w}",)).output

    def depthwise(self, x: str, kernel: int = 3, stride: int = 1, bias: bool = False) -> str:
        channels = int(self.graph.shape(x)[1])
        return self.conv(x, channels, kernel, stride, groups=channels, bias=bias)

    def act(self, x: str, act: Act = RELU) -> str:
        return self.graph.add(Activation(act=act), (x,), origin=(f"act_{x}",)).output

    def prelu(self, x: str) -> str:
        """Slopes of both signs and over 1, as ONNX broadcasts them."""
        channels, *sides = self.graph.shape(x)[1:]
        slope = self.constant(int(channels), *[1] * len(sides))
        return self.graph.add(Binary(fn="prelu"), (x, slope), origin=(f"prelu_{x}",)).output

    def affine(self, x: str) -> str:
        channels = int(self.graph.shape(x)[1])
        scale, shift = self.constant(channels, mean=1.0, scale=0.3), self.constant(channels)
        return self.graph.add(Affine(), (x, scale, shift), origin=(f"affine_{x}",)).output

    def add(self, x: str, y: str) -> str:
        return self.graph.add(Binary(fn="add"), (x, y), origin=(f"add_{x}_{y}",)).output

    def pool(self, x: str, mode: str = "average", stride: int = 1, count_include_pad: bool = False) -> str:
        op = Pool(
            kernel=(3, 3), stride=(stride, stride), pads=(1, 1, 1, 1), mode=mode, count_include_pad=count_include_pad
        )
        return self.graph.add(op, (x,), origin=(f"pool_{x}",)).output

    def concat(self, *values: str) -> str:
        return self.graph.add(Concat(axis=1), values, origin=("concat",)).output

    def done(self, *outputs: str) -> Graph:
        """The graph with `outputs` as its outputs y0, y1, ..."""
        self.graph.outputs = {f"y{i}": value for i, value in enumerate(outputs)}
        self.graph.verify()
        return self.graph


def inception_a(count_include_pad: bool = False) -> Graph:
    """Inception V3's block A: 1×1, 1×1 → 5×5, 1×1 → 3×3 → 3×3 and average pool → 1×1, concatenated."""
    b = Builder(channels=12)

    def conv(x: str, channels: int, kernel: int = 1) -> str:
        return b.act(b.conv(x, channels, kernel))

    pooled = conv(b.pool(b.x, count_include_pad=count_include_pad), 4)
    branches = (conv(b.x, 8), conv(conv(b.x, 6), 8, 5), conv(conv(conv(b.x, 5), 7, 3), 7, 3), pooled)
    return b.done(b.act(b.conv(b.concat(*branches), 3)))


def xception(swap: bool = False) -> Graph:
    """Xception's entry block with its strided skip, then a middle block. `swap` swaps the additions' operands."""
    b = Builder(channels=8)

    def separable(x: str, channels: int) -> str:
        return b.conv(b.depthwise(x), channels)

    def add(x: str, y: str) -> str:
        return b.add(y, x) if swap else b.add(x, y)

    x = b.conv(b.x, 8, 3)
    y = separable(b.act(separable(b.act(x), 10)), 10)
    skip = b.conv(x, 10, stride=2)
    x = add(b.pool(y, "max", stride=2), skip)
    y = x
    for _ in range(3):
        y = separable(b.act(y), 10)
    return b.done(b.act(separable(add(y, x), 6)))


def inception_resnet() -> Graph:
    """Inception-ResNet-v2's block 35: three branches, concatenated, projected by a 1×1 and added to the input."""
    b = Builder(channels=12)

    def conv(x: str, channels: int, kernel: int = 1) -> str:
        return b.act(b.conv(x, channels, kernel))

    x = conv(b.x, 12, 3)
    branches = (conv(x, 4), conv(conv(x, 4), 4, 3), conv(conv(conv(x, 4), 5, 3), 6, 3))
    x = b.act(b.add(x, b.conv(b.concat(*branches), 12)))
    return b.done(conv(x, 6))


def preactivation_resnet() -> Graph:
    """Two blocks of ResNet v2: affine and ReLU before the convolutions, the first with a projected shortcut."""
    b = Builder(channels=8)

    def residual(x: str) -> str:
        y = b.act(b.conv(x, 4))
        return b.conv(b.act(b.conv(y, 4, 3)), 8)

    x = b.conv(b.x, 8, 3)
    before = b.act(b.affine(x))
    x = b.add(b.conv(before, 8), residual(before))
    x = b.add(x, residual(b.act(b.affine(x))))
    return b.done(x)


def kinds(graph: Graph) -> Counter[str]:
    """How many nodes there are of each kind."""
    return Counter(node.op.kind for node in graph.nodes())


def of_kind(graph: Graph, kind: str) -> list[Node]:
    """The nodes of a kind, in topological order."""
    return [node for node in graph.nodes() if node.op.kind == kind]


def on(net: Net, backend: str) -> Net:
    """The same net on another backend: `compile` makes the same graphs for every one, which takes longer than this."""
    return net if backend == net.backend else Net(net.simplified, net.fused, net.source, backend, net.dtype)


def difference(before: Graph, after: Graph) -> float:
    """The largest relative L2 distance, in float64, between the outputs of two graphs on the same random input.

    Fails if a graph is broken, or if an output hardly depends on the input, which would make the figure meaningless.
    """
    after.verify()
    generator = torch.Generator().manual_seed(1)
    shape = [2 if dim == BATCH else int(dim) for dim in before.shape("x")]
    first, second = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    expected, other = (reference.run(before, {"x": x}, torch.float64) for x in (first, second))
    got = reference.run(after, {"x": first}, torch.float64)
    assert got.keys() == expected.keys()
    for name, y in expected.items():
        assert (other[name] - y).norm() > 0.1 * y.norm(), f"output '{name}' hardly depends on the input"
    return max(float((got[name] - y).norm() / y.norm()) for name, y in expected.items())
