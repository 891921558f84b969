"""What can run a compiled network. Each backend takes tensors by input name and gives tensors by output name.

Each can also be watched: it then shows what every node of its graph gave, in the same words for all of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import onnx
import torch

from optgraph.ahead.cubins import Cubin
from optgraph.base.arrays import as_tensor, to_array
from optgraph.base.devices import INTERPRET, SM_90, Target
from optgraph.base.dtypes import INT8, torch_dtype
from optgraph.base.errors import InputError, OptgraphError
from optgraph.base.progress import Progress, silent
from optgraph.ir.graph import Graph
from optgraph.ir.values import Value, at
from optgraph.onnx.apart import EndedError
from optgraph.onnx.narrowed import in_float32
from optgraph.onnx.on_disk import OnDisk, weight_bytes
from optgraph.onnx.sessions import InnerValues, Running, session
from optgraph.onnx.write import WEIGHT_LIMIT, ModelWriter, to_onnx
from optgraph.plan.plans import Plans
from optgraph.run.context import Tensors
from optgraph.run.engine import Engine, See
from optgraph.run.reference import Executor

NAMES = ("auto", "triton", "interpret", "onnxruntime", "torch")


class Buffers(Protocol):
    """Where a backend reads and writes for one caller, by public name."""

    inputs: dict[str, torch.Tensor]
    outputs: dict[str, torch.Tensor]

    def run(self, feeds: Tensors) -> None:
        """Leaves in `outputs` what the network makes of `inputs`, `feeds` copied in before."""


class Backend(Protocol):
    """Runs `graph`.

    feeds: CPU or CUDA tensors by input name, already checked against the graph.
    batch: how many images they are; 1 where no input has an open batch.
    """

    graph: Graph

    def __call__(self, feeds: Tensors, batch: int) -> dict[str, torch.Tensor]:
        """The outputs by public name."""

    def stepwise(self, feeds: Tensors, batch: int, see: See) -> dict[str, torch.Tensor]:
        """Shows `see` every node of the graph, in order, and its values, which stay valid until it returns.

        Gives what a call does: the outputs of a run as any user gets them.
        """

    def bind(self, batch: int) -> Buffers:
        """Buffers for so many images that no call uses, their inputs zero."""


def check_backend(name: str) -> None:
    """Raises InputError for an unknown name."""
    if name not in NAMES:
        raise InputError(f"unknown backend '{name}': use {', '.join(NAMES)}")


def resolve_backend(name: str) -> str:
    """'auto' as what it means here: 'triton' where there is a CUDA device, else 'onnxruntime'.

    Raises InputError for an unknown name, or 'triton' without a GPU.
    """
    check_backend(name)
    if name == "auto":
        return "triton" if torch.cuda.is_available() else "onnxruntime"
    if name == "triton" and not torch.cuda.is_available():
        raise InputError("the triton backend needs an NVIDIA GPU; here, use interpret, onnxruntime or torch")
    return name


def make_backend(
    name: str,
    simplified: Graph,
    plans: Plans,
    cubins: Sequence[Cubin] = (),
    like: Backend | None = None,
    progress: Progress = silent,
) -> Backend:
    """The backend of a resolved name: kernels and torch run the fused graph, ONNX Runtime the simplified one.

    cubins: kernels compiled ahead, for 'triton'. like: what runs the same network at another size. progress: told of
    kernels that 'triton' compiles when they are first needed.
    """
    engine = like if isinstance(like, Engine) else None
    match name:
        case "triton":
            import_triton(name)
            device = torch.device("cuda", torch.cuda.current_device())
            return Engine(plans, device, cubins, like=engine, progress=progress)
        case "interpret":
            if plans.dtype == "bf16":
                raise InputError("Triton's interpreter cannot multiply bf16: use fp32, tf32 or fp16 with interpret")
            import_triton(name)
            return Engine(plans, torch.device("cpu"), like=engine)
        case "onnxruntime":
            return OnnxRuntime(simplified, opened=opener(plans.dtype))
        case _:
            return Torch(plans.graph)


def kernel_target(name: str) -> Target:
    """What the kernels of a resolved backend run on; an H100 for one that has none."""
    if name == "triton":
        return Target(torch.cuda.get_device_capability())
    return INTERPRET if name == "interpret" else SM_90


class Copies:
    """Buffers for a backend that computes in its own: inputs and outputs of the model's types, dense, on the CPU."""

    def __init__(self, backend: Backend, batch: int) -> None:
        graph = backend.graph
        self._backend, self._batch = backend, batch
        self.inputs = {name: _zeros(graph.values[name], batch) for name in graph.inputs}
        self.outputs = {public: _zeros(graph.values[name], batch) for public, name in graph.outputs.items()}

    def run(self, feeds: Tensors) -> None:
        for name, tensor in feeds.items():
            self.inputs[name].copy_(tensor.detach())
        for public, tensor in self._backend(self.inputs, self._batch).items():
            out = self.outputs[public]
            assert out.shape == tensor.shape, f"output '{public}' is {tensor.shape}, not {out.shape}"
            out.copy_(tensor)


def _zeros(value: Value, batch: int) -> torch.Tensor:
    return torch.zeros([at(size, batch) for size in value.shape], dtype=torch_dtype(value.dtype))


class Torch:
    """The plain torch reference on the CPU, in float32; in float64 for a graph with doubles in it."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        doubles = any(value.dtype == "float64" for value in graph.values.values())
        self._executor = Executor(graph, torch.float64 if doubles else torch.float32)

    def __call__(self, feeds: Tensors, batch: int) -> dict[str, torch.Tensor]:
        return self._executor(feeds)

    def stepwise(self, feeds: Tensors, batch: int, see: See) -> dict[str, torch.Tensor]:
        for node, values in self._executor.stream(feeds):
            see(node, dict(zip(node.outputs, values, strict=True)))
        return self(feeds, batch)

    def bind(self, batch: int) -> Buffers:
        return Copies(self, batch)


def opener(dtype: str) -> Callable[..., Running]:
    """What opens the sessions of ONNX Runtime: in int8, it computes in integers what it can."""
    return partial(session, integers=True) if dtype == INT8 else session


class OnnxRuntime:
    """ONNX Runtime on the CPU, running a graph exported as standard ONNX, in float32.

    Doubles are computed as such where ONNX Runtime has the operators for them and no number is of 16 bits.
    """

    def __init__(self, graph: Graph, threads: int = 0, opened: Callable[..., Running] = session) -> None:
        """threads: 0 means all cores. opened: what opens its sessions, as `session` does; see `onnx/apart.py`."""
        self.graph = graph
        self._opened = opened
        self._files = OnDisk()
        dtypes = {value.dtype for value in graph.values.values()}
        self._narrows = not dtypes.isdisjoint(("float16", "bfloat16"))
        model = to_onnx(graph)
        try:
            self._session = opened(self._openable(self._narrowed(model)), threads)
        except EndedError:
            raise
        except OptgraphError as error:
            if self._narrows or "float64" not in dtypes:
                raise OptgraphError(f"{error}: use backend='torch'") from None
            self._narrows = True
            self._session = opened(self._openable(self._narrowed(model)), threads)

    def __call__(self, feeds: Tensors, batch: int) -> dict[str, torch.Tensor]:
        results = self._session.run(None, self._arrays(feeds))
        return {name: as_tensor(result) for name, result in zip(self._session.outputs, results, strict=True)}

    def stepwise(self, feeds: Tensors, batch: int, see: See) -> dict[str, torch.Tensor]:
        exporter = ModelWriter(self.graph)
        exported = InnerValues(self._narrowed(exporter.export()), self._opened)
        nodes = self.graph.nodes()
        names = {value: exporter.name(value) for node in nodes for value in node.outputs}
        values = exported.stream([name for name in names.values() if name in exported], self._arrays(feeds))
        for node in nodes:
            see(node, {v: as_tensor(next(values)) for v in node.outputs if names[v] in exported})
        return self(feeds, batch)

    def bind(self, batch: int) -> Buffers:
        return Copies(self, batch)

    def _openable(self, model: onnx.ModelProto) -> bytes | str:
        """As a message, or as a file where it is too large for one."""
        return self._files.save(model) if weight_bytes(model) > WEIGHT_LIMIT else model.SerializeToString()

    def _narrowed(self, model: onnx.ModelProto) -> onnx.ModelProto:
        return in_float32(model) if self._narrows else model

    def _arrays(self, feeds: Tensors) -> dict[str, np.ndarray]:
        tensors = {
            name: tensor.float() if self._narrows and tensor.is_floating_point() else tensor
            for name, tensor in feeds.items()
        }
        return {name: np.asarray(to_array(tensor), order="C") for name, tensor in tensors.items()}


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
