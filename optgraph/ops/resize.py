"""Images of another size: ONNX Resize, and Upsample as it was called before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import onnx

from optgraph.base.errors import FIX_INPUT, ModelError, NoKernelError
from optgraph.ir.op import Exporter, Handlers, Importer, Inputs, Node, Op, Outputs, fixed, present
from optgraph.ir.quant import Quant
from optgraph.ir.values import Dim, Shape, Value
from optgraph.kernels.resample import table
from optgraph.ops import exporting
from optgraph.ops.importing import KeepError, axis_of, constant_operand, given, require_floating
from optgraph.ops.interpolation import COORDINATES, MODES, ROUNDINGS, Interpolation, Taps, interpolated
from optgraph.ops.lowered import resampled
from optgraph.ops.movement import Identity
from optgraph.plan.lowering import Lowering

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Resize(Op):
    """x with `axes` of another size: size * scale, rounded down, or the given sizes. The other fields are the
    attributes of ONNX Resize.

    One of scales and sizes is empty. With sizes, the scale is what they make it; `policy` 'not_larger' and
    'not_smaller' take the least and the greatest of these for all axes. roi: begins then ends, one of each an axis.
    """

    writes_channels = True
    integers = True
    axes: tuple[int, ...]
    scales: tuple[float, ...] = ()
    sizes: tuple[int, ...] = ()
    mode: str = "nearest"
    coordinates: str = "half_pixel"
    nearest: str = "round_prefer_floor"
    cubic: float = -0.75
    exclude_outside: bool = False
    extrapolation: float = 0.0
    antialias: bool = False
    policy: str = "stretch"
    roi: tuple[float, ...] = ()

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        x = present(inputs, 0)
        shape = list(x.shape)
        for axis, size in zip(self.axes, self._sizes(x.shape), strict=True):
            shape[axis] = size
        return (Value(tuple(shape), x.dtype),)

    def _sizes(self, shape: Shape) -> tuple[int, ...]:
        """Of the output, one for each of `axes`. Only given sizes tell that of an open axis."""
        if self.sizes and self.policy == "stretch":
            sizes = self.sizes
        else:
            before = [np.float32(fixed(shape[axis])) for axis in self.axes]
            rounding = np.float32(0.5 if self.sizes else 0.0)
            scales = self._scales(shape)
            if not all(0 < scale < math.inf for scale in scales):
                raise ModelError(f"scales {list(scales)} are not all positive numbers")
            sizes = tuple(math.floor(np.float32(s) * b + rounding) for s, b in zip(scales, before, strict=True))
        if min(sizes) < 1:
            raise ModelError(f"resizes {[shape[axis] for axis in self.axes]} to {list(sizes)}")
        return sizes

    def _scales(self, shape: Shape) -> tuple[float, ...]:
        """Those that positions are divided by, one for each of `axes`."""
        if self.scales:
            return self.scales
        before = [np.float32(fixed(shape[axis])) for axis in self.axes]
        scales = [float(np.float32(size) / b) for size, b in zip(self.sizes, before, strict=True)]
        if self.policy == "stretch":
            return tuple(scales)
        return (min(scales) if self.policy == "not_larger" else max(scales),) * len(scales)

    def taps(self, shape: Shape) -> dict[int, Taps]:
        """What is read of an x of `shape` along each axis."""
        how = Interpolation(self.mode, self.coordinates, self.nearest, self.cubic, self.exclude_outside, self.antialias)
        count, found = len(self.axes), {}
        for i, (axis, out, scale) in enumerate(zip(self.axes, self._sizes(shape), self._scales(shape), strict=True)):
            roi = (self.roi[i], self.roi[i + count]) if self.roi else (0.0, 1.0)
            found[axis] = how.taps(int(shape[axis]), out, scale, roi)
        return found

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        if importer.opset < 11:
            scales = constant_operand(importer, node, 1)
            if scales is None:
                raise ModelError("it has no scales")
            _add_old(importer, node, attrs, scales.tolist())
            return
        rank = len(importer.shape(node.input[0]))
        axes = [axis_of(int(a), rank) for a in attrs.get("axes") or range(rank)]
        roi, scales = constant_operand(importer, node, 1), constant_operand(importer, node, 2)
        fields = _fields(attrs)
        if fields["coordinates"] == "tf_crop_and_resize":
            if roi is None or roi.size != 2 * len(axes):
                raise ModelError("tf_crop_and_resize without a region of interest")
            fields["roi"] = tuple(float(v) for v in roi)
        if scales is not None and scales.size:
            _add(importer, node, axes, scales.tolist(), fields)
            return
        sizes = importer.dims(node.input[3]) if given(node, 3) else None
        if sizes is None:
            raise KeepError
        _add(importer, node, axes, sizes, fields)

    @staticmethod
    def from_upsample(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        array = constant_operand(importer, node, 1)
        _add_old(importer, node, attrs, list(attrs["scales"]) if array is None else array.tolist())

    handlers: ClassVar[Handlers] = {"Resize": from_onnx, "Upsample": from_upsample}

    def on_grid(self, grids: Sequence[Quant | None], output: int = 0) -> Quant | None:
        moved = self.mode == "nearest" and not self.antialias and self.coordinates != "tf_crop_and_resize"
        return grids[0] if moved else None

    def export(self, to: Exporter, node: Node) -> None:
        rank = len(to.value(node.output).shape)
        attrs: dict[str, Any] = {
            "mode": self.mode,
            "coordinate_transformation_mode": self.coordinates,
            **({"nearest_mode": self.nearest} if self.mode == "nearest" else {}),
            **({"cubic_coeff_a": self.cubic} if self.mode == "cubic" else {}),
            **({"exclude_outside": 1} if self.exclude_outside else {}),
            **({"extrapolation_value": self.extrapolation} if self.extrapolation else {}),
            **({"antialias": 1} if self.antialias else {}),
            **({"keep_aspect_ratio_policy": self.policy} if self.policy != "stretch" else {}),
        }
        axes, scales, roi = self.axes, self.scales, self.roi
        if to.opset >= 18:
            attrs["axes"] = axes
        else:
            scales = tuple(dict(zip(axes, scales, strict=True)).get(axis, 1.0) for axis in range(rank))
            if roi:
                ends = [dict(zip(axes, half, strict=True)) for half in (roi[: len(axes)], roi[len(axes) :])]
                roi = tuple(end.get(axis, float(i)) for i, end in enumerate(ends) for axis in range(rank))
        inputs = [to.name(node.inputs[0]), _floats(to, roi, "roi"), _floats(to, scales, "scales")]
        if self.sizes:
            inputs.append(exporting.integers(to, self.sizes, "sizes"))
        to.emit("Resize", inputs, [to.name(node.output)], **attrs)

    def least_opset(self, source: int) -> int:
        if self.coordinates == "half_pixel_symmetric":
            return 19
        return 18 if self.sizes or self.antialias else 0  # sizes of some axes alone: the batch may be open

    def compute(self, inputs: Inputs) -> Outputs:
        import torch

        (x,) = self.per_slot(inputs)
        found = self.taps(tuple(x.shape))
        for axis, taps in found.items():
            x = interpolated(x, axis, taps)
        if self.coordinates == "tf_crop_and_resize":
            for axis, taps in found.items():
                inside = torch.tensor(taps.inside, device=x.device)
                x = torch.where(inside.reshape([-1 if i == axis else 1 for i in range(x.ndim)]), x, self.extrapolation)
        return (x,)

    def lower(self, context: Lowering, node: Node) -> None:
        if self.coordinates == "tf_crop_and_resize":
            raise NoKernelError("it may read beyond the image")
        x, out = context.moved(node.inputs[0], node.output), context.write(node.output)
        resized = tuple(size if axis in self.axes else 1 for axis, size in enumerate(x.shape))  # any batch shares them
        tables = {
            axis: context.weight(_table, dtype="float32", op=self, shape=resized, axis=axis) for axis in self.axes
        }
        resampled(context, node, x, out, tables)


def _table(op: Resize, shape: tuple[int, ...], axis: int) -> torch.Tensor:
    import torch

    taps = op.taps(shape)[axis]
    return table(torch.tensor(taps.index), torch.tensor(taps.weight))


# ---- ONNX in


def _fields(attrs: dict[str, Any]) -> dict[str, Any]:
    """Raises KeepError for values that ONNX does not list, but some tool may know."""
    fields = {
        "mode": attrs.get("mode", "nearest"),
        "coordinates": attrs.get("coordinate_transformation_mode", "half_pixel"),
        "nearest": attrs.get("nearest_mode", "round_prefer_floor"),
        "cubic": float(attrs.get("cubic_coeff_a", -0.75)),
        "exclude_outside": bool(attrs.get("exclude_outside", 0)),
        "extrapolation": float(attrs.get("extrapolation_value", 0.0)),
        "antialias": bool(attrs.get("antialias", 0)),
        "policy": attrs.get("keep_aspect_ratio_policy", "stretch"),
    }
    if fields["coordinates"] == "tf_half_pixel_for_nn":  # half a pixel more than half_pixel
        shifted = {"floor": "round_prefer_ceil", "round_prefer_floor": "ceil"}
        if fields["mode"] != "nearest" or fields["nearest"] not in shifted:
            raise KeepError
        fields |= {"coordinates": "half_pixel", "nearest": shifted[fields["nearest"]]}
    known = fields["mode"] in MODES and fields["coordinates"] in COORDINATES and fields["nearest"] in ROUNDINGS
    if not known or fields["policy"] not in ("stretch", "not_larger", "not_smaller"):
        raise KeepError
    return fields


def _add_old(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any], scales: list[float]) -> None:
    """Upsample, and Resize before opset 11, where pixels begin at multiples of the scale. Nearest rounded up where it
    shrinks an image, which ONNX leaves open and ONNX Runtime does."""
    mode = attrs.get("mode", "nearest")
    if mode not in ("nearest", "linear", "bilinear"):
        raise KeepError
    fields: dict[str, Any] = {"mode": mode.removeprefix("bi"), "coordinates": "asymmetric"}
    shrunk = [axis for axis, scale in enumerate(scales) if scale < 1]
    grown = [axis for axis, scale in enumerate(scales) if scale > 1]
    if fields["mode"] == "linear" or not (shrunk and grown):
        _add(importer, node, range(len(scales)), scales, {**fields, "nearest": "ceil" if shrunk else "floor"})
        return
    y = importer.add(
        Resize(axes=tuple(shrunk), scales=tuple(scales[a] for a in shrunk), nearest="ceil", **fields),
        [node.input[0]],
        [""],
    )
    importer.add(Resize(axes=tuple(grown), scales=tuple(scales[a] for a in grown), nearest="floor", **fields), [y])


def _add(
    importer: Importer,
    node: onnx.NodeProto,
    axes: Sequence[int],
    targets: Sequence[Dim | float],
    fields: dict[str, Any],
) -> None:
    """A Resize of those axes that change. targets: one scale an axis, or one size."""
    shape = importer.shape(node.input[0])
    if len(targets) != len(axes):
        raise ModelError(f"{len(targets)} scales or sizes for {len(axes)} axes of {list(shape)}")
    if fields["mode"] != "nearest":
        require_floating(importer, node.input[0])
    by_scale = all(isinstance(target, float) for target in targets)
    cropped, kept = "roi" in fields, fields.get("policy", "stretch") != "stretch"
    changed = [
        i
        for i, (axis, target) in enumerate(zip(axes, targets, strict=True))
        if kept or target != (1.0 if by_scale else shape[axis]) or (cropped and not _whole(fields["roi"], i))
    ]
    if not changed:
        importer.add(Identity(), [node.input[0]])
        return
    if cropped:
        roi = fields["roi"]
        fields = {**fields, "roi": tuple(roi[i + begin] for begin in (0, len(axes)) for i in changed)}
    picked = [targets[i] for i in changed]
    if not by_scale and any(isinstance(size, str) for size in picked):
        raise ModelError(f"resizes {list(shape)} to {list(targets)}, whose batch is another", FIX_INPUT)
    where: dict[str, Any] = {"axes": tuple(axes[i] for i in changed), "scales" if by_scale else "sizes": tuple(picked)}
    importer.add(Resize(**where, **fields), [node.input[0]])


def _whole(roi: tuple[float, ...], i: int) -> bool:
    return (roi[i], roi[i + len(roi) // 2]) == (0.0, 1.0)


# ---- ONNX out


def _floats(to: Exporter, numbers: tuple[float, ...], hint: str) -> str:
    return to.constant(np.array(numbers, np.float32), hint) if numbers else ""


OPS = (Resize,)
