"""Weights that change after a module was compiled: the next call is with what they are by then."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optgraph.adapters.torch_compile import EagerWarning, backend
from optgraph.api.net import Net
from tests.support.torch_modules import ConvBnRelu, conv_bn, settled

pytestmark = pytest.mark.filterwarnings("error::UserWarning")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def image() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Watched:
    """A compiled module, whose answers are compared with its own."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.nets = module, list[Net]()
        options = {"backend": "torch", "made": self.nets.append}
        self.compiled = torch.compile(module, backend=backend, options=options)
        self.dtype = torch.float32

    def answer(self) -> Tensor:
        with torch.no_grad():
            ours, theirs = self.compiled(image().to(self.dtype)), self.module(image().to(self.dtype))
        assert ours.dtype == theirs.dtype
        assert relative(ours, theirs) <= (1e-5 if self.dtype == torch.float32 else 2e-3)
        return ours


def step(optimizer: Callable[..., torch.optim.Optimizer], **options: Any) -> Callable[[ConvBnRelu], None]:
    def change(module: ConvBnRelu) -> None:
        made = optimizer(module.parameters(), lr=0.1, **options)
        module(image()).square().sum().backward()
        made.step()

    return change


def assigned(module: ConvBnRelu) -> None:
    module.load_state_dict(settled(ConvBnRelu(), 2).state_dict(), assign=True)


def under_no_grad(module: ConvBnRelu) -> None:
    with torch.no_grad():
        module.classify.weight[0] *= 3


def through_a_view(module: ConvBnRelu) -> None:
    module.classify.weight.detach().view(-1).mul_(3)


def other_data(module: ConvBnRelu) -> None:
    module.classify.weight.data = module.classify.weight.data * 3


def other_parameter(module: ConvBnRelu) -> None:
    module.classify.weight = nn.Parameter(module.classify.weight * 3)


def statistics(module: ConvBnRelu) -> None:
    module.second[1].running_mean.add_(1)


def batches(module: ConvBnRelu) -> None:
    """torch counts no change of the statistics."""
    module.train()
    with torch.no_grad():
        module(image())
    module.eval()


def in_inference_mode(module: ConvBnRelu) -> None:
    with torch.inference_mode():
        module.classify.weight.mul_(3)


CHANGES: dict[str, Callable[[ConvBnRelu], object]] = {
    "load_state_dict": lambda module: module.load_state_dict(settled(ConvBnRelu(), 1).state_dict()),
    "load_state_dict, assigned": assigned,
    "SGD": step(torch.optim.SGD),
    "Adam, fused: torch counts no change": step(torch.optim.Adam, fused=True),
    "under no_grad": under_no_grad,
    "under inference_mode": in_inference_mode,
    "through a view": through_a_view,
    "other data": other_data,
    "another parameter": other_parameter,
    "statistics": statistics,
    "statistics, of another batch": batches,
}


def test_weights_that_changed() -> None:
    made = Watched(settled(ConvBnRelu()))
    before = made.answer()
    for i, (name, change) in enumerate(CHANGES.items(), 1):
        change(made.module)  # type: ignore[arg-type]  # a ConvBnRelu
        after = made.answer()
        assert relative(after, before) > 1e-3, name
        assert torch.equal(made.answer(), after)
        assert len(made.nets) == 1 + i, name
        before = after


def test_another_type_and_another_order_in_memory() -> None:
    made = Watched(settled(ConvBnRelu()))
    made.answer()
    made.module.half()
    made.dtype = torch.float16
    assert made.answer().dtype == torch.float16
    made.module.float().to(memory_format=torch.channels_last)
    made.dtype = torch.float32
    made.answer()


def test_what_goes_past_torch_is_not_seen_and_reset_helps() -> None:
    """As the how-to says: if torch ever counts it, that page is to be changed."""
    made = Watched(settled(ConvBnRelu()))
    before = made.answer()
    made.module.classify.weight.data.mul_(3)  # type: ignore[union-attr]
    with torch.no_grad():
        stale = made.compiled(image())
        assert relative(stale, made.module(image())) > 1e-3 and relative(stale, before) < 1e-3
    torch._dynamo.reset()
    assert relative(made.answer(), before) > 1e-3


def test_weights_made_under_inference_mode_are_refused() -> None:
    with torch.inference_mode():
        module = settled(nn.Sequential(nn.Conv2d(3, 4, 3)))
    made = Watched(module)
    with pytest.warns(EagerWarning, match=r"made under torch.inference_mode\(\), where torch does not count changes"):
        made.answer()
    assert not made.nets


class Blocks(nn.Module):
    """Blocks with a break in each: Dynamo takes one pair of graphs, and calls it with the weights of each block."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs = conv_bn(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convs(x)
        torch._dynamo.graph_break()
        return x + self.convs(x)


def test_many_sets_of_weights_are_kept() -> None:
    made = Watched(settled(Blocks(10)))
    first = made.answer()
    assert len(made.nets) == 20
    assert torch.equal(made.answer(), first) and len(made.nets) == 20


def test_two_modules_of_a_class_do_not_mix() -> None:
    one, two = Watched(settled(ConvBnRelu())), Watched(settled(ConvBnRelu(), 1))
    answers = [made.answer() for made in (one, two, one, two)]
    assert torch.equal(answers[0], answers[2]) and torch.equal(answers[1], answers[3])
    assert relative(answers[0], answers[1]) > 1e-3
    assert len(one.nets) + len(two.nets) == 2


def test_a_module_that_is_gone_leaves_nothing() -> None:
    module = settled(ConvBnRelu())
    made = Watched(module)
    made.answer()
    other = Watched(deepcopy(module))
    other.answer()
    net = weakref.ref(made.nets.pop())
    del made, module
    gc.collect()
    assert net() is None
    other.answer()
