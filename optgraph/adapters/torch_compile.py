"""`torch.compile(model, backend="optgraph")`.

A graph that Dynamo takes from the program is exported to ONNX once, without its weights, and becomes a network for each
set of weights that it is called with. What a network cannot do in its place runs as torch would run it, and a warning
says why.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import fx
from torch.autograd import forward_ad

from optgraph.adapters.torch_weights import Watched, after_steps
from optgraph.api.net import Net
from optgraph.api.recipe import Recipe
from optgraph.base.dtypes import check_dtype
from optgraph.base.errors import InputError, ModelError, OptgraphError
from optgraph.compare.oracle import BOUNDS
from optgraph.modules.check import difference
from optgraph.modules.export import check_exporter
from optgraph.modules.graph import TorchGraph
from optgraph.modules.taken import Taken, arrays, taken
from optgraph.run.backends import kernel_target, resolve_backend

Sizes = tuple[int, ...]

KEPT = 8  # sizes of a graph that are kept ready; sets of weights are, while their module lives

# A module's numbers, and what a GPU's kernels store for it.
_STORED = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
_GRADIENTS = ModelError("gradients are asked for", "call it under torch.no_grad() or torch.inference_mode()")


class EagerWarning(UserWarning):
    """Something is not compiled, and runs as torch runs it."""


@dataclass(frozen=True)
class Options:
    """What `torch.compile(..., options={...})` may say.

    Attributes:
        backend: as for `optgraph.compile`; by default the kernels for tensors on a GPU, else what that does.
        dtype: as for `optgraph.compile`; by default fp32, and in a GPU's kernels what the module is of.
        exporter: 'trace' or 'dynamo', which of torch's exporters to ONNX is used.
        strict: a node without a kernel is a reason not to compile.
        keep_fp32: as for `optgraph.compile`.
        made: called with every `Net` that is made, to look into it or save it.
    """

    backend: str = ""
    dtype: str = ""
    exporter: str = "trace"
    strict: bool = False
    keep_fp32: Sequence[str] | str = ()
    made: Callable[[Net], object] | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """Raises InputError for what there is not."""
        names = [field.name for field in fields(cls)]
        for name in given:
            if name not in names:
                raise InputError(f"no option '{name}': options are {', '.join(names)}")
        options = cls(**given)
        check_exporter(options.exporter)
        if options.backend:
            resolve_backend(options.backend)
        if options.dtype:
            check_dtype(options.dtype)
        return options


def backend(
    graph: fx.GraphModule,
    examples: Sequence[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """What `torch.compile` calls with each graph. Raises InputError for an option that there is not."""
    settled = Options.of(options or {})
    if mode is not None:
        raise InputError(f"mode '{mode}' is not optgraph's: it has options={{'dtype': ...}}")
    if not any(node.op.startswith("call_") for node in graph.graph.nodes):
        return graph.forward
    try:
        return Compiled(graph, examples, settled)
    except OptgraphError as error:
        _warn(error)
        return graph.forward


def _warn(error: Exception) -> None:
    warnings.warn(f"optgraph: not compiled, runs as torch runs it: {error}", EagerWarning, stacklevel=3)


@dataclass
class _Nets:
    """The networks of one set of weights, by size; an error where there can be none."""

    weights: Watched
    by_sizes: OrderedDict[Sizes, Net | OptgraphError]


class Compiled:
    """A graph that answers through networks. Threads may call it."""

    def __init__(self, graph: fx.GraphModule, examples: Sequence[Any], options: Options) -> None:
        """Raises ModelError, saying why, for what is not to be compiled."""
        if _needs_gradients(examples):
            raise _GRADIENTS
        self._graph = TorchGraph(graph, examples)
        self._device, self._dtype = _checked(self._graph.tensors(examples) | self._inputs(examples))
        self._options = options
        self._open = bool(self._graph.batch)
        self._taken: OrderedDict[Sizes, Taken | OptgraphError] = OrderedDict()
        self._nets: dict[tuple[int, ...], _Nets] = {}  # by the ids of the weights
        self._right: set[Sizes] = set()  # those at which an answer has been compared with torch's
        self._told: set[str] = set()
        self._lock = threading.RLock()
        self._ready(examples)
        after_steps(self, Compiled._forget)

    def __call__(self, *arguments: Any) -> Sequence[Any]:
        try:
            if _needs_gradients(arguments):
                raise _GRADIENTS
            taken, net = self._ready(arguments)
            answers = net(self._inputs(arguments))
            named = answers if isinstance(answers, dict) else {next(iter(net.outputs)): answers}
            found = taken.given_back(named, arguments)  # type: ignore[arg-type]  # of tensors, tensors come back
            if self._sizes(arguments) not in self._right:
                self._compare(found, arguments)
        except OptgraphError as error:
            return self._eager(error, arguments)
        return found

    def _eager(self, error: OptgraphError, arguments: Sequence[Any]) -> Sequence[Any]:
        with self._lock:
            told = str(error) in self._told
            self._told.add(str(error))
        if not told:
            _warn(error)
        found: Sequence[Any] = self._graph.module(*arguments)
        return found

    def _inputs(self, arguments: Sequence[Any]) -> dict[str, torch.Tensor]:
        return {name: arguments[position] for name, position in self._graph.inputs.items()}

    def _sizes(self, arguments: Sequence[Any]) -> Sizes:
        """What an export is of: every open length but a batch that it leaves open."""
        batch = () if self._open or not self._graph.batch else (arguments[min(self._graph.batched)].shape[0],)
        return (*batch, *(arguments[size.position].shape[size.axis] for size in self._graph.varying))

    def _ready(self, arguments: Sequence[Any]) -> tuple[Taken, Net]:
        """The network for a call. Raises OptgraphError where there can be none."""
        weights = list(self._graph.tensors(arguments).values())
        key = tuple(map(id, weights))
        with self._lock, torch.inference_mode(False), torch.no_grad():  # what is made, outlives the call
            taken = self._taken_at(arguments)
            nets = self._nets.get(key)
            if nets is None:
                nets = self._nets[key] = _Nets(Watched(weights, lambda: self._let_go(key)), OrderedDict())
            elif not nets.weights.unchanged(weights):
                nets.weights.renew(weights)
                nets.by_sizes.clear()
            sizes = self._sizes(arguments)
            net = nets.by_sizes.get(sizes)
            if net is None:
                try:
                    net = self._made(taken, arguments)
                except OptgraphError as error:
                    net = error
                nets.by_sizes[sizes] = net
            nets.by_sizes.move_to_end(sizes)
            if len(nets.by_sizes) > KEPT:
                nets.by_sizes.popitem(last=False)
        if isinstance(net, OptgraphError):
            raise net
        return taken, net

    def _taken_at(self, arguments: Sequence[Any]) -> Taken:
        sizes = self._sizes(arguments)
        found = self._taken.get(sizes)
        if found is None:
            try:
                found = taken(self._graph, arguments, self._options.exporter)
                self._open = self._open and found.open_batch  # for good: what it is kept under depends on it
            except OptgraphError as error:
                found = error
            self._taken[self._sizes(arguments)] = found
            if len(self._taken) > KEPT:
                self._taken.popitem(last=False)
        if isinstance(found, OptgraphError):
            raise found
        return found

    def _made(self, taken: Taken, arguments: Sequence[Any]) -> Net:
        options = self._options
        name = options.backend or ("triton" if self._device.type == "cuda" else "auto")
        resolved = resolve_backend(name)
        dtype = options.dtype or (_STORED[self._dtype] if resolved == "triton" else "fp32")
        weights = arrays(self._graph.tensors(arguments))
        strict = kernel_target(resolved) if options.strict else None
        made = Recipe(taken.model, dtype, strict=strict, keep_fp32=options.keep_fp32, weights=weights).make()
        with self._at_home():
            net = Net(made.simplified, made.fused, made.source, resolved, dtype, made.reports, plans=made.plans)
        if options.made is not None:
            options.made(net)
        return net

    def _at_home(self) -> AbstractContextManager[Any]:
        """With the device of the tensors current, which a network of kernels is for."""
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()

    def _compare(self, found: Sequence[Any], arguments: Sequence[Any]) -> None:
        """Compares the first answer with torch's, for an exporter may be wrong. Raises ModelError if they differ."""
        expected = self._graph.module(*arguments)
        coarse = max(BOUNDS["tf32"], BOUNDS[_STORED[self._dtype]], BOUNDS[self._options.dtype or "fp32"])
        for i, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            wrong = difference(ours, theirs, coarse) if isinstance(theirs, torch.Tensor) else ""
            if wrong:
                error = ModelError(f"result {i} {wrong}")
                with self._lock:
                    self._taken[self._sizes(arguments)] = error
                raise error
        self._right.add(self._sizes(arguments))

    def _forget(self, changed: set[int]) -> None:
        """Lets networks go whose weights are among these, by their ids."""
        with self._lock:
            for key, nets in list(self._nets.items()):
                if not changed.isdisjoint(key):
                    nets.weights.doubt()
                    nets.by_sizes.clear()

    def _let_go(self, key: tuple[int, ...]) -> None:
        self._nets.pop(key, None)


def _needs_gradients(arguments: Sequence[Any]) -> bool:
    tensors = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return True
    forward = forward_ad._current_level >= 0  # torch.no_grad() does not end it
    return forward and any(_tangent(tensor) is not None for tensor in tensors)


def _tangent(tensor: torch.Tensor) -> torch.Tensor | None:
    found: torch.Tensor | None = forward_ad.unpack_dual(tensor).tangent  # type: ignore[no-untyped-call]
    return found


def _checked(tensors: Mapping[str, torch.Tensor]) -> tuple[torch.device, torch.dtype]:
    """The device of all, and the type of their floating numbers. Raises ModelError for what no network has."""
    devices = {tensor.device for tensor in tensors.values() if tensor.dim()}
    if len(devices) != 1 or next(iter(devices)).type not in ("cpu", "cuda"):
        raise ModelError(f"its tensors are on {' and '.join(sorted(map(str, devices)))}", "move them to one device")
    (device,) = devices
    for name, tensor in tensors.items():
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.layout is not torch.strided:
            raise ModelError(f"'{name}' is a {type(tensor).__name__} of layout {tensor.layout}, no dense tensor")
        if not tensor.numel():
            raise ModelError(f"'{name}' is {list(tensor.shape)}, and has no numbers")
        if not tensor.dim():
            continue  # a number of the program's, of whatever type
        if tensor.is_complex() or (tensor.dtype not in _STORED and tensor.is_floating_point()):
            raise ModelError(f"'{name}' is of {tensor.dtype}, which kernels would round", "convert it, .float()")
    if torch.is_autocast_enabled(device.type):
        raise ModelError("it is called under autocast", "call it outside, with options={'dtype': 'fp16'}")
    kinds = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point() and tensor.dim()}
    return device, kinds.pop() if len(kinds) == 1 else torch.float32
