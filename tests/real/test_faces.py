"""MTCNN's three trained networks, a PRelu of a slope a channel behind every layer: where a photograph has a face."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

import optgraph
from examples.photograph import folder_of
from optgraph.onnx.sessions import session

FACE = (165, 55, 285, 215)  # left, top, right and bottom of the astronaut's
ELSEWHERE = ((0, 300, 160, 512), (330, 0, 500, 160), (360, 250, 512, 420), (100, 330, 260, 500))


@dataclass(frozen=True)
class Stage:
    """Convolutions with a PRelu and perhaps a pool (kernel, stride) each, a dense layer but in the first stage, and two
    heads: where the face is, and whether there is one. size: the side of its images."""

    size: int
    pools: tuple[tuple[int, int] | None, ...]


STAGES = {
    "pnet": Stage(12, ((2, 2), None, None)),
    "rnet": Stage(24, ((3, 2), (3, 2), None)),
    "onet": Stage(48, ((3, 2), (3, 2), (2, 2), None)),
}


class Network(nn.Module):
    """A stage with its trained weights."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._stage = STAGES[name]
        self._state = torch.load(folder_of("facenet_pytorch") / "data" / f"{name}.pt", weights_only=True)

    def _pair(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return self._state[f"{name}.weight"], self._state[f"{name}.bias"]

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for i, pool in enumerate(self._stage.pools, start=1):
            x = F.prelu(F.conv2d(x, *self._pair(f"conv{i}")), self._state[f"prelu{i}.weight"])
            x = F.max_pool2d(x, *pool, ceil_mode=True) if pool else x
        layer = len(self._stage.pools) + 1
        if "conv4_1.weight" in self._state:
            score, box = (F.conv2d(x, *self._pair(f"conv{layer}_{i}")) for i in (1, 2))
        else:
            x = F.linear(x.permute(0, 3, 2, 1).flatten(1), *self._pair(f"dense{layer}"))
            x = F.prelu(x, self._state[f"prelu{layer}.weight"])
            score, box = (F.linear(x, *self._pair(f"dense{layer + 1}_{i}")) for i in (1, 2))
        return score.softmax(1), box


@pytest.fixture(scope="module", params=STAGES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name = request.param
    path: Path = tmp_path_factory.mktemp("mtcnn") / f"{name}.onnx"
    size = STAGES[name].size
    names = {"input_names": ["image"], "output_names": ["score", "box"], "dynamic_axes": {"image": {0: "N"}}}
    torch.onnx.export(Network(name).eval(), (torch.zeros(1, 3, size, size),), path, dynamo=False, **names)
    return path


@pytest.fixture
def images(model: Path, photographs: dict[str, Image.Image]) -> np.ndarray:
    """The face, then what is none."""
    size = STAGES[model.stem].size
    parts = [photographs["astronaut"].resize((size, size), box=box) for box in (FACE, *ELSEWHERE)]
    pixels = np.stack([np.asarray(part, np.float32) for part in parts])
    return np.ascontiguousarray(((pixels - 127.5) / 128).transpose(0, 3, 1, 2))


@pytest.fixture
def answers(model: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(("score", "box"), session(str(model), optimize=False).run(None, {"image": images}), strict=True))


def test_the_reference_sees_the_face(answers: dict[str, np.ndarray]) -> None:
    scores = answers["score"].reshape(-1, 2)[:, 1]
    assert scores[0] > 0.9 and scores[1:].max() < 0.5, scores


@pytest.mark.parametrize(("backend", "dtype", "bound"), [
    ("torch", "fp32", 1e-5),
    ("onnxruntime", "fp32", 1e-5),
    ("interpret", "fp32", 1e-5),
    ("interpret", "tf32", 3e-3),
    ("interpret", "fp16", 5e-3),
])  # fmt: skip
def test_same_answers(
    model: Path, images: np.ndarray, answers: dict[str, np.ndarray], backend: str, dtype: str, bound: float
) -> None:
    net = optgraph.compile(model, backend, dtype)
    plan = net.plan()
    assert not plan.fallbacks and all(call.kernel.name != "elementwise" for call in plan.calls)
    found = net(images)
    assert isinstance(found, dict)
    for name, wanted in answers.items():
        assert np.linalg.norm(found[name] - wanted) <= bound * np.linalg.norm(wanted), name
