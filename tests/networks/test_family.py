"""The networks around the three: what each fuses to, what falls back and why, and whether the answers are right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnx
import pytest

import optgraph
from optgraph import ops
from optgraph.base.errors import ModelError
from optgraph.compare.verify import verify_net
from optgraph.ir.graph import Graph
from optgraph.onnx.read import read
from optgraph.passes import pipeline
from optgraph.plan.lowering import lower
from tests.support import family
from tests.support.networks import on

BACKENDS = ("torch", "onnxruntime", "interpret")
LAUNCHES = {
    ("AlexNet", "torch dynamo"): 11,
    ("AlexNet", "Caffe2"): 14,
    ("ZFNet", "Caffe2"): 14,
    ("OverFeat (fast)", "by hand"): 11,
    ("VGG-16", "by hand"): 21,
    ("VGG-19", "torch dynamo"): 24,
    ("VGG-19", "Caffe2"): 25,
    ("Inception v1 (GoogLeNet)", "torch"): 53,
    ("Inception v1 (GoogLeNet)", "Caffe2, LRN"): 57,
    ("Inception v2", "Caffe2"): 58,
    ("Inception v4", "torch"): 125,
    ("ResNet-50", "torch"): 55,
    ("ResNet-50", "Caffe2"): 56,
    ("ResNet-50 v2", "Keras on torch"): 57,
    ("MobileNet v1", "torch dynamo"): 16,
    ("MobileNet v2", "by hand"): 37,
    ("DenseNet-121", "Caffe2"): 126,
    ("SqueezeNet", "Caffe2"): 28,
    ("ShuffleNet", "Caffe2"): 72,
    ("ResNeXt, two blocks", "by hand"): 10,
    ("EfficientNet, two blocks", "by hand"): 18,
}


def fused(model: onnx.ModelProto) -> Graph:
    graph = read(model, allow_stripped=True)
    pipeline.apply(graph, pipeline.SIMPLIFY + pipeline.FUSE)
    return graph


def test_every_network_is_expected() -> None:
    models = {(network, exporter) for network, found in family.NETWORKS.items() for exporter, _ in found}
    assert models == set(LAUNCHES)


@pytest.mark.parametrize(("network", "exporter"), LAUNCHES)
def test_fuses_to_kernels(network: str, exporter: str) -> None:
    graph = fused(dict(family.NETWORKS[network])[exporter]())
    plan = lower(graph)
    assert plan.fallbacks == ()
    assert sum(plan.launches_by_kernel().values()) == LAUNCHES[network, exporter]
    kinds = Counter(node.op.kind for node in graph.nodes())
    assert not kinds.keys() & {"BatchNorm", "Affine", "Activation", "Opaque", "Reduce", "Cast", "Identity"}
    # What squeeze-and-excite multiplies is one number a channel of an image.
    assert kinds["Binary"] == (2 if network.startswith("EfficientNet") else 0)
    assert all(all(node.op.in_place) for node in graph.nodes() if isinstance(node.op, ops.Concat))


def test_a_light_model_imports_as_it_comes() -> None:
    """Weights of 0.02 by ConstantOfShape, biases of the classifier too, Dropout with a mask."""
    for name in ("squeezenet", "inception_v1"):
        graph = read(family.LIGHT / f"light_{name}.onnx")
        assert not any(isinstance(node.op, ops.Opaque) for node in graph.nodes())


def exported(name: str) -> onnx.ModelProto:
    return family.resized(family.exported(name), 64)


NUMERIC: dict[str, tuple[Callable[[], onnx.ModelProto], tuple[str, ...]]] = {
    "alexnet": (partial(family.alexnet, 8), BACKENDS),
    "overfeat": (partial(family.overfeat, 16), BACKENDS),
    "vgg16": (partial(family.vgg16, 32), ("torch",)),
    "mobilenet v1": (partial(exported, "dynamo_mobilenet_v1"), BACKENDS),
    "mobilenet v2": (partial(family.mobilenet_v2, 64), BACKENDS),
    "googlenet": (partial(exported, "torch_googlenet"), BACKENDS),
    "resnet v1": (partial(exported, "torch_resnet50"), ("torch",)),
    "resnet v2": (partial(exported, "keras_torch_resnet50_v2"), ("interpret",)),
    "squeezenet": (lambda: family.resized(family.light("squeezenet"), 64), BACKENDS),
    "shufflenet": (partial(family.light, "shufflenet"), ("onnxruntime",)),
    "resnext": (family.resnext, BACKENDS),
    "efficientnet": (family.efficientnet, BACKENDS),
    "same upper": (partial(family.auto_padded, "SAME_UPPER"), BACKENDS),
    "same lower": (partial(family.auto_padded, "SAME_LOWER"), BACKENDS),
    "computed biases": (family.computed_biases, BACKENDS),
}


@pytest.mark.parametrize("name", NUMERIC)
def test_agrees_with_onnx_runtime(name: str, tmp_path: Path) -> None:
    build, backends = NUMERIC[name]
    path = tmp_path / "model.onnx"
    onnx.save(family.filled(build()), path)
    net = optgraph.compile(path, backend=backends[0])
    for backend in backends:
        found = verify_net(on(net, backend), path)
        assert found.ok, f"{backend}: {found.reason}"
        assert found.regions_compared >= 0.9 * found.regions_total


@pytest.mark.parametrize("size", [(33, 47), (64, 20)])
def test_height_and_width_are_fixed_when_compiled(size: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(family.filled(family.open_size()), path)
    with pytest.raises(ModelError, match=r"leaves dimension 2 open \(N,3,\?,\?\): fix it with --input-shape N,3"):
        optgraph.compile(path)
    net = optgraph.compile(path, backend=BACKENDS[0], input_shape=("N", 3, *size))
    for backend in BACKENDS:
        found = verify_net(on(net, backend), path, batch=2)
        assert found.ok, f"{backend}: {found.reason}"


def test_computed_biases_fold_away() -> None:
    assert Counter(node.op_type for node in family.computed_biases().graph.node)["Expand"] == 3
    kinds = Counter(node.op.kind for node in fused(family.computed_biases()).nodes())
    assert kinds == {"Conv": 2, "GlobalPool": 1, "Reshape": 1, "Gemm": 1}
