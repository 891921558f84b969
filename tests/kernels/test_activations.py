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
    "elu": Act("elu", 0.7, 1.0),
    "selu": Act("elu", 1.75, 1.05),
    "celu": Act("celu", 0.6),
    **{kind: Act(kind) for kind in ("gelu", "gelu_tanh", "softplus", "mish", "softsign", "abs", "neg", "erf")},
    **{kind: Act(kind) for kind in ("sin", "cos", "sign", "floor", "ceil", "round")},
    "threshold": Act("threshold", 0.4),
    **{f"power{a}": Act("power", a) for a in (-2.0, 0.0, 1.5, 2.0, 3.0, 5.0)},
    **{kind: Act(kind) for kind in ("reciprocal", "sqrt", "exp", "log")},
}
# Beside an absolute difference of 1e-6, what a relative one may be where they are large.
RELATIVE = {
    "exp": 1e-6,
    "power-2.0": 1e-5,
    "power1.5": 1e-5,
    "power2.0": 1e-6,
    "power3.0": 1e-6,
    "power5.0": 1e-5,
    "reciprocal": 1e-6,
}
STEEP = {"sin", "cos"}  # of an argument of 1e5 and more, hardware keeps no digit
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
@pytest.mark.filterwarnings("ignore:(invalid value|divide by zero)")
def test_ordinary_values(name: str) -> None:
    x = torch.linspace(-8, 8, 1001)
    expected = ACTS[name].apply(x.double())
    torch.testing.assert_close(
        evaluate(x, ACTS[name]).double(), expected, rtol=RELATIVE.get(name, 0.0), atol=1e-6, equal_nan=True
    )


@pytest.mark.parametrize("name", [name for name in ACTS if name not in STEEP and not name.startswith("power")])
@pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero)")
def test_large_values_stay_right(name: str) -> None:
    x = torch.tensor([-3e38, -1e5, -200.0, -90.0, 90.0, 200.0, 1e5, 3e38])
    expected = ACTS[name].apply(x.double()).float()
    torch.testing.assert_close(evaluate(x, ACTS[name]), expected, rtol=1e-6, atol=1e-30, equal_nan=True)


@pytest.mark.parametrize("name", ["identity", "relu", "relu6", "clip", "leaky_relu", "sigmoid", "tanh", "hard_sigmoid"])
@pytest.mark.filterwarnings("ignore:overflow")
def test_infinities(name: str) -> None:
    x = torch.tensor([-math.inf, math.inf])
    torch.testing.assert_close(evaluate(x, ACTS[name]), ACTS[name].apply(x))


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("name", [name for name in ACTS if name not in ("log", "sqrt", "power0.0", "power1.5")])
def test_nan_in_nan_out(name: str) -> None:
    x = torch.tensor([1.0, math.nan, -1.0])
    assert evaluate(x, ACTS[name]).isnan().tolist() == [False, True, False]
    assert ACTS[name].apply(x).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("name", INDEPENDENT)
def test_reference(name: str) -> None:
    x = torch.linspace(-8, 8, 101, dtype=torch.float64)
    torch.testing.assert_close(ACTS[name].apply(x), INDEPENDENT[name](x))


def test_every_kind_is_tested() -> None:
    assert {act.kind for act in ACTS.values()} == set(KINDS) - {"prelu"}  # which is no function of a number alone


def test_unknown_kind() -> None:
    with pytest.raises((OptgraphError, ValueError), match="swoosh"):
        Act("swoosh").apply(torch.zeros(1))
    with pytest.raises(AttributeError, match="swoosh"):
        Scalar.of(Act("swoosh")).fn.load()
