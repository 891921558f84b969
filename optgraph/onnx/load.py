"""An ONNX file or ModelProto, loaded as import wants it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from optgraph.base.budget import Budget
from optgraph.base.errors import InputError, ModelError
from optgraph.base.files import as_path, is_artifact
from optgraph.onnx import external_data, parts
from optgraph.onnx.inlining import inlined


def load_parts(
    source: str | Path | onnx.ModelProto, external: bool, outputs: Sequence[str], budget: Budget
) -> onnx.ModelProto:
    """Loads a model as `load_model`, writes its functions out and cuts it off. Arguments and errors as for `read`."""
    model = inlined(load_model(source, external), budget)
    outputs = (outputs,) if isinstance(outputs, str) else outputs
    return parts.cut(model, outputs) if outputs else model


def as_model(given: object) -> str | Path | onnx.ModelProto:
    """What was given for a model: a path, a ModelProto, or its bytes, which are parsed.

    Raises InputError, with what to do, for anything else; ModelError for bytes that are none.
    """
    if isinstance(given, onnx.ModelProto):
        return given
    if isinstance(given, bytes | bytearray | memoryview):
        try:
            return onnx.load_model_from_string(bytes(given))
        except (DecodeError, UnicodeDecodeError):
            raise ModelError("the bytes are not an ONNX model, or a truncated one") from None
    if isinstance(given, str | os.PathLike):
        return as_path(given)
    bases = {f"{base.__module__}.{base.__name__}" for base in type(given).__mro__}
    remedy = next((remedy for base, remedy in _REMEDIES.items() if base in bases), _REMEDY)
    raise InputError(f"expects an ONNX model, got {type(given).__name__}: {remedy}")


_REMEDY = 'pass the path of an .onnx file, such as "model.onnx", its bytes, or a loaded onnx.ModelProto'
_REMEDIES = {
    "torch.nn.modules.module.Module": "optgraph.compile(module, example_inputs=x) takes one",
    "optgraph.ir.graph.Graph": "optgraph.onnx.write.to_onnx(graph) is one",
    "optgraph.api.net.Net": "it is compiled already: call it, net(x)",
}


def model_name(source: str | Path | onnx.ModelProto) -> str:
    """The file name, or the name of the graph where there is no file."""
    return Path(source.graph.name if isinstance(source, onnx.ModelProto) else source).name


def check_not_compiled(path: Path) -> None:
    """Raises ModelError for an artifact, where only a model will do."""
    if is_artifact(path):
        raise ModelError(
            f"{path}: is compiled already, and this takes the .onnx that it came from: use it with run, verify, "
            "bench, inspect or tune, or with optgraph.load"
        )


def load_model(source: str | Path | onnx.ModelProto, external: bool = True) -> onnx.ModelProto:
    """Loads a ModelProto with its external data, if `external`, but for what was stripped.

    Raises ModelError, in one line, for anything that is not one.
    """
    if isinstance(source, onnx.ModelProto):
        model = source
    else:
        path = as_path(source)
        if not path.is_file():
            raise ModelError(f"{path}: no such file" if not path.exists() else f"{path}: not a file")
        check_not_compiled(path)
        try:
            model = onnx.load(str(path), load_external_data=False)
            if external:
                external_data.load(model, path.parent)
        except (DecodeError, UnicodeDecodeError):
            raise ModelError(f"{path}: not an ONNX model, or a truncated one") from None
        except ModelError as error:
            raise error.at(str(path)) from None
        except OSError as error:
            raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from None
    label = "model" if isinstance(source, onnx.ModelProto) else str(source)
    if not model.graph.node:
        raise ModelError(f"{label}: no operators in it: not an ONNX model, or an empty graph")
    if not model.graph.output:
        raise ModelError(f"{label}: the graph has no outputs")
    return model
