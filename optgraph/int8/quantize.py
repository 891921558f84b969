"""quantize: a float network as an int8 one, with what each layer loses by it.

simplified graph -> ranges on pictures -> grids -> biases corrected -> losses, layer by layer
                 -> the most harmful in float, as few as hold the answer within the tolerance -> file
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from optgraph.api.compiling import compile
from optgraph.api.net import Net
from optgraph.base.budget import DEFAULT, Budget
from optgraph.base.errors import InputError, ModelError
from optgraph.base.files import as_path, is_artifact, replacing
from optgraph.base.progress import Progress, silent
from optgraph.int8.correct import corrected, corrections
from optgraph.int8.float_model import FloatModel
from optgraph.int8.layers import layers
from optgraph.int8.losses import Loss, losses
from optgraph.int8.machine import saturates
from optgraph.int8.pictures import Pictures, Variety
from optgraph.int8.ranges import check_method, ranges
from optgraph.int8.verdict import Judge, Verdict
from optgraph.int8.write import Writer
from optgraph.onnx.load import as_model, load_model
from optgraph.onnx.read import InputShape
from optgraph.pictures.preprocess import Preprocess

TOLERANCE = 0.05
AT_ONCE = 8
LOOK = 4
CORRECT = 32  # pictures that biases are corrected on


@dataclass(frozen=True)
class Settings:
    """How a network is quantised: as for `quantize`. Raises InputError for numbers that make no sense."""

    calibrate: str = "minmax"
    per_channel: bool = True
    reduce_range: bool | None = None
    equalise: bool = True
    keep: Sequence[str] = ()
    tolerance: float = TOLERANCE
    batch: int = AT_ONCE
    look: int = LOOK

    def __post_init__(self) -> None:
        check_method(self.calibrate)
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise InputError(f"tolerance {self.tolerance}: expects a part of the answer, 0 or more")
        if min(self.batch, self.look) < 1:
            raise InputError(f"batch {self.batch}, look {self.look}: expects 1 or more pictures")


@dataclass(frozen=True)
class Quantized:
    """A network in int8.

    Attributes:
        model: the ONNX model, with QuantizeLinear and DequantizeLinear.
        losses: what each layer loses by itself, what harms the answer most first.
        verdict: how far its answers are from the float model's on the pictures, computed in float as the model says.
        here: the same, computed by ONNX Runtime's integer kernels on this machine.
        plain: `verdict` with no bias corrected, nothing equalised and no layer in float but those that were asked for.
        corrected: whether biases are corrected: not if that makes the answer worse.
        equalised: whether channels' ranges are: where they differ much, and if that makes the answer better.
        saturates: whether these kernels cut sums of 8-bit weights off on this machine.
        different: how many of the pictures are; of few, the ranges know little.
        settings: how it was done; `reduce_range` is whether weights are of 7 bits.
    """

    model: onnx.ModelProto
    losses: tuple[Loss, ...]
    verdict: Verdict
    here: Verdict
    plain: Verdict
    corrected: bool
    equalised: bool
    saturates: bool
    different: int
    settings: Settings

    @property
    def kept(self) -> tuple[str, ...]:
        """The layers that stayed in float for the tolerance's sake."""
        return tuple(loss.layer for loss in self.losses if loss.kept)

    def save(self, path: str | Path) -> None:
        """Writes the model, at once or not at all.

        Raises:
            InputError: it cannot be written.
        """
        with replacing(as_path(path)) as file:
            file.write(self.model.SerializeToString())

    def to_json(self) -> dict[str, Any]:
        """All but the model, as plain data."""
        verdicts = {name: getattr(self, name).to_json() for name in ("verdict", "here", "plain")}
        found = asdict(self.settings) | {"corrected": self.corrected, "equalised": self.equalised}
        found |= {"saturates": self.saturates, "different": self.different}
        return found | verdicts | {"kept": list(self.kept), "losses": [loss.to_json() for loss in self.losses]}


def quantize(
    model: str | Path | bytes | onnx.ModelProto,
    images: Any,
    *,
    calibrate: str = "minmax",
    per_channel: bool = True,
    reduce_range: bool | None = None,
    equalise: bool = True,
    keep: Sequence[str] = (),
    tolerance: float = TOLERANCE,
    batch: int = AT_ONCE,
    look: int = LOOK,
    input_shape: InputShape | Mapping[str, InputShape] | None = None,
    outputs: Sequence[str] = (),
    budget: Budget = DEFAULT,
    preprocess: Preprocess | str | None = None,
    progress: Progress = silent,
) -> Quantized:
    """Makes a float model an int8 one, as ONNX with QuantizeLinear and DequantizeLinear, for any runtime.

    Args:
        model: a path, what is in a file, or a loaded ModelProto; in float32.
        images: pictures of the kind that it is for, by which ranges are found and answers compared: a folder, a list
            of files or of Pillow's images, or arrays as the network takes them. They are read again for each pass.
        calibrate: how the range of a tensor is found: 'minmax', 'percentile' (99.999) or 'entropy'.
        per_channel: a scale for each channel of a weight, not one for all.
        reduce_range: weights of 7 bits, for ONNX Runtime on CPUs that cut off sums of 8 bits; by default if this
            machine's does.
        equalise: whether to bring ranges of channels together between convolutions, where they differ much and the
            answer gets better by it.
        keep: ONNX nodes to stay in float.
        tolerance: how far the answers to all images may be off, as relative L2, ‖int8 - float‖ / ‖float‖, of the output
            where it is largest. Layers that harm the answer most stay in float, as few as that takes.
        batch: how many images are run at once.
        look: on how many images the losses are measured, which takes half a pass a layer for each.
        input_shape: as for `compile`; so are `outputs`, `budget` and `preprocess`.
        progress: told what is being done, and how much of it, 0 to 1.

    Raises:
        ModelError: the model cannot be read, or is of no type that can be quantised.
        InputError: there is no such file, an option does not fit it, or the images do not; or the answers are within
            the tolerance only with nothing in int8.
    """
    settings = Settings(calibrate, per_channel, reduce_range, equalise, keep, tolerance, batch, look)
    check_float(model)
    source = as_model(model)
    given = {"input_shape": input_shape, "outputs": outputs, "budget": budget, "preprocess": preprocess}
    net = compile(source, "torch", **given)  # type: ignore[arg-type]
    return quantize_net(net, load_model(source, external=False), images, settings, progress)


def check_float(model: object) -> None:
    """Raises InputError for a compiled file, which has no ONNX model to quantise."""
    if isinstance(model, str | Path) and is_artifact(as_path(model)):
        raise InputError(f"{model}: is a compiled network: give the ONNX model that it was compiled from")


def quantize_net(
    net: Net, source: onnx.ModelProto, images: Any, settings: Settings, progress: Progress = silent
) -> Quantized:
    """As `quantize`, for a net that was compiled before, from `source`, of which metadata is kept."""
    network = FloatModel.of(net)
    keep = network.named(settings.keep)
    pictures = Pictures.of(net, images, settings.batch)
    saturating = saturates()
    if settings.reduce_range is None:
        settings = replace(settings, reduce_range=saturating)
    judge, variety = Judge(network.model, pictures, progress), Variety()

    def start(given: FloatModel) -> _Start:
        found = ranges(given.model, variety.watch(pictures()), settings.calibrate, progress)
        variety.check()
        writer = Writer(found, settings.per_channel, bool(settings.reduce_range), source)
        return _Start(given, writer, _Trial.of(given, writer, judge, keep, {}))

    first = chosen = start(network)
    if not math.isfinite(first.plain.verdict.error):
        raise InputError("the network's answers to these pictures are not finite: are they made ready right?")
    if not layers(first.network.graph, first.plain.written, keep):
        if keep and layers(first.network.graph, first.writer.write(first.network.model)):
            raise InputError("keep: these are all the layers that can be in int8: keep fewer")
        raise ModelError("no layer can be in int8", "it is for networks of convolutions and matrix products")
    other = network.equalised() if settings.equalise else None
    if other is not None:
        chosen = min(first, start(other), key=lambda each: each.plain.verdict.error)
    network, writer, plain = chosen
    found = layers(network.graph, plain.written, keep)
    added = corrections(network.graph, found, pictures.single(CORRECT), progress)
    better = _Trial.of(network, writer, judge, keep, added)
    best = min(plain, better, key=lambda trial: trial.verdict.error)
    found = layers(network.graph, best.written, keep)
    lost = losses(network.graph, found, pictures.single(settings.look), network.origins, progress)
    if best.verdict.error > settings.tolerance:
        nodes = {layer.node.name: layer.names(network.graph) for layer in found}
        harmful = [nodes[loss.layer] for loss in lost]

        def trial(count: int) -> _Trial:
            in_float = [*keep, *(name for names in harmful[:count] for name in names)]
            return _Trial.of(network, writer, judge, in_float, best.biases)

        count, closest = _fewest(len(lost), trial, settings.tolerance)
        if count == len(lost):
            raise InputError(_nothing_left(settings.tolerance, lost, best.verdict, trial(count - 1).verdict))
        best = closest
        lost = [replace(loss, kept=i < count) for i, loss in enumerate(lost)]
    here = judge(best.written, integers=True)
    about = best.verdict, here, first.plain.verdict, bool(best.biases), chosen is not first, saturating
    return Quantized(best.written, tuple(lost), *about, variety.different, settings)


@dataclass(frozen=True)
class _Trial:
    """A network written with some nodes in float, and how far it is off.

    biases: what is added to those of the nodes that are not.
    """

    written: onnx.ModelProto
    verdict: Verdict
    biases: Mapping[str, np.ndarray]

    @classmethod
    def of(
        cls, network: FloatModel, writer: Writer, judge: Judge, keep: Sequence[str], biases: Mapping[str, np.ndarray]
    ) -> _Trial:
        added = {name: array for name, array in biases.items() if name not in keep}
        written = writer.write(corrected(network.model, added), keep)
        return cls(written, judge(written), biases)


class _Start(NamedTuple):
    """A network, equalised or not, what it is written of, and how far it is off with nothing else done to it."""

    network: FloatModel
    writer: Writer
    plain: _Trial


def _fewest(most: int, trial: Callable[[int], _Trial], tolerance: float) -> tuple[int, _Trial]:
    """How many of the most harmful layers in float bring the answer within the tolerance, found by halving."""
    low, high, best = 0, most, trial(most)
    while high - low > 1:
        middle = (low + high) // 2
        tried = trial(middle)
        if tried.verdict.error > tolerance:
            low = middle
        else:
            high, best = middle, tried
    return high, best


def _nothing_left(tolerance: float, lost: Sequence[Loss], every: Verdict, last: Verdict) -> str:
    """Why there is no network in int8 within the tolerance. last: with the least harmful layer alone in int8."""
    off = f"{every.error:.2g} off with all layers in int8"
    if len(lost) > 1:
        off += f", {last.error:.2g} with '{lost[-1].layer}' alone"
    return (
        f"tolerance {tolerance:g}: only with nothing in int8 are the answers so close, for they are {off}: allow more"
    )
