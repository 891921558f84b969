"""Every activation as a jit function against torch: ordinary values, large ones, infinities, NaN."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from optgraph.base.errors import OptgraphError
from optgraph.ir.values import ACTS as KINDS
from optgraph.ir.values import IDENTITY, RELU, Act
from optgraph.kernels.elementwise import elementwise
from optgraph.kernels.frame.arguments import Scalar
from optgraph.kernels.frame.ends import Prologue

ACTS = {
    "identity": IDENTITY,
    "relu": RELU,
    "relu6": Act("clip", 0.0, 6.0),
    "clip": Act("clip", -0.5, 0.25),
    "leaky_relu": Act("leaky_relu", 0.1),
    "sigmoid": Act("sigmoid"),
    "silu": Act("silu"),
    "tanh": Act("tanh"),
    "hard_sigmoid": Act("hard_sigmoid", 0.2, 0.5),
    "hard_swish": Act("hard_swish"),
}
INDEPENDENT: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu6": F.relu6,
    "silu": lambda x: x * torch.sigmoid(x),
    "leaky_relu": lambda x: torch.where(x > 0, x, 0.1 * x),
    "hard_swish": F.hardswish,
    "hard_sigmoid": lambda x: torch.clamp(0.2 * x + 0.5, 0, 1),
    "clip": lambda x: torch.clamp(x, -0.5, 0.25),
}


def evaluate(values: torch.Tensor, act: Act) -> torch.Tensor:
    out = torch.full((1, 1, 1, len(values)), math.nan)
    elementwise(values.view(1, 1, 1, -1), out, before=Prologue(act=act))()
    return out.flatten()


@pytest.mark.parametrize("name", ACTS)
def test_ordinary_values(name: str) -> None:
    x = torch.linspace(-8, 8, 1001)
    expected = ACTS[name].apply(x.double())
    assert (evaluate(x, ACTS[name]) - expected).abs().max() < 1e-6


@pytest.mark.parametrize("name", ACTS)
@pytest.mark.filterwarnings("ignore:overflow")
def test_large_values_stay_right(name: str) -> None:
    x = torch.tensor([-3e38, -1e5, -200.0, -90.0, 90.0, 200.0, 1e5, 3e38])
    torch.testing.assert_close(evaluate(x, ACTS[name]), ACTS[name].apply(x), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("name", ["identity", "relu", "relu6", "clip", "leaky_relu", "sigmoid", "tanh", "hard_sigmoid"])
@pytest.mark.filterwarnings("ignore:overflow")
def test_infinities(name: str) -> None:
    x = torch.tensor([-math.inf, math.inf])
    torch.testing.assert_close(evaluate(x, ACTS[name]), ACTS[name].apply(x))


@pytest.mark.parametrize("name", ACTS)
def test_nan_in_nan_out(name: str) -> None:
    x = torch.tensor([1.0, math.nan, -1.0])
    assert evaluate(x, ACTS[name]).isnan().tolist() == [False, True, False]
    assert ACTS[name].apply(x).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("name", INDEPENDENT)
def test_reference(name: str) -> None:
    x = torch.linspace(-8, 8, 101, dtype=torch.float64)
    torch.testing.assert_close(ACTS[name].apply(x), INDEPENDENT[name](x))


def test_every_kind_is_tested() -> None:
    assert {act.kind for act in ACTS.values()} == set(KINDS)


def test_unknown_kind() -> None:
    with pytest.raises((OptgraphError, ValueError), match="gelu"):
        Act("gelu").apply(torch.zeros(1))
    with pytest.raises(AttributeError, match="gelu"):
        Scalar.of(Act("gelu")).fn.load()
