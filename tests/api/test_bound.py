"""A network on buffers that the caller writes and reads: no copies, nobody else's, and words for what does not fit."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import optgraph
from optgraph.api.net import Net
from optgraph.base.errors import InputError, OptgraphError
from optgraph.ir.graph import Graph
from optgraph.onnx.write import to_onnx
from optgraph.run.engine import Held
from tests.support import fake_gpu
from tests.support.fake_gpu import FakeGpu
from tests.support.networks import Builder
from tests.support.open_sizes import detector
from tests.support.paths import ROOT


def small() -> Graph:
    """One convolution."""
    b = Builder(channels=4, size=5)
    return b.done(b.conv(b.x, 3, 3))


def image(net: Net, batch: int = 1, seed: int = 0) -> torch.Tensor:
    (value,) = net.inputs.values()
    shape = [batch, *(int(d) for d in value.shape[1:])]
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def compiled(backend: str, monkeypatch: pytest.MonkeyPatch, graph: Graph | None = None, dtype: str = "fp32") -> Net:
    """On a GPU that is not there, but interprets, for 'triton'."""
    if backend == "triton":
        FakeGpu(monkeypatch)
    return optgraph.compile(to_onnx(graph or small()), backend, dtype)


@pytest.mark.parametrize("backend", ["triton", "interpret", "torch", "onnxruntime"])
def test_runs_are_what_calls_are(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = compiled(backend, monkeypatch)
    bound = net.bind(batch=2)
    assert bound.batch == 2 and not bound.inputs["x"].any()
    addresses = [tensor.data_ptr() for tensor in (*bound.inputs.values(), *bound.outputs.values())]
    answers = []
    for seed in range(2):
        x = image(net, 2, seed)
        bound.inputs["x"].copy_(x)
        result = bound()
        assert result is bound.outputs["y0"]
        expected = net(x)
        assert isinstance(expected, torch.Tensor) and torch.equal(result, expected)
        answers.append(expected)
        assert torch.equal(bound(image(net, 2, 9).numpy()), net(image(net, 2, 9)))  # type: ignore[arg-type]
    assert not torch.equal(answers[0], answers[1])
    assert addresses == [tensor.data_ptr() for tensor in (*bound.inputs.values(), *bound.outputs.values())]


def test_a_run_copies_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu(monkeypatch, compute=lambda launch: None)
    net = optgraph.compile(to_onnx(small()), "triton", "fp16")
    bound = net.bind()
    bound()
    ops: list[str] = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            ops.append(str(func))
            return func(*args, **(kwargs or {}))

    with Seen():
        bound()
        assert ops == []
        net(image(net))
    assert any("copy_" in op for op in ops)


def test_outputs_are_as_the_kernels_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    net = compiled("interpret", monkeypatch, dtype="fp16")
    bound, x = net.bind(), image(net)
    found, expected = bound(x), net(x)
    assert isinstance(found, torch.Tensor) and isinstance(expected, torch.Tensor)
    assert found.dtype is torch.float16 and expected.dtype is torch.float32
    assert found.shape == expected.shape and found.stride(1) == 1 and not found.is_contiguous()
    assert torch.equal(found.float(), expected)
    assert bound.inputs["x"].dtype is torch.float32 and bound.inputs["x"].is_contiguous()
    text = repr(bound)
    assert "x: float32 [1, 4, 5, 5]" in text and f"y0: float16 {list(found.shape)}, strides (" in text


def test_nobody_else_uses_its_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls, other bound ones, and letting go of what was least recently used."""
    monkeypatch.setattr("optgraph.run.engine.KEPT", 1)
    net = compiled("interpret", monkeypatch)
    several = [net.bind() for _ in range(2)]
    expected = [(bound(image(net, seed=seed)), net(image(net, seed=seed))) for seed, bound in enumerate(several)]
    for batch in (1, 2, 1):
        net(image(net, batch, seed=3))
    for seed, (bound, (found, answer)) in enumerate(zip(several, expected, strict=True)):
        assert isinstance(found, torch.Tensor) and isinstance(answer, torch.Tensor)
        assert torch.equal(found, answer) and torch.equal(bound.inputs["x"], image(net, seed=seed))


def test_its_memory_goes_with_it_once_the_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(monkeypatch, compute=lambda launch: None)
    net = optgraph.compile(to_onnx(small()), "triton")
    bound = net.bind()
    bound()
    held = bound._buffers
    assert isinstance(held, Held)
    context = weakref.ref(held._context)
    del gpu.done[:]
    del bound, held
    gc.collect()
    assert gpu.done == ["synchronize"] and context() is None


def test_a_run_comes_after_the_last_one_and_on_the_current_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(monkeypatch, compute=lambda launch: None)
    bound = optgraph.compile(to_onnx(small()), "triton").bind()
    bound()
    del gpu.done[:]
    with gpu.on(fake_gpu.Stream(gpu, 7)):
        bound()
    assert gpu.done == ["wait on 7", "replay", "record on 7"]


def test_what_a_run_is_given_is_copied_in_when_the_last_run_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which may still read its inputs, on another stream."""
    gpu = FakeGpu(monkeypatch, compute=lambda launch: None)
    net = optgraph.compile(to_onnx(small()), "triton")
    bound, x = net.bind(), image(net)
    bound()

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            gpu.done.append(str(func))
            return func(*args, **(kwargs or {}))

    del gpu.done[:]
    with gpu.on(fake_gpu.Stream(gpu, 7)), Seen():
        bound(x)
    assert gpu.done == ["wait on 7", "aten.copy_.default", "replay", "record on 7"]


def test_in_a_recording_of_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(monkeypatch)
    net = optgraph.compile(to_onnx(small()), "triton")
    bound = net.bind()
    graph = gpu.recording = fake_gpu.Graph(gpu)
    bound()
    with pytest.raises(OptgraphError, match="none can be made while it is recorded"):
        net.bind()
    gpu.recording = None
    x, outputs = image(net), dict(bound.outputs)
    bound.inputs["x"].copy_(x)
    held = bound._buffers
    assert isinstance(held, Held)
    context = weakref.ref(held._context)
    del bound, held  # what was recorded still writes to its buffers
    gc.collect()
    assert context() is not None
    graph.replay()
    expected = net(x)
    assert isinstance(expected, torch.Tensor) and torch.equal(outputs["y0"], expected)


def test_callers_modes_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    net = compiled("triton", monkeypatch)
    x = image(net)
    with torch.inference_mode():
        bound = net.bind()
        inside = bound(x)
        assert isinstance(inside, torch.Tensor)
        expected = inside.clone()
    for _ in range(2):
        outside = bound(x.clone().requires_grad_())
        assert isinstance(outside, torch.Tensor) and torch.equal(outside, expected)
        assert not outside.requires_grad and not outside.is_inference()
        outside.zero_()


def test_several_outputs_one_of_which_is_a_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is the caller's own: to write there changes no weight."""
    b = Builder(channels=4, size=6)
    graph = b.done(b.conv(b.x, 5), b.constant(3))
    net = compiled("interpret", monkeypatch, graph)
    bound, x = net.bind(), image(net)
    found, expected = bound(x), net(x)
    assert found is bound.outputs and isinstance(expected, dict)
    for name in ("y0", "y1"):
        assert torch.equal(bound.outputs[name], torch.as_tensor(expected[name]))
    bound.outputs["y1"].zero_()
    assert net(x)["y1"].any()  # type: ignore[call-overload]


# ---- what does not fit


def test_errors_are_words(monkeypatch: pytest.MonkeyPatch) -> None:
    net = compiled("torch", monkeypatch)
    bound = net.bind(batch=2)
    with pytest.raises(InputError, match=r"of shape \[2, 4, 5, 5\], got \[1, 4, 5, 5\].*net.bind\(batch="):
        bound(image(net))
    with pytest.raises(InputError, match="got float64: convert it"):
        bound(image(net, 2).double())
    with pytest.raises(InputError, match="the network's inputs are x; got z"):
        bound({"z": image(net, 2)})
    with pytest.raises(InputError, match="a batch has at least one image"):
        net.bind(batch=0)
    with pytest.raises(TypeError, match="item assignment"):
        bound.inputs["x"] = image(net, 2)  # type: ignore[index]


def test_a_batch_that_the_model_fixes() -> None:
    fixed = to_onnx(small())
    net = optgraph.compile(fixed, "torch", input_shape=(4, 4, 5, 5))
    bound = net.bind()
    assert bound.batch == 4 and bound.inputs["x"].shape == (4, 4, 5, 5)
    x = np.ones((4, 4, 5, 5), np.float32)
    assert np.array_equal(bound(x), net(x))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the model fixes it to 4"):
        net.bind(batch=2)


def test_a_net_of_several_sizes_is_bound_at_one() -> None:
    net = optgraph.compile(detector(), "torch", sizes=[(16, 16), (12, 20)])
    small, wide = net.bind(), net.at(12, 20).bind()
    assert small.inputs["x"].shape == (1, 3, 16, 16) and wide.outputs["y"].shape == (1, 2, 6, 10)
    x = torch.randn(1, 3, 12, 20)
    assert torch.equal(wide(x), net(x))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"got \[1, 3, 12, 20\].*net.at\(height, width\).bind\(\)"):
        small(x)


def test_one_thread_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = compiled("torch", monkeypatch).bind()
    begun, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(bound._buffers, "run", lambda feeds: (begun.set(), go_on.wait(10)), raising=False)
    thread = threading.Thread(target=bound)
    thread.start()
    begun.wait(10)
    with pytest.raises(OptgraphError, match="each thread needs its own"):
        bound()
    go_on.set()
    thread.join()
    bound()


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "interpret"])
def test_outputs_of_so_many_rows_an_image(backend: str) -> None:
    net = optgraph.compile(ROOT / "tests" / "cases" / "flattening.flatten_axis2.onnx", backend)
    bound, x = net.bind(batch=2), image(net, 2)
    assert bound.outputs["y"].shape[0] == 2 * net.bind().outputs["y"].shape[0]
    assert torch.equal(bound(x), net(x))  # type: ignore[arg-type]
