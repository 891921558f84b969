"""torch.compile with optgraph's backend: answers, launches, recompiles, and what runs as torch runs it."""

from __future__ import annotations

import threading
import tomllib
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._pytree import tree_leaves

from optgraph.adapters.torch_compile import EagerWarning, backend
from optgraph.api.net import Net
from optgraph.modules import taken
from tests.support.paths import ROOT
from tests.support.torch_modules import MODULES, Broken, ConvBnRelu, settled
from tests.support.torch_networks import xception

# Launches of each graph of a module; none falls back.
LAUNCHES = {
    "conv-bn-relu": [4],
    "residual": [3],
    "depthwise separable": [2],
    "inception-like concat": [4],
    "squeeze and excite": [5],
    "upsampling": [3],
    "several outputs": [4],
    "graph break": [1, 2],
}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Dynamo as in a new process, and every warning a warning."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("always", EagerWarning)
        yield
    torch._dynamo.reset()


class Made:
    """A module compiled, and the networks that became of it."""

    def __init__(self, module: Any, **options: Any) -> None:
        self.nets: list[Net] = []
        given = {"backend": "torch", "made": self.nets.append} | options
        self.module, self.compiled = module, torch.compile(module, backend=backend, options=given)

    def check(self, *inputs: Any, bound: float = 1e-5) -> list[Any]:
        """Compares an answer with torch's: values, dtypes, order in memory. Returns its leaves."""
        with torch.no_grad():
            ours, theirs = tree_leaves(self.compiled(*inputs)), tree_leaves(self.module(*inputs))
        for our, their in zip(ours, theirs, strict=True):
            if not isinstance(their, Tensor):
                assert our is their
                continue
            assert (our.dtype, our.shape, our.device) == (their.dtype, their.shape, their.device)
            assert our.stride() == their.stride()
            assert relative(our, their) <= bound
        return ours


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def images(batch: int = 2, size: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, size, size + 4, generator=torch.Generator().manual_seed(seed))


class Function(nn.Module):
    """A convolution, and a function that is given the module and the inputs."""

    def __init__(self, function: Callable[..., Any], **buffers: Tensor) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 4, 3, padding=1), function
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)

    def forward(self, *inputs: Any) -> Any:
        return self.function(self, *inputs)


def function(given: Callable[..., Any], **buffers: Tensor) -> nn.Module:
    return settled(Function(given, **buffers))


def one_warning(caught: Any) -> str:
    found = [str(each.message) for each in caught if each.category is EagerWarning]
    assert len(found) == 1
    return found[0]


# ---- answers


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.filterwarnings("error::UserWarning")
def test_small_modules(name: str) -> None:
    made = Made(settled(MODULES[name]()), backend="interpret")
    graphs = len(LAUNCHES[name])
    first = [made.check(images(batch, seed=batch))[0] for batch in (2, 3, 5)][2]
    assert relative(first, made.check(images(5, seed=9))[0]) > 1e-3
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2 * graphs  # of the first size, and of any
    plans = [net.plan() for net in made.nets]
    assert [sum(plan.launches_by_kernel().values()) for plan in plans] == 2 * LAUNCHES[name]
    assert not any(plan.fallbacks for plan in plans)
    batches = [next(iter(net.inputs.values())).shape[0] for net in made.nets]
    assert batches == graphs * [2] + graphs * ["N"]


def test_what_is_given_back_is_what_torch_gives_back() -> None:
    module = settled(MODULES["several outputs"]())
    made, x = Made(module), images()
    made.check(x)
    with torch.no_grad():
        found = made.compiled(x)
    assert list(found) == ["features", "logits", "again", "x", "mask"]
    assert found["x"] is x and found["mask"] is None and found["again"] is found["logits"][0]


def test_xception() -> None:
    made = Made(settled(xception()))
    ours = made.check(images(1, 75))[0]
    assert relative(ours, made.check(images(1, 75, seed=1))[0]) > 1e-3
    (net,) = made.nets
    assert sum(net.plan().launches_by_kernel().values()) <= 48 and net.plan().fallbacks == ()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def written(self: Any, x: Tensor) -> Tensor:
    y = self.conv(x)
    y[:, :1] = 0
    y[:, :, 2] = x[:, :1, 3]
    y += 1
    return F.relu_(y.mul_(2))


def resized(self: Any, x: Tensor) -> Tensor:
    b, _, h, w = x.shape
    return self.conv(x).reshape(b, 2, 2, h, w).transpose(1, 2).reshape(b, 4, h, w) * h


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(written, id="tensors of its own written to"),
        pytest.param(resized, id="sizes computed with"),
        pytest.param(lambda self, x: self.conv(x).reshape(x.shape[0] * 4, -1), id="a batch that becomes more"),
        pytest.param(lambda self, x: self.conv(x) + torch.arange(x.shape[0]).view(-1, 1, 1, 1), id="numbered images"),
        pytest.param(lambda self, x: F.instance_norm(self.conv(x)), id="instance norm"),
        pytest.param(lambda self, x: self.conv(x).argmax(1), id="integers"),
        pytest.param(lambda self, x: F.dropout(self.conv(x), training=False), id="dropout that does nothing"),
    ],
)
@pytest.mark.filterwarnings("error::UserWarning")
def test_programs(given: Callable[..., Any]) -> None:
    made = Made(function(given))
    for batch in (2, 3, 4):
        made.check(images(batch))
    assert made.nets


def test_other_heights_and_widths_are_networks_of_their_own() -> None:
    made = Made(function(resized))
    for size in (8, 9, 10, 9):
        made.check(images(2, size))
    assert [next(iter(net.inputs.values())).shape[2] for net in made.nets] == [8, 9, 10]


@pytest.mark.parametrize(
    "runs, dtype, bound",
    [("torch", torch.float16, 2e-3), ("onnxruntime", torch.bfloat16, 2e-2), ("interpret", torch.bfloat16, 2e-2)],
)
def test_modules_of_halves(runs: str, dtype: torch.dtype, bound: float) -> None:
    made = Made(settled(ConvBnRelu()).to(dtype), backend=runs)
    assert made.check(images().to(dtype), bound=bound)[0].dtype == dtype
    assert made.nets


def test_the_order_in_memory_is_torch_s() -> None:
    module = function(lambda self, x: (F.relu(self.conv(x)), self.conv(x).permute(2, 0, 3, 1) * 2))
    made = Made(module.to(memory_format=torch.channels_last), backend="onnxruntime")
    for x in (images(2), images(5), images(3, 7)):
        made.check(x.to(memory_format=torch.channels_last))
    assert made.nets


def test_inference_mode_and_a_net_made_in_it() -> None:
    made = Made(settled(ConvBnRelu()))
    with torch.inference_mode():
        made.check(images())
    made.check(images(seed=1))
    assert made.nets


def test_threads() -> None:
    made = Made(settled(Broken()))
    made.check(images(2, 8))
    wrong: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for step in range(5):
                made.check(images(2, 8, seed=10 * seed + step))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(made.nets) == 2


# ---- what runs as torch runs it


def counted(self: Any, x: Tensor) -> Tensor:
    self.n += 1
    return self.conv(x) * self.n


def changed(self: Any, x: Tensor) -> Tensor:
    y = self.conv(x)
    x.add_(1)
    return y


def through_a_view(self: Any, x: Tensor) -> Tensor:
    y = self.conv(x)
    y.view(y.shape[0], -1).add_(1)
    return y


def halved(self: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return self.conv(x)


REFUSALS: list[tuple[str, Callable[..., Any], str]] = [
    ("a buffer changed", counted, r"'iadd', test_torch_compile.py:\d+ in counted: changes 'n' of a module in place"),
    ("an input changed", changed, "'add_', .* in changed: changes its argument 'inputs_0' in place: compute a new"),
    ("a view written to", through_a_view, "changes in place what 'y' is a view of: change a clone"),
    ("a view given back", lambda self, x: (self.conv(x), x[:, :1]), "gives back a view of an argument"),
    ("dropout", lambda self, x: F.dropout(self.conv(x), 0.5, True), r"'dropout', .*: is random: call .eval\(\)"),
    ("random numbers", lambda self, x: self.conv(x) + torch.rand(1), "'rand', .*: is random"),
    ("no ONNX operator", lambda self, x: torch.fft.fft2(self.conv(x)).abs(), "cannot export it to ONNX .*fft"),
    ("autocast within", halved, "computes under autocast"),
    ("complex numbers", lambda self, x: torch.view_as_complex(x.reshape(-1, 2)).abs() * 2, "cannot"),
]


@pytest.mark.parametrize("given, why", [pytest.param(*rest, id=name) for name, *rest in REFUSALS])
def test_refusals(given: Callable[..., Any], why: str, capfd: pytest.CaptureFixture[str]) -> None:
    made = Made(function(given, n=torch.zeros(1)))
    twin = deepcopy(made.module)
    with pytest.warns(EagerWarning, match=why) as caught, torch.no_grad():
        torch.manual_seed(3)
        ours = made.compiled(images().clone())
    one_warning(caught)
    with torch.no_grad():
        torch.manual_seed(3)
        theirs = twin(images().clone())
    assert all(torch.equal(a, b) for a, b in zip(tree_leaves(ours), tree_leaves(theirs), strict=True))
    assert torch.equal(made.module.n, twin.n) and not made.nets
    assert "graph(" not in "".join(capfd.readouterr())


def test_batchnorm_that_trains_under_no_grad_still_trains() -> None:
    module = settled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).train()
    before, twin, made = deepcopy(module), deepcopy(module), Made(module)
    why = r"1 \(BatchNorm2d\).*: is in training mode: call \.eval\(\)"
    with pytest.warns(EagerWarning, match=why) as caught, torch.no_grad():
        ours = made.compiled(images())
    one_warning(caught)
    with torch.no_grad():
        assert torch.equal(ours, twin(images()))
    for name, buffer in module.named_buffers():
        assert torch.equal(buffer, twin.get_buffer(name)) and not torch.equal(buffer, before.get_buffer(name))


def test_gradients() -> None:
    module = settled(ConvBnRelu())
    made, x = Made(module), images()
    with pytest.warns(EagerWarning, match=r"gradients are asked for: call it under torch.no_grad\(\)") as caught:
        made.compiled(x).sum().backward()
    one_warning(caught)
    ours = module.classify.weight.grad
    module.zero_grad()
    module(x).sum().backward()
    assert ours is not None and torch.equal(ours, module.classify.weight.grad) and not made.nets
    module.requires_grad_(False)
    assert torch.allclose(made.compiled(x), module(x), atol=1e-5) and len(made.nets) == 1
    with pytest.warns(EagerWarning, match="gradients"):
        made.compiled(x.requires_grad_()).sum().backward()
    assert x.grad is not None and x.grad.norm() > 0


def test_gradients_forward() -> None:
    module = settled(ConvBnRelu()).requires_grad_(False)
    made, x = Made(module), images()
    made.check(x)
    with forward_ad.dual_level(), torch.no_grad():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.warns(EagerWarning, match="gradients"):
            ours = forward_ad.unpack_dual(made.compiled(dual)).tangent
        assert ours is not None and torch.equal(ours, forward_ad.unpack_dual(module(dual)).tangent)


def test_doubles_autocast_and_no_images_at_all() -> None:
    module = settled(ConvBnRelu())
    for why, given, x in (
        ("is of torch.float64", settled(ConvBnRelu()).double(), images().double()),
        ("has no numbers", module, images()[:0]),
    ):
        with pytest.warns(EagerWarning, match=why), torch.no_grad():
            assert torch.equal(Made(given).compiled(x), given(x))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad(), pytest.warns(EagerWarning, match="under autocast"):
        assert Made(module).compiled(images()).dtype == torch.bfloat16


def test_an_operator_without_a_kernel_falls_back_or_is_refused() -> None:
    module = function(lambda self, x: F.grid_sample(self.conv(x), x[:, :2].permute(0, 2, 3, 1), align_corners=False))
    made = Made(module, backend="interpret")
    made.check(images())
    assert [fallback.op for fallback in made.nets[0].plan().fallbacks] == ["GridSample"]
    torch._dynamo.reset()
    made = Made(module, strict=True)
    with pytest.warns(EagerWarning, match="regions have no kernel: .*GridSample"):
        made.check(images(), bound=0)
    assert not made.nets


def test_an_exporter_that_is_wrong_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    right = taken.exported

    def wrong(*arguments: Any) -> onnx.ModelProto:
        model = right(*arguments)
        for node in model.graph.node:
            node.op_type = "Sigmoid" if node.op_type == "Relu" else node.op_type
        return model

    monkeypatch.setattr(taken, "exported", wrong)
    made = Made(settled(ConvBnRelu()))
    with pytest.warns(EagerWarning, match="result 0 is off by") as caught:
        made.check(images(), bound=0)
        made.check(images(seed=1), bound=0)
    one_warning(caught)


def test_integers_that_an_exporter_has_wrong() -> None:
    """torch's, by tracing, rounds a quotient of integers to zero."""
    made = Made(function(lambda self, x: (100 * self.conv(x)).int() // 3))
    with pytest.warns(EagerWarning, match=r"result 0 is another than torch's in \d\d\.\d\d% of its numbers"):
        assert (made.check(images(), bound=0)[0] < 0).any()
    made = Made(function(lambda self, x: self.conv(x).argmax(1)))
    made.check(images(), bound=0)
    assert made.nets


def test_lengths_left_open_of_what_lies_apart() -> None:
    made = Made(settled(ConvBnRelu()))
    with pytest.warns(EagerWarning, match=r"is the length of none: make it a constant, and inputs .contiguous\(\)"):
        for step in (1, 2, 3):
            made.check(images(2, 16 * step)[:, :, ::step, ::step], bound=1e-5)


def test_numbers_left_open() -> None:
    made = Made(settled(ConvBnRelu()))
    made.compiled = torch.compile(made.module, backend=backend, dynamic=True)
    with pytest.warns(EagerWarning, match="a number of the program's is left open, as dynamic=True does"):
        made.check(images(), bound=0)


def test_the_other_exporter() -> None:
    made = Made(settled(ConvBnRelu()), exporter="dynamo")
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        with pytest.warns(EagerWarning, match="exporter 'dynamo' needs onnxscript: pip install onnxscript"):
            made.check(images(), bound=0)
    else:
        for batch in (2, 3, 4):
            made.check(images(batch))
        assert len(made.nets) == 2


@pytest.mark.parametrize(
    "given, why",
    [
        ({"options": {"speed": 1}}, "no option 'speed': options are backend, dtype, exporter"),
        ({"options": {"backend": "cuda"}}, "unknown backend 'cuda'"),
        ({"options": {"dtype": "fp8"}}, "unknown dtype 'fp8'"),
        ({"options": {"exporter": "script"}}, "unknown exporter 'script': use trace, dynamo"),
        ({"mode": "max-autotune"}, "mode 'max-autotune' is not optgraph's"),
    ],
)
def test_options_that_there_are_not(given: dict[str, Any], why: str) -> None:
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match=why), torch.no_grad():
        torch.compile(settled(ConvBnRelu()), backend=backend, **given)(images())


def test_weights_are_not_copied() -> None:
    module = function(lambda self, x: self.conv(x))
    made = Made(module)
    made.check(images())
    weight = module.conv.weight.detach().numpy()
    constants = made.nets[0].simplified.constants.values()
    assert any(np.shares_memory(weight, constant) for constant in constants)


def test_torch_finds_it_by_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ((name, place),) = project["entry-points"]["torch_dynamo_backends"].items()
    assert name == "optgraph" and EntryPoint(name, place, "torch_dynamo_backends").load() is backend
