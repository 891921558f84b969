"""A random ONNX model in the making: what to add is drawn through hypothesis, so that a failure shrinks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import onnx
from hypothesis import strategies as st

from tests.support.nodes import Nodes


class Image(NamedTuple):
    """A value of N×C×H×W."""

    name: str
    c: int
    h: int
    w: int


@dataclass
class Builder(Nodes):
    """A model in the making: `draw` decides, `rng` fills weights of about unit gain."""

    draw: Any
    rng: np.random.Generator
    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    images: list[Image] = field(default_factory=list)  # what later blocks may read

    def pick(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def maybe(self) -> bool:
        return bool(self.draw(st.booleans()))

    def vector(self, *shape: int, positive: bool = False) -> str:
        """A constant of this shape; one that is there already, every other time, for constants are shared."""
        if not positive and self.maybe():
            for name, array in self.weights.items():
                if array.shape == shape and array.dtype == np.float32:
                    return name
        return self.weight(self.rng.uniform(0.5, 1.5, shape) if positive else self.rng.normal(0.3, 0.7, shape))

    def window(self, kernel: tuple[int, int], x: Image, dilations: bool = True) -> tuple[dict[str, Any], int, int]:
        """Attributes of a window, and the size of what comes out (without ceil_mode)."""
        sizes, stride, dilation = (x.h, x.w), [self.pick(1, 1, 2, 3), self.pick(1, 1, 2)], [1, 1]
        auto = self.pick("NOTSET", "NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
        if auto.startswith("SAME"):  # ONNX Runtime's pools want no stride over the kernel with it, its Conv no dilation
            stride = [min(s, max(k, 2)) for s, k in zip(stride, kernel, strict=True)]
        elif dilations:
            drawn = self.pick(1, 1, 2), self.pick(1, 1, 3)
            dilation = [d if (k - 1) * d < s else 1 for k, d, s in zip(kernel, drawn, sizes, strict=True)]
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
        attrs: dict[str, Any] = {"kernel_shape": kernel, "strides": stride}
        if dilations:
            attrs["dilations"] = dilation
        if auto.startswith("SAME"):
            return attrs | {"auto_pad": auto}, *(-(-s // t) for s, t in zip(sizes, stride, strict=True))
        pads = [0, 0, 0, 0]
        if auto == "NOTSET":  # short of a whole window, for one of nothing but padding has no maximum
            pads = [self.draw(st.integers(0, min(k - 1, 3))) for k in (*kernel, *kernel)]
        for i in range(2):  # the window fits
            pads[2 + i] += max(reach[i] - sizes[i] - pads[i] - pads[2 + i], 0)
        out = [(sizes[i] + pads[i] + pads[2 + i] - reach[i]) // stride[i] + 1 for i in range(2)]
        return attrs | ({"auto_pad": auto} if auto == "VALID" and not any(pads) else {"pads": pads}), out[0], out[1]

    def conv(self, x: Image, cout: int, kernel: tuple[int, int] = (1, 1), groups: int = 1, plain: bool = True) -> Image:
        """A convolution; `plain`: of stride 1 and the same size out."""
        fan = x.c // groups * kernel[0] * kernel[1]
        inputs = [x.name, self.weight(self.rng.normal(0, fan**-0.5, (cout, x.c // groups, *kernel)))]
        if self.maybe():
            inputs.append(self.vector(cout))
        attrs: dict[str, Any] = {"kernel_shape": kernel}
        if plain:
            before = [(k - 1) // 2 for k in kernel]
            attrs["pads"], h, w = [*before, *(k - 1 - b for k, b in zip(kernel, before, strict=True))], x.h, x.w
        else:
            attrs, h, w = self.window(kernel, x)
        return Image(self.node("Conv", *inputs, group=groups, **attrs), cout, h, w)

    def norm(self, x: Image) -> Image:
        scale, b, mean = (self.vector(x.c) for _ in range(3))
        return x._replace(name=self.node("BatchNormalization", x.name, scale, b, mean, self.vector(x.c, positive=True)))

    def act(self, x: Image) -> Image:
        kind = self.pick(
            "Relu", "Relu", "Clip", "Sigmoid", "LeakyRelu", "Silu", "HardSwish", "HardSigmoid", "Tanh", "Elu"
        )
        if kind == "Silu":
            return x._replace(name=self.node("Mul", x.name, self.node("Sigmoid", x.name)))
        bounds = [self.weight(0.0), self.weight(6.0)] if kind == "Clip" else []
        return x._replace(name=self.node(kind, x.name, *bounds))

    def tail(self, x: Image) -> Image:
        """Perhaps a batchnorm, perhaps an activation."""
        x = self.norm(x) if self.maybe() else x
        return self.act(x) if self.maybe() else x

    def add(self, x: Image, y: Image) -> Image:
        return x._replace(name=self.node("Add", *((x.name, y.name) if self.maybe() else (y.name, x.name))))

    def concat(self, parts: list[Image]) -> Image:
        name = self.node("Concat", *(p.name for p in parts), axis=1)
        return parts[0]._replace(name=name, c=sum(p.c for p in parts))
