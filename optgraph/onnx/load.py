"""An ONNX file or ModelProto, loaded as import wants it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from optgraph.base.budget import Budget
from optgraph.base.errors import ModelError
from optgraph.onnx import external_data, parts
from optgraph.onnx.inlining import inlined


def load_parts(
    source: str | Path | onnx.ModelProto, external: bool, outputs: Sequence[str], budget: Budget
) -> onnx.ModelProto:
    """Loads a model as `load_model`, writes its functions out and cuts it off. Arguments and errors as for `read`."""
    model = inlined(load_model(source, external), budget)
    return parts.cut(model, outputs) if outputs else model


def model_name(source: str | Path | onnx.ModelProto) -> str:
    """The file name, or the name of the graph where there is no file."""
    return Path(source.graph.name if isinstance(source, onnx.ModelProto) else source).name


def load_model(source: str | Path | onnx.ModelProto, external: bool = True) -> onnx.ModelProto:
    """Loads a ModelProto with its external data, if `external`, but for what was stripped.

    Raises ModelError, in one line, for anything that is not one.
    """
    if isinstance(source, onnx.ModelProto):
        model = source
    else:
        path = Path(source)
        if not path.is_file():
            raise ModelError(f"{path}: no such file" if not path.exists() else f"{path}: not a file")
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
