"""What can run a compiled network. Each backend takes tensors by input name and gives tensors by output name."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from optgraph.ahead.cubins import Cubin
from optgraph.base.devices import INTERPRET, SM_90, Target
from optgraph.base.errors import InputError, OptgraphError
from optgraph.ir.graph import Graph
from optgraph.onnx.write import to_onnx
from optgraph.plan.plans import Plans
from optgraph.run.engine import Engine
from optgraph.run.reference import Executor

NAMES = ("auto", "triton", "interpret", "onnxruntime", "torch")


class Backend(Protocol):
    """Runs the network; inputs are CPU or CUDA tensors already checked against the graph."""

    def __call__(self, feeds: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]: ...


def resolve_backend(name: str) -> str:
    """'auto' as what it means here: 'triton' where there is a CUDA device, else 'onnxruntime'.

    Raises InputError for an unknown name, or 'triton' without a GPU.
    """
    if name not in NAMES:
        raise InputError(f"unknown backend '{name}': use {', '.join(NAMES)}")
    if name == "auto":
        return "triton" if torch.cuda.is_available() else "onnxruntime"
    if name == "triton" and not torch.cuda.is_available():
        raise InputError("the triton backend needs an NVIDIA GPU; here, use interpret, onnxruntime or torch")
    return name


def make_backend(name: str, simplified: Graph, plans: Plans, cubins: Sequence[Cubin] = ()) -> Backend:
    """The backend of a resolved name: kernels and torch run the fused graph, ONNX Runtime the simplified one.

    cubins: kernels compiled ahead, for 'triton'.
    """
    match name:
        case "triton":
            import_triton(name)
            return Engine(plans, torch.device("cuda", torch.cuda.current_device()), cubins)
        case "interpret":
            if plans.dtype == "bf16":
                raise InputError("Triton's interpreter cannot multiply bf16: use fp32, tf32 or fp16 with interpret")
            import_triton(name)
            return Engine(plans, torch.device("cpu"))
        case "onnxruntime":
            return OnnxRuntime(simplified)
        case _:
            return Executor(plans.graph)


def kernel_target(name: str) -> Target:
    """What the kernels of a resolved backend run on; an H100 for one that has none."""
    if name == "triton":
        return Target(torch.cuda.get_device_capability())
    return INTERPRET if name == "interpret" else SM_90


class OnnxRuntime:
    """ONNX Runtime on the CPU, running a graph exported as standard ONNX, in float32. threads: 0 means all cores."""

    def __init__(self, graph: Graph, threads: int = 0) -> None:
        self._session = session(to_onnx(graph).SerializeToString(), threads)
        self._names = [output.name for output in self._session.get_outputs()]

    def __call__(self, feeds: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        arrays = {name: np.asarray(tensor.detach().cpu().numpy(), order="C") for name, tensor in feeds.items()}
        results = self._session.run(self._names, arrays)
        return {name: torch.from_numpy(result) for name, result in zip(self._names, results, strict=True)}


def session(model: bytes | str, threads: int = 0, optimize: bool = True) -> Any:
    """An ONNX Runtime CPU session for a model's bytes or path. Raises OptgraphError if ONNX Runtime refuses it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises types of its own that share no base but Exception
        raise OptgraphError(f"ONNX Runtime does not accept the model: {str(error).splitlines()[0]}") from None


def import_triton(name: str) -> None:
    """Sees to it that Triton, if backend `name` needs it, runs as that wants: it decides once, when imported."""
    if name not in ("triton", "interpret"):
        return
    interpreted = name == "interpret"
    if "triton" not in sys.modules:
        if interpreted:
            os.environ["TRITON_INTERPRET"] = "1"
        else:
            os.environ.pop("TRITON_INTERPRET", None)
    try:
        import triton
        from triton.runtime.jit import JITFunction
    except ImportError:
        raise OptgraphError("Triton is not installed: pip install triton") from None
    if isinstance(triton.language.cdiv, JITFunction) == interpreted:
        remedy = "set TRITON_INTERPRET=1" if interpreted else "unset TRITON_INTERPRET"
        mode = "for the GPU" if interpreted else "as an interpreter"
        raise OptgraphError(f"Triton was already imported {mode} in this process: {remedy} before it is imported")
