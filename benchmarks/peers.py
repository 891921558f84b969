"""The sides of the race of whole networks on a GPU: optgraph, and what it is compared with, all in float16.

Every side keeps its input and output on the device, in the form it likes best, and leaves the host out where it can:
torch's run as captured CUDA graphs. What cannot run here raises UnavailableError, with the reason.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper

from benchmarks.torch_module import Network
from optgraph.api.net import Net
from optgraph.ir.graph import Graph
from optgraph.onnx.write import to_onnx
from optgraph.passes import pipeline
from optgraph.plan.plans import Plans
from optgraph.run.engine import Engine
from optgraph.tune.timing import Run, Timer, captured, cuda_timer


class UnavailableError(Exception):
    """A peer that cannot run on this machine, and why."""


@dataclass(frozen=True)
class Side:
    """`run` computes once on an input that is there already; `result` is the answer of the last run.

    timer: what takes its time, for a side that does not run on torch's stream.
    """

    run: Run
    result: Callable[[], torch.Tensor]
    timer: Timer = cuda_timer


@contextmanager
def ours(net: Net, x: torch.Tensor) -> Iterator[Side]:
    """`net`, compiled for the triton backend, on `x` [N, 3, H, W] in float32."""
    assert isinstance(net.runtime, Engine)
    with net.runtime.context(x.shape[0]) as context:
        context.load({next(iter(net.inputs)): x})
        yield Side(context.run, lambda: next(iter(context.results().values())))


def in_turn(graph: Graph, x: torch.Tensor) -> Side:
    """optgraph itself, with no launch that begins before the one that it follows has ended."""
    fused = graph.copy()
    pipeline.apply(fused, pipeline.FUSE)
    with patch.dict(os.environ, OPTGRAPH_EARLY_LAUNCH="0"):
        held = Engine(Plans(fused, "fp16"), x.device).bind(x.shape[0])
        held.run({graph.inputs[0]: x})  # what it records is replayed from now on
    return Side(lambda: held.run({}), lambda: next(iter(held.outputs.values())))


def eager(graph: Graph, x: torch.Tensor) -> Side:
    """torch, channels last, each convolution by the algorithm that cuDNN finds fastest."""
    return _torch(_module(graph), x)


def compiled(graph: Graph, x: torch.Tensor) -> Side:
    """torch.compile at its most thorough; captured here, which saves it the copy of its input."""
    torch._dynamo.reset()
    whole: Any = torch.compile(_module(graph), mode="max-autotune-no-cudagraphs", fullgraph=True, dynamic=False)
    return _torch(whole, x)


def _module(graph: Graph) -> torch.nn.Module:
    module: torch.nn.Module = Network(graph).half().cuda().to(memory_format=torch.channels_last)
    return module


def _torch(module: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Side:
    torch.backends.cudnn.benchmark = True  # here, whichever side runs first in this process
    image = x.half().contiguous(memory_format=torch.channels_last)
    answer: list[torch.Tensor] = []

    def run() -> None:
        with torch.no_grad():
            answer[:] = [module(image)]

    return Side(captured(run), lambda: answer[0])


def jax_xla(graph: Graph, x: torch.Tensor) -> Side:
    """XLA's program of the network, timed by the host over many dispatches, for its streams are its own."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        import jax
    except ImportError:
        raise UnavailableError("jax is not installed") from None
    from benchmarks.jax_network import NoJaxError, network

    if jax.default_backend() != "gpu":
        raise UnavailableError(f"jax {jax.__version__} here has no GPU")
    try:
        return jax_side(jax.jit(network(graph)), jax.numpy.asarray(x.half().permute(0, 2, 3, 1).cpu().numpy()))
    except NoJaxError as error:
        raise UnavailableError(str(error)) from None


def jax_side(function: Callable[[Any], Any], image: Any) -> Side:
    answer: list[Any] = []

    def run() -> None:
        answer[:] = [function(image)]

    def timer(run: Run, repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        answer[0].block_until_ready()
        return 1e3 * (time.perf_counter() - start) / repeats

    return Side(run, lambda: torch.from_numpy(np.array(answer[0])), timer)


def onnxruntime_cuda(graph: Graph, x: torch.Tensor) -> Side:
    return _onnxruntime(graph, x, "CUDAExecutionProvider", {"cudnn_conv_algo_search": "EXHAUSTIVE"})


def tensorrt(graph: Graph, x: torch.Tensor) -> Side:
    """TensorRT, as ONNX Runtime drives it."""
    return _onnxruntime(graph, x, "TensorrtExecutionProvider", {"trt_fp16_enable": "1"})


def _onnxruntime(graph: Graph, x: torch.Tensor, provider: str, options: dict[str, str]) -> Side:
    import onnxruntime

    if provider not in onnxruntime.get_available_providers():
        raise UnavailableError(f"onnxruntime {onnxruntime.__version__} here has no {provider}")
    session = onnxruntime.InferenceSession(
        half(to_onnx(graph)).SerializeToString(), providers=[(provider, options), "CPUExecutionProvider"]
    )
    if provider not in session.get_providers():
        raise UnavailableError(f"onnxruntime could not start {provider}")
    image = x.half().contiguous()
    (name, value), *_ = graph.outputs.items()
    answer = torch.empty((x.shape[0], *graph.shape(value)[1:]), dtype=torch.float16, device=x.device)
    binding = session.io_binding()
    binding.bind_input(graph.inputs[0], "cuda", 0, np.float16, tuple(image.shape), image.data_ptr())
    binding.bind_output(name, "cuda", 0, np.float16, tuple(answer.shape), answer.data_ptr())
    torch.cuda.synchronize()  # it has a stream of its own

    def run(keep: torch.Tensor = image) -> None:
        session.run_with_iobinding(binding)

    return Side(run, lambda: answer)


def half(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with float16 in place of float32: weights, inputs and outputs."""
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    del graph.value_info[:]
    return model


PEERS: dict[str, Callable[[Graph, torch.Tensor], Side]] = {
    "torch.compile": compiled,
    "torch eager": eager,
    "optgraph, in turn": in_turn,
    "JAX": jax_xla,
    "ONNX Runtime CUDA": onnxruntime_cuda,
    "TensorRT": tensorrt,
}
