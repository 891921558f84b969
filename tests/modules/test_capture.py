"""optgraph.compile of a torch module: its names, its batch, what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import optgraph
from tests.support.cli_models import saved
from tests.support.torch_modules import MODULES, ConvBnRelu, SeveralOutputs, settled

pytestmark = pytest.mark.filterwarnings("error::UserWarning")


def relative(ours: Any, theirs: Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def image(batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, 16, 20, generator=torch.Generator().manual_seed(batch))


@pytest.mark.parametrize("name", ["conv-bn-relu", "squeeze and excite", "upsampling"])
def test_any_batch_from_an_example_of_one(name: str) -> None:
    module = settled(MODULES[name]())
    net = optgraph.compile(module, "interpret", example_inputs=image())
    assert net.inputs["x"].shape == ("N", 3, 16, 20) and list(net.outputs) == ["output"]
    with torch.no_grad():
        for batch in (1, 3):
            assert relative(net(image(batch)), module(image(batch))) <= 1e-5
    assert net.plan(2).fallbacks == ()


def test_a_net_of_its_own_to_save(tmp_path: Path) -> None:
    module = settled(ConvBnRelu())
    net = optgraph.compile(module, "torch", example_inputs=image())
    before = net(image())
    with torch.no_grad():
        for weight in module.parameters():
            weight.zero_()
    net.save(tmp_path / "module.optgraph")
    assert torch.equal(net(image()), before)
    assert torch.equal(optgraph.load(tmp_path / "module.optgraph", "torch")(image()), before)
    assert net.source.name == "ConvBnRelu" and before.norm() > 0


class TwoImages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Any]:
        left, right = self.conv(left), self.conv(right)
        return {"sum": left + right, "pair": (left * right, {"left": left.mean((2, 3))})}


def test_names_of_inputs_and_outputs() -> None:
    module = settled(TwoImages())
    left, right = image(1), image(1) * 2
    for given in ((left, right), {"right": right, "left": left}):
        net = optgraph.compile(module, "torch", example_inputs=given)
        assert set(net.inputs) == {"left", "right"}
        found = net({"left": left, "right": right})
        assert set(found) == {"sum", "pair_0", "pair_1_left"}
        with torch.no_grad():
            assert relative(found["pair_1_left"], module(left, right)["pair"][1]["left"]) <= 1e-5


def test_a_batch_that_the_module_fixes_stays_fixed() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x.reshape(2, 3, -1)) * 2

    net = optgraph.compile(Fixed().eval(), "torch", example_inputs=image(2))
    assert net.inputs["x"].shape == (2, 3, 16, 20)
    assert torch.equal(net(image(2)), Fixed()(image(2)))


class Branching(nn.Module):
    def __init__(self, by: Callable[[int], bool]) -> None:
        super().__init__()
        self.conv, self.by = nn.Conv2d(3, 4, 3), by

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * (2 if self.by(x.shape[0]) else 1)


@pytest.mark.parametrize("by", [lambda n: n == 1, lambda n: n > 2, lambda n: n % 2 == 0])
def test_a_program_that_asks_for_the_batch_is_of_its_batch(by: Callable[[int], bool]) -> None:
    module = settled(Branching(by))
    net = optgraph.compile(module, "torch", example_inputs=image(2))
    assert net.inputs["x"].shape == (2, 3, 16, 20)
    with torch.no_grad():
        assert relative(net(image(2)), module(image(2))) <= 1e-5


def test_a_module_that_torch_compiles() -> None:
    module = settled(ConvBnRelu())
    net = optgraph.compile(torch.compile(module), "torch", example_inputs=image())
    assert torch.equal(net(image(3)), optgraph.compile(module, "torch", example_inputs=image())(image(3)))


def test_many_compiles_of_one_class() -> None:
    """Dynamo gives a piece of code up after eight."""
    module = nn.Sequential(nn.Conv2d(3, 4, 3)).eval()
    for size in range(8, 18):
        net = optgraph.compile(module, "torch", example_inputs=torch.ones(1, 3, size, size))
        assert next(iter(net.inputs.values())).shape == ("N", 3, size, size)


class Undecided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x) if x.sum() > 0 else -x


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("n", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.n += 1
        return x * self.n


class Quotient(nn.Module):
    """torch's exporter that traces rounds quotients of integers to zero, and those of floats as well."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.conv, self.whole = nn.Conv2d(3, 4, 3), whole

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return (100 * y).int() // 3 if self.whole else y // 0.5


@pytest.mark.parametrize(
    "module, given, error, why",
    [
        (ConvBnRelu().train(), image(), optgraph.InputError, r"training mode \(ConvBnRelu\): call module.eval\(\)"),
        (settled(ConvBnRelu()), None, optgraph.InputError, "example_inputs=x, a tensor such as it takes"),
        (settled(ConvBnRelu()), np.ones((1, 3, 16, 16)), optgraph.InputError, "expects tensors, got ndarray"),
        (settled(ConvBnRelu()), {}, optgraph.InputError, "expects a tensor at least"),
        (settled(ConvBnRelu()), image()[:0], optgraph.InputError, r"'x' is \[0, 3, 16, 20\], and has no numbers"),
        (settled(ConvBnRelu()), {"y": image()}, optgraph.InputError, "example_inputs: it takes x, and not y"),
        (settled(Quotient(True)), image(2), optgraph.ModelError, "exported, its output 'output' is another than torch"),
        (settled(Quotient(False)), image(1), optgraph.ModelError, "exported, its output 'output' is off by"),
        (Undecided().eval(), image(), optgraph.ModelError, "cannot take it as one graph .*export it yourself"),
        (Counting().eval(), image(), optgraph.ModelError, "changes 'n' of a module in place"),
        (nn.Identity().eval(), image(), optgraph.ModelError, "computes no tensor"),
        (settled(SeveralOutputs()), image(), optgraph.ModelError, "x of what it gives back is an input or a weight"),
    ],
)
def test_refusals(module: nn.Module, given: Any, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        optgraph.compile(module, "torch", example_inputs=given)


def test_part_of_a_module_in_training_mode_is_named() -> None:
    module = settled(ConvBnRelu())
    module.second.train()
    with pytest.raises(optgraph.InputError, match=r"training mode \(second\)"):
        optgraph.compile(module, example_inputs=image())


def test_an_onnx_model_has_no_example_inputs(tmp_path: Path) -> None:
    with pytest.raises(optgraph.InputError, match="example_inputs are for a torch module"):
        optgraph.compile(saved(tmp_path), example_inputs=image())
    with pytest.raises(optgraph.InputError, match=r"got Sequential: .*example_inputs"):
        optgraph.read(nn.Sequential())  # type: ignore[arg-type]
