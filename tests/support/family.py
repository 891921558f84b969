"""The networks around the three, as ONNX models without weights: exporters' files, the onnx package's own, and by hand
from their papers. `filled` gives them calibrated weights.

`width` divides the channels of a paper's network: the structure and the image sizes stay, the weights get few.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from optgraph.onnx.calibrate import calibrate
from optgraph.onnx.stripped import STRIPPED_ABOVE, bare, store_fills
from tests.support.paths import GRAPHS

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def exported(name: str) -> onnx.ModelProto:
    """A file of examples/graphs, its weights stripped."""
    return onnx.load(GRAPHS / f"{name}.onnx", load_external_data=False)


def light(name: str) -> onnx.ModelProto:
    """A model of the onnx package, its weights stripped."""
    return store_fills(onnx.load(LIGHT / f"light_{name}.onnx"))


def filled(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with calibrated weights, the small ones too."""
    return calibrate(model, size=64, refill=True)


def resized(model: onnx.ModelProto, size: int) -> onnx.ModelProto:
    """`model` for images of another height and width."""
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim in dims if len(dims) == 4 else ():
            if dim.dim_value > 3:
                dim.dim_value = size
    return model


class Net:
    """Adds ONNX nodes, the input being `x`; each method returns the new value."""

    def __init__(self, size: int | str, channels: int = 3) -> None:
        width = "W" if isinstance(size, str) else size
        self.input = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", channels, size, width])
        self.channels = {"x": channels}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self._random = np.random.default_rng(0)

    def node(self, op: str, *inputs: str, channels: int = 0, **attributes: Any) -> str:
        output = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        self.channels[output] = channels or self.channels.get(inputs[0], 0)
        return output

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int) -> str:
        if np.prod(shape) <= STRIPPED_ABOVE:
            return self.constant(self._random.standard_normal(shape).astype(np.float32))
        self.constants.append(bare(f"c{len(self.constants)}", shape, TensorProto.FLOAT))
        return self.constants[-1].name

    def conv(
        self, x: str, channels: int, kernel: int = 1, stride: int = 1, pad: int | None = None, groups: int = 1
    ) -> str:
        """With a bias; keeps height and width at stride 1 unless `pad` says otherwise."""
        w = self.weight(channels, self.channels[x] // groups, kernel, kernel)
        pads = [kernel // 2 if pad is None else pad] * 4
        options = {"strides": [stride, stride], "pads": pads, "group": groups}
        return self.node("Conv", x, w, self.weight(channels), channels=channels, **options)

    def bn(self, x: str) -> str:
        vectors = [self.constant(np.full(self.channels[x], v, np.float32)) for v in (1, 0, 0, 1)]
        return self.node("BatchNormalization", x, *vectors)

    def max_pool(self, x: str, kernel: int = 3, stride: int = 2) -> str:
        return self.node("MaxPool", x, kernel_shape=[kernel, kernel], strides=[stride, stride])

    def dense(self, x: str, inputs: int, outputs: int) -> str:
        w = self.weight(outputs, inputs)
        return self.node("Gemm", x, w, self.weight(outputs), channels=outputs, transB=1)

    def classifier(self, x: str, classes: int = 10) -> str:
        """Global average, flattened, and one dense layer."""
        flat = self.node("Flatten", self.node("GlobalAveragePool", x))
        return self.dense(flat, self.channels[x], classes)

    def done(self, *outputs: str) -> onnx.ModelProto:
        values = [onnx.ValueInfoProto(name=name) for name in outputs]
        graph = helper.make_graph(self.nodes, "family", [self.input], values, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def alexnet(width: int = 1) -> onnx.ModelProto:
    """Krizhevsky et al. 2012 as Caffe has it: convolutions of two groups, LRN, Dropout with a mask nobody reads."""
    net = Net(227)
    x = net.node("Relu", net.conv("x", 96 // width, 11, 4, 0))
    x = net.max_pool(net.node("LRN", x, size=5, alpha=1e-4, beta=0.75))
    x = net.node("Relu", net.conv(x, 256 // width, 5, groups=2))
    x = net.max_pool(net.node("LRN", x, size=5, alpha=1e-4, beta=0.75))
    for channels, groups in ((384, 1), (384, 2), (256, 2)):
        x = net.node("Relu", net.conv(x, channels // width, 3, groups=groups))
    inputs = 256 // width * 36
    x = net.node("Flatten", net.max_pool(x))
    for _ in range(2):
        x = net.node("Relu", net.dense(x, inputs, 4096 // width))
        net.nodes.append(helper.make_node("Dropout", [x], [f"{x}.dropped", f"{x}.mask"]))
        x, inputs = f"{x}.dropped", 4096 // width
    return net.done(net.node("Softmax", net.dense(x, inputs, 1000 // width)))


def overfeat(width: int = 1) -> onnx.ModelProto:
    """OverFeat, the fast model: Sermanet et al. 2013 (arXiv 1312.6229), table 1."""
    net = Net(231)
    x = net.max_pool(net.node("Relu", net.conv("x", 96 // width, 11, 4, 0)), 2)
    x = net.max_pool(net.node("Relu", net.conv(x, 256 // width, 5, 1, 0)), 2)
    for channels in (512, 1024, 1024):
        x = net.node("Relu", net.conv(x, channels // width, 3))
    x = net.node("Flatten", net.max_pool(x, 2))
    inputs = 1024 // width * 36
    for outputs in (3072 // width, 4096 // width):
        x, inputs = net.node("Relu", net.dense(x, inputs, outputs)), outputs
    return net.done(net.dense(x, inputs, 1000 // width))


def vgg16(width: int = 1) -> onnx.ModelProto:
    """Simonyan and Zisserman 2014 (arXiv 1409.1556), table 1, column D."""
    net = Net(224)
    x = "x"
    for channels, repeats in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(repeats):
            x = net.node("Relu", net.conv(x, channels // width, 3))
        x = net.max_pool(x, 2)
    x, inputs = net.node("Flatten", x), 512 // width * 49
    for _ in range(2):
        x, inputs = net.node("Relu", net.dense(x, inputs, 4096 // width)), 4096 // width
    return net.done(net.dense(x, inputs, 1000 // width))


def mobilenet_v2(size: int = 224) -> onnx.ModelProto:
    """Sandler et al. 2018 (arXiv 1801.04381), table 2."""
    net = Net(size)
    bounds = [net.constant(np.array(v, np.float32)) for v in (0, 6)]

    def layer(x: str, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> str:
        return net.node("Clip", net.bn(net.conv(x, channels, kernel, stride, groups=groups)), *bounds)

    x = layer("x", 32, 3, 2)
    blocks = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, channels, repeats, first_stride in blocks:
        for stride in (first_stride, *[1] * (repeats - 1)):
            wide = net.channels[x] * expansion
            y = layer(x, wide) if expansion > 1 else x
            y = net.bn(net.conv(layer(y, wide, 3, stride, groups=wide), channels))
            x = net.node("Add", x, y) if stride == 1 and net.channels[x] == channels else y
    return net.done(net.classifier(layer(x, 1280), 1000))


def resnext(size: int = 32) -> onnx.ModelProto:
    """Two bottlenecks of Xie et al. 2016 (arXiv 1611.05431): 3×3 convolutions of eight groups."""
    net = Net(size)

    def layer(x: str, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> str:
        return net.node("Relu", net.bn(net.conv(x, channels, kernel, stride, groups=groups)))

    x = layer("x", 32, 3)
    for channels, stride in ((64, 2), (64, 1)):
        y = layer(layer(x, 32), 32, 3, stride, groups=8)
        y = net.bn(net.conv(y, channels))
        x = x if net.channels[x] == channels else net.bn(net.conv(x, channels, 1, stride))
        x = net.node("Relu", net.node("Add", y, x))
    return net.done(net.classifier(x))


def efficientnet(size: int = 32) -> onnx.ModelProto:
    """Two MBConv blocks of Tan and Le 2019 (arXiv 1905.11946): SiLU, squeeze-and-excite."""
    net = Net(size)

    def silu(x: str) -> str:
        return net.node("Mul", x, net.node("Sigmoid", x))

    x = silu(net.bn(net.conv("x", 16, 3, 2)))
    for channels, kernel, stride in ((24, 3, 2), (24, 5, 1)):
        wide = 6 * net.channels[x]
        y = silu(net.bn(net.conv(x, wide)))
        y = silu(net.bn(net.conv(y, wide, kernel, stride, groups=wide)))
        gate = silu(net.conv(net.node("GlobalAveragePool", y), wide // 24))
        y = net.node("Mul", y, net.node("Sigmoid", net.conv(gate, wide)))
        y = net.bn(net.conv(y, channels))
        x = net.node("Add", y, x) if stride == 1 else y
    return net.done(net.classifier(silu(net.bn(net.conv(x, 64)))))


def auto_padded(mode: str, size: int = 23) -> onnx.ModelProto:
    """Strided windows of even and odd size whose padding the graph leaves to `auto_pad`."""
    net = Net(size)
    w, v = net.weight(8, 3, 3, 3), net.weight(8, 8, 4, 4)
    x = net.node("Relu", net.node("Conv", "x", w, channels=8, auto_pad=mode, strides=[2, 2]))
    x = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], auto_pad=mode)
    x = net.node("Conv", x, v, auto_pad=mode)
    x = net.node("AveragePool", x, kernel_shape=[2, 2], auto_pad=mode)
    return net.done(net.classifier(x))


def open_size() -> onnx.ModelProto:
    """Height and width left open."""
    net = Net("H")
    x = net.node("Relu", net.bn(net.conv("x", 8, 3, 2)))
    x = net.node("Concat", net.conv(x, 5), net.max_pool(x, 1, 1), channels=13, axis=1)
    return net.done(net.classifier(net.node("Relu", net.conv(x, 6, 5))))


def computed_biases(size: int = 16) -> onnx.ModelProto:
    """As torch's dynamo exporter writes it unoptimised: each bias cast like the input and expanded to a Shape."""
    net = Net(size)

    def bias(like: str, weight: str, channels: int) -> str:
        begin, end = (net.constant(np.array([i], np.int64)) for i in (0, 1))
        length = net.node("Slice", net.node("Shape", weight), begin, end)
        number = net.node("CastLike", net.constant(np.array([0.25 * channels], np.float64)), like)
        return net.node("Expand", number, length)

    def conv(x: str, channels: int, kernel: int) -> str:
        w = net.weight(channels, net.channels[x], kernel, kernel)
        b = bias(x, w, channels)
        return net.node("Conv", x, w, b, channels=channels, pads=[kernel // 2] * 4)

    x = net.node("Relu", conv(net.node("Relu", conv("x", 6, 3)), 7, 1))
    flat = net.node("Flatten", net.node("GlobalAveragePool", x))
    w = net.weight(4, 7)
    return net.done(net.node("Gemm", flat, w, bias(flat, w, 4), transB=1))


# network -> (exporter, builder) of each of its models
NETWORKS: dict[str, Sequence[tuple[str, Callable[[], onnx.ModelProto]]]] = {
    "AlexNet": [("torch dynamo", partial(exported, "dynamo_alexnet")), ("Caffe2", partial(light, "bvlc_alexnet"))],
    "ZFNet": [("Caffe2", partial(light, "zfnet512"))],
    "OverFeat (fast)": [("by hand", overfeat)],
    "VGG-16": [("by hand", vgg16)],
    "VGG-19": [("torch dynamo", partial(exported, "dynamo_vgg19")), ("Caffe2", partial(light, "vgg19"))],
    "Inception v1 (GoogLeNet)": [
        ("torch", partial(exported, "torch_googlenet")),
        ("Caffe2, LRN", partial(light, "inception_v1")),
    ],
    "Inception v2": [("Caffe2", partial(light, "inception_v2"))],
    "Inception v4": [("torch", partial(exported, "torch_inception_v4"))],
    "ResNet-50": [("torch", partial(exported, "torch_resnet50")), ("Caffe2", partial(light, "resnet50"))],
    "ResNet-50 v2": [("Keras on torch", partial(exported, "keras_torch_resnet50_v2"))],
    "MobileNet v1": [("torch dynamo", partial(exported, "dynamo_mobilenet_v1"))],
    "MobileNet v2": [("by hand", mobilenet_v2)],
    "DenseNet-121": [("Caffe2", partial(light, "densenet121"))],
    "SqueezeNet": [("Caffe2", partial(light, "squeezenet"))],
    "ShuffleNet": [("Caffe2", partial(light, "shufflenet"))],
    "ResNeXt, two blocks": [("by hand", resnext)],
    "EfficientNet, two blocks": [("by hand", efficientnet)],
}
