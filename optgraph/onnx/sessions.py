"""ONNX Runtime on the CPU: every session is made here; and any value inside a model, through some of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import helper

from optgraph.base.errors import OptgraphError
from optgraph.onnx import ort_faults
from optgraph.onnx.inlining import inlined
from optgraph.onnx.narrowed import OTHERS, SHORT, Types, has, in_float32, narrowed
from optgraph.onnx.on_disk import OnDisk
from optgraph.onnx.parts import upstream

Feeds = Mapping[str, np.ndarray]

CHUNK = 16  # inner values held at a time


class Running(Protocol):
    """A model in ONNX Runtime, with the names of its inputs and outputs."""

    inputs: list[str]
    outputs: list[str]

    def run(self, names: Sequence[str] | None, feeds: Feeds) -> list[np.ndarray]:
        """The named outputs, all of them for None. Raises OptgraphError if ONNX Runtime cannot compute them."""


class Session:
    """A model in ONNX Runtime, in this process."""

    def __init__(self, running: Any) -> None:
        self._running = running
        self.inputs: list[str] = [value.name for value in running.get_inputs()]
        self.outputs: list[str] = [value.name for value in running.get_outputs()]

    def run(self, names: Sequence[str] | None, feeds: Feeds) -> list[np.ndarray]:
        try:
            results: list[np.ndarray] = self._running.run(names, dict(feeds))
        except Exception as error:  # ONNX Runtime raises types of its own that share no base but Exception
            raise OptgraphError(f"ONNX Runtime cannot run the model: {_line(error)}") from None
        return results

    def profile(self) -> list[dict[str, Any]]:
        """Ends the profile of one that was opened with it: its events, in the Trace Event Format."""
        path = Path(self._running.end_profiling())
        events: list[dict[str, Any]] = json.loads(path.read_text())
        return events


def session(
    model: bytes | str, threads: int = 0, optimize: bool = True, profile: Path | None = None, integers: bool = False
) -> Session:
    """An ONNX Runtime CPU session for a model's bytes or path. threads: 0 means all cores.

    optimize: with all of ONNX Runtime's optimisations but those that are wrong (`ort_faults.OFF`, `EXACT`).
    profile: where a file is kept of what `Session.profile` gives; what it begins with.
    integers: what stands between DequantizeLinear and QuantizeLinear is computed in integers, against `EXACT`.
    Raises OptgraphError if ONNX Runtime refuses it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what is wrong is raised, too
    for name, value in ({} if integers else ort_faults.EXACT).items():
        options.add_session_config_entry(name, value)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        running = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(ort_faults.OFF)
        )
    except Exception as error:
        raise OptgraphError(f"ONNX Runtime does not accept the model: {_line(error)}") from None
    return Session(running)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


class InnerValues:
    """Any value that a node of `model` computes, with nothing optimised unless asked.

    Doubles and bfloat16 that ONNX Runtime has no operators for are computed in float32. A Sigmoid is computed as it is
    defined, for ONNX Runtime's own is far off where it is small.
    """

    def __init__(
        self, model: onnx.ModelProto, opened: Callable[..., Running] | None = None, widened: bool = False
    ) -> None:
        """opened: what opens its sessions, as `session` does and if that is None; see `apart.py`.

        widened: whether floats of fewer bits than float32 are computed in that, as every backend does.
        """
        self._opened = opened or session
        self._files = OnDisk()
        self._short = SHORT if widened else frozenset()
        # As import does, so that the names inside are the same.
        model = inlined(model)
        self._model = in_float32(model, self._short) if has(model, self._short) else model
        self._computed = {name for node in self._model.graph.node for name in node.output if name}

    @property
    def graph(self) -> onnx.GraphProto:
        """The model's, its local functions inlined."""
        return self._model.graph

    def __contains__(self, name: object) -> bool:
        """Whether a node of the model computes `name`."""
        return name in self._computed

    def run(self, names: Sequence[str], *runs: Feeds, optimize: bool = False) -> list[dict[str, np.ndarray]]:
        """The named values, for each of the feeds, which are all of one shape."""
        names = list(dict.fromkeys(names))
        runs = _in_float32(runs, self._short)
        part = self._upto(names, runs[0])
        try:
            running = self._opened(self._files.save(part), optimize=optimize)
        except OptgraphError:
            part = self._upto(names, runs[0])
            if not has(part, OTHERS):
                raise
            running = self._opened(self._files.save(in_float32(part)), optimize=optimize)
            runs = _in_float32(runs, OTHERS)
        return [dict(zip(names, running.run(names, dict(feeds)), strict=True)) for feeds in runs]

    def stream(self, names: Sequence[str], feeds: Feeds) -> Iterator[np.ndarray]:
        """The named values one after the other, at most CHUNK of them in memory."""
        for start in range(0, len(names), CHUNK):
            yield from self._chunk(names[start : start + CHUNK], feeds)

    def _chunk(self, names: Sequence[str], feeds: Feeds) -> Iterator[np.ndarray]:
        (values,) = self.run(names, feeds)
        for name in names:
            yield values[name]

    def _upto(self, names: Sequence[str], feeds: Feeds) -> onnx.ModelProto:
        """The model as far as the last of `names`, which are its outputs; its inputs are of the shapes of `feeds`."""
        whole = self._model.graph
        nodes, read = upstream(whole, names)
        read.update(names)
        part = onnx.ModelProto(ir_version=max(4, self._model.ir_version), opset_import=self._model.opset_import)
        part.graph.name = whole.name or "reference"
        part.graph.node.extend(ort_faults.named_outputs(nodes))
        part.graph.input.extend(
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in feeds.items()
        )
        part.graph.initializer.extend(tensor for tensor in whole.initializer if tensor.name in read)
        part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        ort_faults.exact_sigmoid(part.graph)
        return part


def _in_float32(runs: Sequence[Feeds], types: Types) -> tuple[Feeds, ...]:
    return tuple({name: narrowed(array, types) for name, array in feeds.items()} for feeds in runs)
