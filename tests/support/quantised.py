"""Networks of 8 bits as tools write them: QuantizeLinear and DequantizeLinear around floating operators."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from tests.support.nodes import Nodes


class Sketch(Nodes):
    """An ONNX model in the making: weights of about unit gain, an image `x` of N×8×12×12 in and `y` out."""

    def __init__(self, seed: int = 0, opset: int = 17, channels: int = 8, size: int = 12) -> None:
        self.opset = opset
        self.rng = np.random.default_rng(seed)
        self.nodes = []
        self.weights = {}
        self.input: list[Any] = ["N", channels, size, size]

    def conv(self, x: str, cin: int, cout: int, kernel: int = 1, groups: int = 1, stride: int = 1) -> str:
        """A convolution that keeps height and width at stride 1; its channels differ in scale by a factor of 30."""
        shape = cout, cin // groups, kernel, kernel
        spread = self.rng.uniform(0.1, 3.0, (cout, 1, 1, 1))
        w = self.weight(self.rng.normal(size=shape) * spread * (cin // groups * kernel * kernel) ** -0.5)
        b = self.weight(self.rng.normal(0, 0.3, cout))
        attrs: dict[str, Any] = {
            "kernel_shape": [kernel] * 2,
            "pads": [kernel // 2] * 4,
            "strides": [stride] * 2,
            "group": groups,
        }
        return self.node("Conv", x, w, b, **attrs)

    def model(
        self, *outputs: str, dtype: int = TensorProto.FLOAT, types: dict[str, int] | None = None
    ) -> onnx.ModelProto:
        """The model that answers with these values, of floats of type `dtype` or of what `types` says."""
        proto = helper.make_graph(
            self.nodes,
            "sketch",
            [helper.make_tensor_value_info("x", dtype, self.input)],
            [helper.make_tensor_value_info(name, (types or {}).get(name, dtype), None) for name in outputs],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        onnx.checker.check_model(model)
        return model

    # ---- quantise and dequantise

    def quantize(self, x: str, scale: Any = 0.05, zero: Any = 0, dtype: Any = np.int8, **attrs: Any) -> str:
        return self.node("QuantizeLinear", x, self.weight(scale), self.weight(zero, dtype), **attrs)

    def dequantize(self, q: str, scale: Any = 0.05, zero: Any = 0, dtype: Any = np.int8, **attrs: Any) -> str:
        return self.node("DequantizeLinear", q, self.weight(scale), self.weight(zero, dtype), **attrs)

    def qdq(self, x: str, scale: Any = 0.05, zero: Any = 0, dtype: Any = np.int8, **attrs: Any) -> str:
        return self.dequantize(self.quantize(x, scale, zero, dtype, **attrs), scale, zero, dtype, **attrs)


def mixed_network(seed: int = 0) -> onnx.ModelProto:
    """Every kind of layer that quantisers put a grid around: a stem, a residual block, a separable convolution,
    branches that are concatenated, pools, a resize, a head."""
    s = Sketch(seed)

    def conv(x: str, cin: int, cout: int, kernel: int = 1, **attrs: int) -> str:
        return s.node("Relu", s.conv(x, cin, cout, kernel, **attrs))

    x = conv("x", 8, 16, 3)
    x = s.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    y = s.conv(conv(conv(x, 16, 8), 8, 8, 3), 8, 16)
    x = s.node("Relu", s.node("Add", x, y))
    x = s.node("Clip", s.conv(x, 16, 16, 3, groups=16), s.weight(0.0), s.weight(6.0))
    x = conv(x, 16, 12)
    # Counting the padding: means of 9 steps lie half way between two of them never, those of 4 and 6 often.
    pooled = s.node("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)
    x = s.node("Concat", conv(x, 12, 8), conv(x, 12, 8, 3), conv(pooled, 12, 8), axis=1)
    x = s.node("Resize", x, "", s.weight([1, 1, 2, 2]), mode="nearest")
    x = s.node("Flatten", s.node("GlobalAveragePool", conv(x, 24, 16)))
    w, b = s.weight(s.rng.normal(size=(16, 10)) / 2), s.weight(s.rng.normal(size=10))
    return s.model(s.node("Gemm", x, w, b))


class _Images(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, shape: list[Any], count: int) -> None:
        rng = np.random.default_rng(5)
        sizes = [1 if isinstance(d, str) else d for d in shape]
        self._feeds: Iterator[dict[str, np.ndarray]] = iter(
            [{"x": rng.normal(size=sizes).astype(np.float32)} for _ in range(count)]
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def quantised(model: onnx.ModelProto, folder: Path, **options: Any) -> onnx.ModelProto:
    """`model`, of one input x, as ONNX Runtime quantises it. options: of `quantize_static`."""
    path = folder / "quantised.onnx"
    shape = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    defaults = {"quant_format": QuantFormat.QDQ, "per_channel": True, "activation_type": QuantType.QUInt8}
    model = onnx.ModelProto.FromString(model.SerializeToString())  # which the quantiser changes
    quantize_static(model, path, _Images(shape, 4), **(defaults | {"weight_type": QuantType.QInt8} | options))
    return onnx.load(path)
