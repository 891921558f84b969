"""A graph of torch's operators as an ONNX model, by one of torch's exporters. Its weights are inputs of the model: it
has none of them in it, and need not be exported again when they change."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any
from unittest.mock import patch

import onnx
import torch
from torch import fx

from optgraph.base.errors import InputError, ModelError
from optgraph.ir.values import BATCH
from optgraph.modules.graph import TorchGraph
from optgraph.modules.watch import Output

# What `exporter` may be: torch's by tracing, which is fast, and the newer one, which needs onnxscript.
EXPORTERS = ("trace", "dynamo")
OPSET = 18

_EXPORTING = threading.Lock()  # torch's exporter is one in the process, as is who is warned


def check_exporter(name: str) -> None:
    """Raises InputError for one that there is not."""
    if name not in EXPORTERS:
        raise InputError(f"unknown exporter '{name}': use {', '.join(EXPORTERS)}")


def exported(
    graph: TorchGraph,
    arguments: Sequence[Any],
    outputs: Mapping[str, Output],
    open_batch: bool,
    exporter: str = "trace",
) -> onnx.ModelProto:
    """The graph as an ONNX model, for images of the sizes of these arguments.

    outputs: what it is to give, by name. open_batch: it takes any batch.
    Raises ModelError for what cannot be exported.
    """
    module = _plain(graph, outputs)
    names = {position: name for each in (graph.weights, graph.inputs) for name, position in each.items()}
    axes = {names[position]: {0: BATCH} for position in graph.batched} if open_batch else {}
    with _EXPORTING, warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # its advice is for who wrote the exporter's call
        given = [
            arguments[position].detach() if name in graph.weights else arguments[position].detach().clone()
            for position, name in sorted(names.items())
        ]
        ordered = [name for _, name in sorted(names.items())]
        export = _traced if exporter == "trace" else _by_dynamo
        try:
            return export(module, given, ordered, list(outputs), axes)
        except ModuleNotFoundError as error:
            raise ModelError(f"exporter '{exporter}' needs {error.name}", f"pip install {error.name}") from None
        except Exception as error:  # of what goes wrong in there, no list could be complete
            lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise ModelError(f"torch cannot export it to ONNX ({lines[0].strip()})") from error


def _plain(graph: TorchGraph, outputs: Mapping[str, Output]) -> fx.GraphModule:
    """The graph of tensors alone: it asks the tensors for sizes, and gives what `outputs` names."""
    copied = fx.Graph()
    mapped: dict[fx.Node, fx.Node] = {}
    copied.graph_copy(graph.module.graph, mapped)
    last = mapped[graph.nodes[-1]]
    for position, size in graph.sizes.items():
        with copied.inserting_after(last):
            asked = copied.call_method("size", (mapped[graph.nodes[size.position]], size.axis))
        mapped[graph.nodes[position]].replace_all_uses_with(asked)
        copied.erase_node(mapped[graph.nodes[position]])
    for node in copied.nodes:
        node.meta = {}  # what Dynamo knows of it, at the sizes that it has
    copied.output(tuple(mapped[output.node] for output in outputs.values() if output.node is not None))
    return fx.GraphModule(graph.module, copied)


def _traced(
    module: fx.GraphModule,
    given: Sequence[torch.Tensor],
    inputs: list[str],
    outputs: list[str],
    axes: Mapping[str, Mapping[int, str]],
) -> onnx.ModelProto:
    file = io.BytesIO()
    with patch.object(torch._C, "_jit_onnx_log"):  # which would print the graph that it fails at
        torch.onnx.export(
            module,
            tuple(given),
            file,  # type: ignore[arg-type]  # it takes files, too
            dynamo=False,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=OPSET,
            export_params=False,
            do_constant_folding=False,  # it would fold weights
            training=torch.onnx.TrainingMode.PRESERVE,  # as each operator says
        )
    return onnx.load_model_from_string(file.getvalue())


def _by_dynamo(
    module: fx.GraphModule,
    given: Sequence[torch.Tensor],
    inputs: list[str],
    outputs: list[str],
    axes: Mapping[str, Mapping[int, str]],
) -> onnx.ModelProto:
    batch = torch.export.Dim(BATCH)
    shapes = tuple(dict.fromkeys(axes[name], batch) if name in axes else None for name in inputs)
    with torch._guards.tracing(None):  # Dynamo, who may have called, traces something else
        program = torch.onnx.export(
            module,
            tuple(given),
            dynamo=True,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=shapes if axes else None,
            opset_version=OPSET,
            optimize=False,
            verbose=False,
        )
    assert program is not None
    return program.model_proto
