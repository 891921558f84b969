"""Networks of faces and poses: a PRelu of a slope a channel behind every convolution, none a launch of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import optgraph
from optgraph.ir.graph import Graph
from optgraph.onnx.read import read
from optgraph.onnx.write import to_onnx
from optgraph.passes import pipeline
from tests.networks.test_cases import BOUNDS, WAYS, answers, expected
from tests.support.networks import kinds
from tests.support.run_checks import kernels_agree


class Face:
    """An ONNX model in the making. `opset` decides how slopes are shaped: [C] before 7, [C, 1, 1] since."""

    def __init__(self, opset: int = 17) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self._random = np.random.default_rng(5)

    def node(self, op_type: str, *inputs: str, **attrs: object) -> str:
        name = f"{op_type}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attrs))
        return name

    def weight(self, *shape: int, mean: float = 0.0, scale: float = 1.0) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = (mean + scale * self._random.standard_normal(shape)).astype(np.float32)
        return name

    def conv(self, x: str, cin: int, cout: int, kernel: int = 1, stride: int = 1, group: int = 1) -> str:
        w = self.weight(cout, cin // group, kernel, kernel, scale=(cin // group * kernel**2) ** -0.5)
        y = self.node("Conv", x, w, group=group, strides=[stride] * 2, pads=[kernel // 2] * 4)
        return y if self.opset < 7 else self.norm(y, cout)

    def norm(self, x: str, channels: int) -> str:
        scale, shift, mean = (self.weight(channels, mean=m, scale=0.2) for m in (1.0, 0.0, 0.0))
        variance = self.weight(channels, mean=1.0, scale=0.1)
        return self.node("BatchNormalization", x, scale, shift, mean, variance)

    def prelu(self, x: str, *shape: int) -> str:
        return self.node("PRelu", x, self.weight(*shape))

    def act(self, x: str, channels: int, ones: int = 2) -> str:
        return self.prelu(x, channels, *[1] * (0 if self.opset < 7 else ones))

    def block(self, x: str, channels: int, wide: int) -> str:
        """MobileFaceNet's: it widens, filters each channel, narrows, and adds."""
        y = self.act(self.conv(x, channels, wide), wide)
        y = self.act(self.conv(y, wide, wide, 3, group=wide), wide)
        return self.node("Add", x, self.conv(y, wide, channels))

    def done(self, y: str, size: int = 18) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "face",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, size, size])],
            [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def face(opset: int = 17) -> onnx.ModelProto:
    """A stem, two blocks of MobileFaceNet, one of ArcFace, and a dense head; 9 PRelus."""
    f = Face(opset)
    y = f.act(f.conv("x", 3, 16, 3, stride=2), 16)
    y = f.block(f.block(y, 16, 24), 16, 24)
    z = f.act(f.conv(y, 16, 24, 3), 24)
    y = f.act(f.node("Add", y, f.conv(z, 24, 16)), 16)
    y = f.node("Concat", f.conv(y, 16, 8), f.conv(y, 16, 8, 3), axis=1)
    y = f.node("GlobalAveragePool", f.act(y, 16))
    y = f.node("Gemm", f.node("Flatten", y), f.weight(12, 16, scale=0.3), f.weight(12), transB=1)
    return f.done(f.act(y, 12, ones=0))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("face") / "face.onnx"
    onnx.save(face(), file)
    return file


def fused(model: onnx.ModelProto) -> Graph:
    graph = read(model)
    pipeline.apply(graph, (*pipeline.SIMPLIFY, *pipeline.FUSE))
    return graph


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("way", WAYS)
def test_it_is_right(way: str, batch: int, path: Path, tmp_path: Path) -> None:
    feeds = {"x": np.random.default_rng(1).standard_normal((batch, 3, 18, 18)).astype(np.float32)}
    found = answers(way, path, feeds, tmp_path)
    for name, wanted in expected(onnx.load(path), feeds).items():
        assert np.linalg.norm(found[name] - wanted) <= BOUNDS["float32"] * np.linalg.norm(wanted)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_no_prelu_is_a_launch_of_its_own(dtype: str) -> None:
    model = face()
    prelus = sum(node.op_type == "PRelu" for node in model.graph.node)
    graph = fused(model)
    assert prelus == 9 and kinds(graph)["Binary"] == 0
    names = [call.kernel.name for call in kernels_agree(graph, dtype=dtype).calls]
    assert "elementwise" not in names and len(names) == 11
    origins = {name for node in graph.nodes() for name in node.origin}
    assert sum(name.startswith("PRelu") for name in origins) == prelus


def test_optimize_writes_them_back() -> None:
    model = to_onnx(optgraph.simplify(read(face())))
    types = [node.op_type for node in model.graph.node]
    assert types.count("PRelu") == 9 and "BatchNormalization" not in types
    assert kinds(fused(model))["Binary"] == 0


def test_slopes_of_opset_6() -> None:
    f = Face(opset=6)
    y = f.act(f.conv("x", 3, 9, 3), 9)
    graph = fused(f.done(f.act(f.conv(y, 9, 5), 5)))
    assert kinds(graph) == {"Conv": 2}
    assert [len(graph.constants[node.get("slope")]) for node in graph.nodes()] == [9, 5]
    kernels_agree(graph)


@pytest.mark.parametrize("shape", [(1, 9, 1, 1), (9, 1, 1)])
def test_slopes_a_channel(shape: tuple[int, ...]) -> None:
    f = Face()
    graph = fused(f.done(f.prelu(f.conv("x", 3, 9, 3), *shape), size=9))
    assert kinds(graph) == {"Conv": 1}
    kernels_agree(graph)


@pytest.mark.parametrize("shape", [(9,), (9, 1), (9, 9), (9, 9, 9), (1, 9, 9), (1, 1, 1, 9)])
def test_slopes_of_another_shape_stay(shape: tuple[int, ...]) -> None:
    f = Face()
    graph = fused(f.done(f.prelu(f.conv("x", 3, 9, 3), *shape), size=9))
    assert kinds(graph) == {"Conv": 1, "Binary": 1}
    kernels_agree(graph)


def test_one_slope_for_all_is_a_leaky_relu() -> None:
    f = Face()
    (node,) = fused(f.done(f.prelu(f.conv("x", 3, 9, 3), 1, 1, 1))).nodes()
    assert node.op.act.kind == "leaky_relu" and not node.get("slope")  # type: ignore[attr-defined]


def test_channels_last_as_tensorflow_has_it() -> None:
    f = Face()
    y = f.node("Transpose", f.conv("x", 3, 9, 3), perm=[0, 2, 3, 1])
    y = f.node("Transpose", f.prelu(y, 1, 1, 9), perm=[0, 3, 1, 2])
    graph = fused(f.done(f.prelu(f.conv(y, 9, 5), 5, 1, 1)))
    assert kinds(graph) == {"Conv": 2}
    kernels_agree(graph)
