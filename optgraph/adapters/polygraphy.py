"""optgraph as a runner of Polygraphy, NVIDIA's tool that compares the backends a model can run on.

    polygraphy run model.onnx --optgraph --onnxrt

Polygraphy finds `plugin` by the entry point `polygraphy.run.plugins`, with every command of its own: so what takes a
second to import is imported when a network is compiled. Inputs, comparisons and files are Polygraphy's; what is wrong
with a model or an option is an error of its own, in our words.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polygraphy import util
from polygraphy.backend.base import BaseLoader, BaseRunner
from polygraphy.common import TensorMetadata
from polygraphy.datatype import DataType
from polygraphy.logger import G_LOGGER
from polygraphy.tools.args import ModelArgs, OnnxLoadArgs
from polygraphy.tools.args import util as args_util
from polygraphy.tools.args.base import BaseArgs, BaseRunnerArgs
from polygraphy.tools.script import make_invocable

from optgraph.base.dtypes import DTYPES
from optgraph.base.errors import ModelError, OptgraphError
from optgraph.base.files import is_artifact

if TYPE_CHECKING:
    import onnx

    from optgraph.api.feeds import Array
    from optgraph.api.net import Net

_SHAPES = "--input-shape"  # of our own command line; Polygraphy's option is another


def plugin() -> list[BaseArgs]:
    """The groups of options that `polygraphy run` gets."""
    return [NetArgs(), OptgraphRunnerArgs()]


class NetFromOnnx(BaseLoader):
    """A loader that compiles an ONNX model, or loads an .optgraph file."""

    def __init__(
        self,
        model: str | onnx.ModelProto | Callable[[], onnx.ModelProto],
        backend: str | None = None,
        dtype: str | None = None,
        input_shapes: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """
        Args:
            model: a path, a model, or what gives one.
            backend: as of `optgraph.compile`; by default 'auto'.
            dtype: the same, by default 'fp32'; an .optgraph has its own.
            input_shapes: sizes, by input, of dimensions that the model leaves open. The batch stays open.
        """
        self._model = model
        self._backend = backend or "auto"
        self._dtype = dtype
        self._input_shapes = dict(input_shapes or {})

    def call_impl(self) -> Net:
        """Raises PolygraphyException for a model or an option that cannot be used."""
        from optgraph.api import compiling

        with _told():
            model, _ = util.invoke_if_callable(self._model)
            if isinstance(model, str) and is_artifact(Path(model)):
                if self._dtype:
                    G_LOGGER.critical(f"{model}: its dtype is settled: leave out --optgraph-dtype")
                return compiling.load(model, self._backend)
            return compiling.compile(model, self._backend, self._dtype or "fp32", self._shapes(model))

    def _shapes(self, model: str | onnx.ModelProto) -> dict[str, list[int | None]]:
        """The shapes of inputs that are given one: what the model fixes stays, and an open batch stays open."""
        from optgraph.onnx.load import load_model

        proto = load_model(Path(model), external=False) if isinstance(model, str) else model
        shapes: dict[str, list[int | None]] = {}
        for info in proto.graph.input:
            given, dims = self._input_shapes.get(info.name), info.type.tensor_type.shape.dim
            if given is None:
                continue
            fixed: list[int | None] = [dim.dim_value if dim.dim_value > 0 else None for dim in dims] or [None] * len(
                given
            )
            if len(fixed) != len(given):
                G_LOGGER.critical(f"input '{info.name}' has {len(fixed)} dimensions, --input-shapes gives {len(given)}")
            shapes[info.name] = [
                known or (size if axis and isinstance(size, int) and size > 0 else None)
                for axis, (known, size) in enumerate(zip(fixed, given, strict=True))
            ]
        return shapes


class OptgraphRunner(BaseRunner):
    """Runs a network on one of optgraph's backends."""

    def __init__(self, net: Net | NetFromOnnx, name: str | None = None) -> None:
        """net: a network, or what loads one."""
        super().__init__(name=name, prefix="optgraph-runner")
        self._net = net

    @util.check_called_by("activate")
    def activate_impl(self) -> None:
        self.net: Net = self._net() if isinstance(self._net, NetFromOnnx) else self._net
        G_LOGGER.info(f"{self.name:35} | {self.net}")

    @util.check_called_by("get_input_metadata")
    def get_input_metadata_impl(self) -> TensorMetadata:
        meta = TensorMetadata()
        for name, value in self.net.inputs.items():
            shape = [dim if isinstance(dim, int) else None for dim in value.shape]
            meta.add(name, dtype=getattr(DataType, value.dtype.upper()), shape=shape)
        return meta

    @util.check_called_by("infer")
    def infer_impl(self, feed_dict: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs, numpy or torch as the inputs are. Raises PolygraphyException if these do not fit."""
        with _told():
            start = time.perf_counter()
            answer = self.net(feed_dict)
            self.inference_time = time.perf_counter() - start
        return OrderedDict(answer if isinstance(answer, dict) else {next(iter(self.net.outputs)): answer})

    @util.check_called_by("deactivate")
    def deactivate_impl(self) -> None:
        del self.net


class NetArgs(BaseArgs):
    """
    optgraph: compiling for the optgraph runner.

    Depends on:

        - ModelArgs
        - OnnxLoadArgs
    """

    def add_parser_args_impl(self) -> None:
        self.group.add_argument(
            "--optgraph-backend",
            metavar="NAME",
            help="What runs the network: auto (the kernels where there is a GPU, else ONNX Runtime), triton, interpret "
            "(the kernels on the CPU, slowly), onnxruntime or torch. Defaults to auto.",
        )
        self.group.add_argument(
            "--optgraph-dtype",
            choices=list(DTYPES),
            help="The numbers that kernels store and multiply. Defaults to fp32; an .optgraph file has its own.",
        )

    def parse_impl(self, args: Any) -> None:
        self.backend: str | None = args_util.get(args, "optgraph_backend")
        self.dtype: str | None = args_util.get(args, "optgraph_dtype")

    def add_to_script_impl(self, script: Any) -> str:
        """Returns the name of the loader in the script."""
        script.add_import(imports=["NetFromOnnx"], frm="optgraph.adapters.polygraphy")
        given, onnx_args = self.arg_groups[ModelArgs], self.arg_groups[OnnxLoadArgs]
        model = onnx_args.add_to_script(script) if onnx_args.must_use_onnx_loader() else given.path
        shapes = {name: list(shape) for name, (_, shape) in given.input_shapes.items()} or None
        loader = make_invocable("NetFromOnnx", model, backend=self.backend, dtype=self.dtype, input_shapes=shapes)
        name: str = script.add_loader(loader, "compile_optgraph")
        return name


class OptgraphRunnerArgs(BaseRunnerArgs):
    """
    optgraph Inference: running inference with optgraph.

    Depends on:

        - NetArgs
    """

    def get_name_opt_impl(self) -> tuple[str, str]:
        return "optgraph", "optgraph"

    def add_to_script_impl(self, script: Any) -> None:
        script.add_import(imports=["OptgraphRunner"], frm="optgraph.adapters.polygraphy")
        script.add_runner(make_invocable("OptgraphRunner", self.arg_groups[NetArgs].add_to_script(script)))


@contextmanager
def _told() -> Iterator[None]:
    """What is wrong with a model or an input is logged in one line, and ends the run as an error of the user's."""
    try:
        yield
    except OptgraphError as error:
        text = str(error)
        if isinstance(error, ModelError) and _SHAPES in error.remedy:
            reason = ": ".join(filter(None, (error.where, error.reason)))
            text = f"{reason}: give all its sizes, as in --input-shapes NAME:[1,3,224,224]"
        G_LOGGER.critical(text)
