"""The three networks whole, from real exporters' files: every backend against ONNX Runtime on the original.

Smaller images than 299 pixels keep this quick; `python -m benchmarks.networks --interpret` does the same at full size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import optgraph
from optgraph.base.images import images
from optgraph.compare.verify import verify_net
from optgraph.onnx.calibrate import calibrate
from optgraph.onnx.sessions import session
from tests.support.networks import on
from tests.support.paths import GRAPHS

BOUND = 1e-5
# Odd at most depths; Inception V3 takes no fewer than 75. Of 107, the answers of some networks, whose weights are
# random, hardly depend on the image.
SIZE = 139
FILES = sorted(
    path.stem
    for network in ("inception_v3", "inception_resnet_v2", "xception")
    for path in GRAPHS.glob(f"*_{network}.onnx")
)


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The named graph, its input SIZE pixels wide and high, with calibrated weights."""
    proto = onnx.load(GRAPHS / f"{request.param}.onnx", load_external_data=False)
    for dim in proto.graph.input[0].type.tensor_type.shape.dim:
        if dim.dim_value == 299:
            dim.dim_value = SIZE
    path = tmp_path_factory.mktemp("models") / f"{request.param}.onnx"
    onnx.save(calibrate(proto), path)
    return path


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("model", FILES, indirect=True)
def test_torch_and_onnxruntime_agree_with_the_original(model: Path) -> None:
    original = session(str(model), optimize=False)
    name = original.inputs[0]
    net = optgraph.compile(model, backend="torch")
    nets = {"torch": net, "onnxruntime": on(net, "onnxruntime")}
    shape = [2 if isinstance(d, str) else d for d in net.inputs[name].shape]
    answers = []
    for seed in (1, 2):
        x = images(seed, tuple(shape), channels_last=shape[-1] == 3)
        (expected,) = original.run(None, {name: x})
        answers.append(expected)
        for backend, each in nets.items():
            assert relative(each(x), expected) <= BOUND, backend
    assert relative(answers[0], answers[1]) > 100 * BOUND


@pytest.mark.parametrize(
    "model", ["torch_bn_inception_v3", "keras_torch_inception_resnet_v2", "keras_tf_xception"], indirect=True
)
def test_kernels_agree_with_the_original_region_by_region(model: Path) -> None:
    net = optgraph.compile(model, backend="interpret")
    found = verify_net(net, model, batch=3)
    assert found.ok, found.reason
    # What a Bottleneck reads beside its convolution are some parts of a concatenation, which the original never joins.
    rests = sum(node.name.endswith(":rest") for node in net.fused.nodes())
    assert found.regions_compared >= found.regions_total - rests - 1
    assert found.outputs[0].rel_l2 <= BOUND
    assert net.plan(3).fallbacks == ()
