"""How Triton Inference Server is to serve a network, and the config.pbtxt that says it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from optgraph.adapters.triton_server import BACKEND_KEY
from optgraph.api.net import Net
from optgraph.base.arrays import to_tensor
from optgraph.base.errors import InputError, ModelError, OptgraphError
from optgraph.compare.oracle import COUPLED, distance
from optgraph.ir.values import BATCH, Dim, Value
from optgraph.onnx.sizes import size_text
from optgraph.pictures.labels import classes
from optgraph.run.example import example

MAX_BATCH = 8  # where nobody says
OPEN = -1  # a dimension of any size, as the server writes it

LABELS = "labels.txt"
_MARK = "# optgraph: "
_TYPES = (
    {"float64": "FP64", "float32": "FP32", "float16": "FP16", "bfloat16": "BF16", "bool": "BOOL"}
    | {f"int{bits}": f"INT{bits}" for bits in (8, 16, 32, 64)}
    | {f"uint{bits}": f"UINT{bits}" for bits in (8, 16, 32, 64)}
)
_KINDS = {"auto": "KIND_AUTO", "triton": "KIND_GPU"}  # of other backends' instances: KIND_CPU

Declared = list[Dim]  # dtype, then the dimensions: 'N' is the batch


@dataclass(frozen=True)
class Serving:
    """What a configuration says of all versions of a model.

    max_batch: the most images of one call; 0: requests are not joined. delay_us: how long one may wait for others.
    backend: what runs it. labels: a digest of the names of the classes, '' if they are not known.
    """

    max_batch: int
    delay_us: int
    backend: str
    inputs: Mapping[str, Declared]
    outputs: Mapping[str, Declared]
    labels: str

    @property
    def kind(self) -> str:
        """What its instances run on, in the server's words."""
        return _KINDS.get(self.backend, "KIND_CPU")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def difference(self, other: Serving) -> str:
        """How another differs, in words; '' if it does not."""
        for field in fields(self):
            mine, its = getattr(self, field.name), getattr(other, field.name)
            if mine != its:
                what = field.name.replace("_", "-")
                told = "are others" if field.name in ("inputs", "outputs", "labels") else f"is {mine} there, {its} here"
                return f"{what} {told}"
        return ""


def serving(net: Net, backend: str, max_batch: int | None, delay_us: int | None) -> tuple[Serving, str]:
    """How `net` is to be served, and why its requests are not joined, where nobody asked for that.

    max_batch, delay_us: None where nobody says. Raises InputError for what cannot be.
    """
    why = "" if max_batch == 0 else why_not_joined(net)
    if max_batch and why:
        raise InputError(f"--max-batch {max_batch}: requests cannot be joined: {why}: leave it out, or say 0")
    most = max_batch if max_batch is not None else 0 if why else MAX_BATCH
    if delay_us and most < 2:
        raise InputError(f"--delay-us {delay_us}: requests are not joined{why and ': '}{why}: leave it out")
    at_sizes = [net.at(*size) for size in net.sizes] or [net]
    bare = [name for name, value in {**net.inputs, **net.outputs}.items() if not value.shape]
    if bare:
        raise InputError(f"'{bare[0]}' has no dimensions, and the server has no such tensors")
    if backend in ("auto", "triton", "interpret"):
        _check_plans(at_sizes, most)
    inputs = {name: _declared(net, name, [at.inputs[name] for at in at_sizes]) for name in net.inputs}
    outputs = {name: _declared(net, "", [at.outputs[name] for at in at_sizes]) for name in net.outputs}
    labels = hashlib.sha256("\n".join(net.labels).encode()).hexdigest()[:16] if net.labels else ""
    return Serving(most, delay_us or 0, backend, inputs, outputs, labels), why


def why_not_joined(net: Net) -> str:
    """Why requests to this network cannot be one call; '' if they can, which is tried."""
    for what, values in (("input", net.inputs), ("output", net.outputs)):
        for name, value in values.items():
            if value.shape[:1] != (BATCH,):
                first = f"{value.shape[0]}, not an open batch" if value.shape else "not there"
                return f"the first dimension of {what} '{name}' is {first}"
            if any(isinstance(dim, str) for dim in value.shape[1:]):
                return f"{what} '{name}' has a dimension that is not the same for all images"
    feeds = {name: to_tensor(array) for name, array in example(net.inputs, 2, seed=0).items()}
    both = _run(net, feeds)
    for image in range(2):
        alone = _run(net, {name: x[image : image + 1] for name, x in feeds.items()})
        for name, answer in both.items():
            mine, its = (y.double().nan_to_num(posinf=0, neginf=0) for y in (answer[image : image + 1], alone[name]))
            if not distance(mine, its)[0] <= COUPLED:
                return f"what output '{name}' says of an image depends on the others of its batch"
    return ""


def config_text(served: Serving, net: Net) -> str:
    """config.pbtxt."""
    lines = [
        "# Written by `optgraph export-triton`, and yours to edit. A new version is compared with the next line.",
        _MARK + json.dumps(served.to_json()),
        'backend: "python"',
        f"max_batch_size: {served.max_batch}",
    ]
    for what, values in (("input", served.inputs), ("output", served.outputs)):
        for name, (dtype, *shape) in values.items():
            facts = [f"name: {_quoted(name)}", f"data_type: TYPE_{_TYPES[str(dtype)]}", _dims(served, shape)]
            if what == "output" and net.labels and classes(net.outputs[name].shape) == len(net.labels):
                facts.append(f'label_filename: "{LABELS}"')
            lines.append(f"{what} [ {{ {' '.join(facts)} }} ]")
    lines.append(f"instance_group [ {{ kind: {served.kind} count: 1 }} ]")
    if served.max_batch > 1:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {served.delay_us} }}")
    lines.append(f'parameters [ {{ key: "{BACKEND_KEY}" value: {{ string_value: "{served.backend}" }} }} ]')
    return "\n".join([*lines, *_warm_up(served, net)]) + "\n"


def written_for(config: str) -> Serving | None:
    """What a config.pbtxt of ours was written for; None of anyone else's."""
    for line in config.splitlines():
        if line.startswith(_MARK):
            try:
                return Serving(**json.loads(line.removeprefix(_MARK)))
            except (ValueError, TypeError):
                return None
    return None


def _check_plans(nets: Sequence[Net], most: int) -> None:
    """Raises InputError where the kernels cannot run so many images: the server is not to be the one who finds out."""
    for net in nets:
        try:
            net.plan(max(1, most))
        except OptgraphError as error:
            reason = error.reason if isinstance(error, ModelError) else str(error)
            raise InputError(f"--max-batch {most}: {reason}") from None


def _warm_up(served: Serving, net: Net) -> Iterator[str]:
    """Calls that the server makes before the model is ready, so that no user waits for what a first one has to do: once
    a process, and on a GPU once a batch size, of which these are the least and the most."""
    for at in [net.at(*size) for size in net.sizes] or [net]:
        size = f" of {size_text(at.size)}" if at.size else ""
        for images in sorted({1, 1 if served.kind == "KIND_CPU" else max(1, served.max_batch)}):
            yield f'model_warmup [ {{ name: "{images}{size}" batch_size: {images}'
            for name, value in at.inputs.items():
                shape = [1 if isinstance(dim, str) else dim for dim in value.shape[served.max_batch > 0 :]] or [1]
                facts = f"data_type: TYPE_{_TYPES[value.dtype]} dims: [ {', '.join(map(str, shape))} ] zero_data: true"
                yield f"  inputs [ {{ key: {_quoted(name)} value: {{ {facts} }} }} ]"
            yield "} ]"


def _declared(net: Net, name: str, values: Sequence[Value]) -> Declared:
    """The type and shape of an input, or an output (name ''), by what it is at each of the net's sizes."""
    shape: list[Dim] = []
    for axis, dims in enumerate(zip(*(value.shape for value in values), strict=True)):
        same = len(set(dims)) == 1 and (isinstance(dims[0], int) or (axis == 0 and dims[0] == BATCH))
        if net.any_size and net.image is not None:
            same = same and (axis not in net.image.axes if name == net.image.input else axis == 0)
        shape.append(dims[0] if same else OPEN)
    return [values[0].dtype, *shape]


def _dims(served: Serving, shape: Sequence[Dim]) -> str:
    """The dimensions that config.pbtxt gives a tensor. It has to have some, so a number is one of one dimension."""
    dims = [OPEN if isinstance(dim, str) else dim for dim in shape[served.max_batch > 0 :]]
    return f"dims: [ {', '.join(map(str, dims))} ]" if dims else "dims: [ 1 ] reshape: { shape: [ ] }"


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _run(net: Net, feeds: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found: Any = net(feeds)
    return found if isinstance(found, dict) else {next(iter(net.outputs)): found}
