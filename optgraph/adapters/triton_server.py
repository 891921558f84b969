"""What Triton Inference Server's Python backend runs of a model that `optgraph export-triton` wrote.

The server hands over the requests that wait, each of an image or several. Those that fit together are joined and
answered by one call of the network, whose answers are split again. A request that does not fit has an error of its own,
and the others their answers.

Tensors come and go by DLPack: older servers' `as_numpy` is of numpy 1. The server starts a process to look at model.py
and another to run it, so what takes seconds to import is imported when the network is loaded.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optgraph.base.errors import OptgraphError, printable

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]
    Call = Callable[[Tensors], Tensors]
    Answer = Tensors | Exception

ARTIFACT_NAME = "model.optgraph"  # in the folder of a version, beside model.py
BACKEND_KEY = "optgraph_backend"  # a parameter of config.pbtxt


class TritonPythonModel:
    """The interface of the Python backend: one object for an instance of a model, in a process of its own."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Loads the network that lies beside model.py. Raises OptgraphError, which the server shows."""
        import torch
        import triton_python_backend_utils as pb_utils  # there is no such module but in the server

        from optgraph.api import compiling

        self._pb = pb_utils
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        kind, device = args["model_instance_kind"], int(args["model_instance_device_id"])
        if kind == "GPU":
            torch.cuda.set_device(device)
        start = time.perf_counter()
        self._net = compiling.load(folder / ARTIFACT_NAME, backend_for(config, kind))
        self._outputs = list(self._net.outputs)
        self._joined = config["max_batch_size"] > 0
        seconds = time.perf_counter() - start
        pb_utils.Logger.log_info(f"optgraph: {args['model_name']}: {self._net} loaded in {seconds:.2f} s")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """A response to each request, in their order."""
        from torch.utils.dlpack import from_dlpack

        feeds = [{tensor.name(): from_dlpack(tensor.to_dlpack()) for tensor in each.inputs()} for each in requests]
        return [self._response(answer) for answer in answers(self._call, feeds, self._joined)]

    def finalize(self) -> None:
        """Lets go of the network, and of its memory on the GPU."""
        del self._net

    def _call(self, feeds: Tensors) -> Tensors:
        found: Any = self._net(feeds)
        return found if isinstance(found, dict) else {self._outputs[0]: found}

    def _response(self, answer: Answer) -> Any:
        from torch.utils.dlpack import to_dlpack  # type: ignore[attr-defined]

        pb = self._pb
        if isinstance(answer, OptgraphError):
            return pb.InferenceResponse(error=pb.TritonError(str(answer), pb.TritonError.INVALID_ARG))
        if isinstance(answer, Exception):
            pb.Logger.log_error("".join(traceback.format_exception(answer)))
            text = printable(f"{type(answer).__name__}: {answer}")
            return pb.InferenceResponse(error=pb.TritonError(text, pb.TritonError.INTERNAL))
        return pb.InferenceResponse([pb.Tensor.from_dlpack(name, to_dlpack(y)) for name, y in answer.items()])


def backend_for(config: Mapping[str, Any], kind: str) -> str:
    """The backend that config.pbtxt names; by default that of the device an instance was given."""
    named = config.get("parameters", {}).get(BACKEND_KEY, {}).get("string_value", "auto")
    return named if named != "auto" else "triton" if kind == "GPU" else "onnxruntime"


def answers(call: Call, requests: Sequence[Tensors], joined: bool) -> list[Answer]:
    """What the network answers each request with: tensors by output, or what is wrong with it.

    joined: the first dimension of every input and output is that of the batch, and requests whose others are equal
    are answered by one call. If that fails, each is tried by itself, so that none has an error of another's.
    """
    found: dict[int, Answer] = {}
    for members in _alike(requests) if joined else [[index] for index in range(len(requests))]:
        together = _answered(call, [requests[index] for index in members])
        if len(members) > 1 and isinstance(together[0], Exception):
            together = [_answered(call, [requests[index]])[0] for index in members]
        found |= zip(members, together, strict=True)
    return [found[index] for index in range(len(requests))]


def _alike(requests: Sequence[Tensors]) -> list[list[int]]:
    """Which requests can be one: those of equal inputs, but for the number of images."""
    groups: dict[object, list[int]] = {}
    for index, feeds in enumerate(requests):
        kind = tuple((name, x.dtype, x.device, tuple(x.shape[1:])) for name, x in sorted(feeds.items()))
        single = len({x.shape[:1] for x in feeds.values()}) == 1  # else its inputs are of different batches: an error
        groups.setdefault(kind if single else index, []).append(index)
    return list(groups.values())


def _answered(call: Call, requests: Sequence[Tensors]) -> list[Answer]:
    """The answers to requests that are alike, by one call; or what it failed with, once for each."""
    import torch

    try:
        if len(requests) == 1:
            feeds = {name: x.clone() for name, x in requests[0].items()}  # the server's own memory, which it takes back
            return [_contiguous(call(feeds))]
        feeds = {name: torch.cat([each[name] for each in requests]) for name in requests[0]}
        images = [len(next(iter(each.values()))) for each in requests]
        parts = {name: torch.split(y, images) for name, y in _contiguous(call(feeds)).items()}
        return [{name: part[i] for name, part in parts.items()} for i in range(len(requests))]
    except Exception as error:  # one request must not end the process that answers all others
        return [error] * len(requests)


def _contiguous(outputs: Tensors) -> Tensors:
    return {name: y.contiguous() for name, y in outputs.items()}
