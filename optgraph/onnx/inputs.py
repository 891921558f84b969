"""Shapes and types of a model's inputs: as the file declares them, and as the user overrides them."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto, helper

from optgraph.base.dtypes import ITEMSIZE
from optgraph.base.errors import InputError, ModelError
from optgraph.ir.values import BATCH, Dim, Shape, Value

InputShape = Sequence[int | str | None]


def overrides_by_name(
    override: InputShape | Mapping[str, InputShape] | None, names: Sequence[str]
) -> Mapping[str, InputShape]:
    """The shapes that the user gave, by input. Raises InputError for an input that is not there, and for no shape."""
    if override is None:
        return {}
    if not isinstance(override, Mapping):
        if len(names) > 1:
            raise InputError(f"the model has {len(names)} inputs: give a shape by name ({', '.join(names)})")
        return {names[0]: parsed(override)}
    for name in override:
        if name not in names:
            raise InputError(f"no input '{name}': the model has {', '.join(names)}")
    return {name: parsed(shape) for name, shape in override.items()}


def parsed(shape: InputShape) -> InputShape:
    """A shape that may be a text such as 'N,3,480,640'. Raises InputError for what is none."""
    dims = shape.split(",") if isinstance(shape, str) else shape
    try:
        return [d if d is None else _dim(d) for d in dims]
    except (TypeError, ValueError):
        raise InputError(f"{shape} is no shape: expects N or a number for each dimension, as in N,3,480,640") from None


def _dim(dim: object) -> int | None:
    if isinstance(dim, str):
        return None if dim.strip() in (BATCH, "?") else int(dim)
    return operator.index(dim)  # type: ignore[arg-type]


def overridden(model: onnx.ModelProto, override: InputShape | Mapping[str, InputShape] | None) -> list[str]:
    """What is to be said of inputs whose sizes the model fixes and `override` changes, a line each."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = {info.name: info for info in model.graph.input if info.name not in weights}
    lines = []
    for name, shape in overrides_by_name(override, list(inputs)).items():
        declared = [d.dim_value if d.dim_value > 0 else None for d in inputs[name].type.tensor_type.shape.dim]
        if len(declared) == len(shape) and any(
            d not in (None, given) for d, given in zip(declared, shape, strict=True)
        ):
            was, is_now = (
                ",".join(map(str, (d or BATCH if i == 0 else d or "?" for i, d in enumerate(each))))
                for each in (declared, shape)
            )
            lines.append(f"the model fixes input '{name}' to {was}, and the given shape makes it {is_now}")
    return lines


def reshape(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> None:
    """Declares these shapes for inputs, in place, and takes back what the file says of all that depends on them."""
    graph = model.graph
    for info in graph.input:
        if info.name in shapes:
            kind = info.type.tensor_type.elem_type
            info.CopyFrom(helper.make_tensor_value_info(info.name, kind, shapes[info.name]))
    for info in graph.output:
        if info.type.HasField("tensor_type"):  # of a cut nothing is said, and asking would say something
            info.type.tensor_type.ClearField("shape")
    del graph.value_info[:]


def input_value(info: onnx.ValueInfoProto, override: InputShape | None, several: bool = False) -> Value:
    """Shape and dtype of an input. several: it is not the model's only one, so that options must name it.

    Raises ModelError for one that we cannot compile, InputError for an override of another rank.
    """
    return Value(_input_shape(info, override, f"{info.name}=" if several else ""), _input_dtype(info))


def declared_value(info: onnx.ValueInfoProto) -> Value | None:
    """The shape and dtype that a file declares for a value inside; None if it leaves more than the batch open."""
    proto = info.type.tensor_type
    dims = [d.dim_value if d.dim_value > 0 else None for d in proto.shape.dim]
    if not proto.HasField("shape") or None in dims[1:]:
        return None
    try:
        return Value(tuple(d or BATCH for d in dims), _input_dtype(info))
    except ModelError:
        return None


def require_dtype(dtype: str) -> None:
    """Raises ModelError for a type of numbers that no backend computes with."""
    if dtype not in ITEMSIZE:
        raise ModelError(f"tensors of type {dtype} are not supported", f"export with one of {', '.join(ITEMSIZE)}")


def _input_dtype(info: onnx.ValueInfoProto) -> str:
    kind = info.type.tensor_type.elem_type
    if not info.type.HasField("tensor_type") or kind in (TensorProto.UNDEFINED, TensorProto.STRING):
        raise ModelError(f"input '{info.name}' is not a numeric tensor")
    try:
        dtype = str(helper.tensor_dtype_to_np_dtype(kind))
    except KeyError:
        raise ModelError(f"input '{info.name}' is of a type that ONNX does not have ({kind})") from None
    require_dtype(dtype)
    return dtype


def _input_shape(info: onnx.ValueInfoProto, override: InputShape | None, label: str) -> Shape:
    proto = info.type.tensor_type
    if not proto.HasField("shape") and override is None:
        remedy = f"give one with --input-shape {label}N,C,H,W, with numbers for C, H and W, if it is an image"
        raise ModelError(f"input '{info.name}' has no shape", remedy)
    declared: list[Dim | None] = [
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in proto.shape.dim
    ]
    if override is not None:
        if declared and len(override) != len(declared):
            raise InputError(f"input '{info.name}' has {len(declared)} dimensions, the given shape {len(override)}")
        declared = [None if d in (None, 0, -1) else d for d in override]
    shape: list[Dim] = []
    for i, d in enumerate(declared):
        if i == 0 and (d is None or isinstance(d, str)):
            shape.append(BATCH)
        elif isinstance(d, int) and d > 0:
            shape.append(d)
        else:
            raise _open_error(info, declared, i, label)
    return tuple(shape)


def _open_error(info: onnx.ValueInfoProto, shape: Sequence[Dim | None], axis: int, label: str) -> ModelError:
    """What a person is told of an input that leaves a dimension open which a network of one size needs."""
    first = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else BATCH
    names = _placeholders(info, shape)
    sizes = [str(d) if isinstance(d, int) else names.get(i, str(first)) for i, d in enumerate(shape)]
    known = ",".join([str(first), *(str(d) if isinstance(d, int) else "?" for d in shape[1:])])
    numbers = " and ".join(dict.fromkeys(names.values()))
    return ModelError(
        f"input '{info.name}' leaves dimension {axis} open ({known})",
        f"fix it with --input-shape {label}{','.join(sizes)}, with numbers for {numbers}{_or_sizes(shape)}",
    )


def _placeholders(info: onnx.ValueInfoProto, shape: Sequence[Dim | None]) -> dict[int, str]:
    """A letter, or the model's own name, for each open dimension but the batch."""
    images = "CHW" if len(shape) == 4 else ""
    if isinstance(shape[-1], int) and not isinstance(shape[1 % len(shape)], int):
        images = images[1:] + images[:1]  # channels last
    declared = [d.dim_param for d in info.type.tensor_type.shape.dim]
    names: dict[int, str] = {}
    for i, d in enumerate(shape):
        own = declared[i] if i < len(declared) and declared[i].isidentifier() and declared[i] != BATCH else ""
        if i and not isinstance(d, int):
            names[i] = images[i - 1] if images else own or f"D{i}"
    return names


def _or_sizes(shape: Sequence[Dim | None]) -> str:
    """The other remedy for an image that leaves no more than its height and width open."""
    left = {axis for axis, d in enumerate(shape) if axis and not isinstance(d, int)}
    return ", or with --sizes" if len(shape) == 4 and (left <= {2, 3} or left == {1, 2}) else ""
