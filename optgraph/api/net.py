"""Net: a compiled network, to call, save and look into."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from optgraph.ahead.build import Use
from optgraph.ahead.cubins import Cubin
from optgraph.api import artifact
from optgraph.api.bound import Bound
from optgraph.api.feeds import Array, batch_of, given_back, named, shape_text
from optgraph.api.recipe import Made, SourceModel
from optgraph.api.sizes import Sizes
from optgraph.base.arrays import as_tensor
from optgraph.base.devices import Target
from optgraph.base.dtypes import check_dtype, torch_dtype
from optgraph.base.errors import InputError, printable
from optgraph.base.files import as_path
from optgraph.base.progress import Progress, silent
from optgraph.ir import html
from optgraph.ir.graph import Graph
from optgraph.ir.op import Op
from optgraph.ir.values import Value
from optgraph.onnx.sizes import OpenImage, Size, sizes_text
from optgraph.passes.pipeline import PassReport
from optgraph.pictures.preprocess import Preprocess, picture_input
from optgraph.plan.plan import Plan
from optgraph.plan.plans import Plans
from optgraph.run.backends import Backend, kernel_target, make_backend, resolve_backend

Result = Array | dict[str, Array]


@dataclass
class _Known:
    """What is known of pictures and classes: one for a net at all its sizes, so that none has what another had."""

    preprocessing: Preprocess | None = None
    labels: tuple[str, ...] = ()


class Net:
    """A compiled network, which `compile` and `load` give. Threads may call the same net.

    One of several sizes is at the first of them, and calls the others as the images that come ask for it: `at` gives
    it at another.

    Attributes:
        inputs: name -> `Value`: shape, with 'N' for an open batch, and dtype, at its size.
        outputs: the same of what it answers with.
        backend: the name of what runs it.
        dtype: how kernels store numbers, and what they multiply in.
        simplified: the graph of ONNX operators, after the first half of the passes.
        fused: the graph of fused operators, after the second.
        source: what is known of the ONNX model it came from.
        reports: what each pass did; empty after `load`.
        batches: the batch sizes that reports are to show.
        size: height and width of its images in pixels; None where the model has a size of its own.
        cubins: kernels compiled ahead.
        uses: where the plans launch each of them; empty after `load`.
        preprocessing: what is done to pictures for it, a `Preprocess`, which may be assigned another; None if no input
            takes pictures.
        labels: the names of its classes, in order; () if they are not known.
        plans: its plans, by batch size and target.
        runtime: what runs it: the `Backend` of that name.
    """

    def __init__(
        self,
        simplified: Graph,
        fused: Graph,
        source: SourceModel,
        backend: str = "auto",
        dtype: str = "fp32",
        reports: Sequence[PassReport] = (),
        batches: Sequence[int] = (1,),
        cubins: Sequence[Cubin] = (),
        uses: Sequence[Use] = (),
        plans: Plans | None = None,
        size: Size | None = None,
        by_size: Sizes[Net] | None = None,
        like: Net | None = None,
        progress: Progress = silent,
    ) -> None:
        """by_size: what it is at other sizes. like: the same net at one of these, with which it shares what it can.
        progress: told of kernels that are compiled when they are first needed."""
        check_dtype(dtype)
        self.simplified = simplified
        self.fused = fused
        self.source = source
        self.dtype = dtype
        self.reports = tuple(reports)
        self.batches = tuple(batches)
        self.cubins = tuple(cubins)
        self.uses = tuple(uses)
        self.backend = resolve_backend(backend)
        self.inputs: dict[str, Value] = {name: fused.values[name] for name in fused.inputs}
        self.outputs: dict[str, Value] = {public: fused.values[v] for public, v in fused.outputs.items()}
        self._types = {public: torch_dtype(value.dtype) for public, value in self.outputs.items()}
        self.plans = plans or Plans(fused, dtype)
        self._known: _Known = like._known if like is not None else _Known()
        self.size = size
        self._by_size = by_size
        shared = like.runtime if like is not None else None
        self.runtime: Backend = make_backend(self.backend, simplified, self.plans, self.cubins, shared, progress)

    @property
    def preprocessing(self) -> Preprocess | None:
        return self._known.preprocessing

    @preprocessing.setter
    def preprocessing(self, given: Preprocess | None) -> None:
        if not isinstance(given, Preprocess | None):
            raise InputError(f"preprocessing: expects a Preprocess, got {type(given).__name__}: Preprocess.named(...)")
        self._known.preprocessing = given

    @property
    def labels(self) -> tuple[str, ...]:
        return self._known.labels

    @labels.setter
    def labels(self, given: Sequence[str]) -> None:
        self._known.labels = tuple(given)

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Height and width of all images it was compiled for, in pixels; () where the model has a size of its own."""
        return tuple(self._by_size.given) if self._by_size else ()

    @property
    def any_size(self) -> bool:
        """Whether it can be had at other sizes than these."""
        return self._by_size is not None and self._by_size.recipe is not None

    @property
    def image(self) -> OpenImage | None:
        """The input that has these sizes; None for a net of one size."""
        return self._by_size.image if self._by_size else None

    def at(self, height: int, width: int) -> Net:
        """The network for images of this size: it is made, which takes as long as compiling does, if there is none.

        The sizes it was compiled at stay, and so do the last few made on demand.

        Args:
            height: in pixels.
            width: in pixels.

        Raises:
            InputError: it cannot be had at this size.
        """
        if self._by_size is None:
            raise InputError(
                "the network has the one size of its inputs: others are for a model that leaves its image's height and "
                "width open, compiled with sizes=..."
            )
        return self if self.size == (height, width) else self._by_size.get((height, width), self._sibling)

    def _sibling(self, size: Size, made: Made) -> Net:
        given = self.backend, self.dtype, made.reports, self.batches, self.cubins, self.uses, made.plans
        return Net(made.simplified, made.fused, made.source, *given, size, self._by_size, self)

    def __reduce__(self) -> tuple[Any, ...]:
        """How it is pickled and copied: what it was made of, which gets a runtime of its own where it arrives."""
        settled = self.backend, self.dtype, self.reports, self.batches, self.cubins, self.uses, self.plans
        by_size = copy.copy(self._by_size)  # of the nets that are ready, each knows what this one does
        state = {"_known": replace(self._known)}
        return Net, (self.simplified, self.fused, self.source, *settled, self.size, by_size), state

    def _served(self) -> str:
        """'480x480, 640x640 or any other': the sizes."""
        more = " or any other" if self.any_size else ""
        return sizes_text(self.sizes) + more

    def __repr__(self) -> str:
        inputs = ", ".join(f"{name}: {value.dtype} {shape_text(value.shape)}" for name, value in self.inputs.items())
        sizes = f", sizes {self._served()}" if self._by_size else ""
        return printable(f"<Net {self.source.name or 'unnamed'}: {inputs}{sizes}; {self.dtype} on {self.backend}>")

    def _repr_html_(self) -> str:
        """What a notebook shows of it: a table, and its fused graph to be opened below."""
        types = {
            name: ", ".join(f"{each}: {value.dtype} {shape_text(value.shape)}" for each, value in values.items())
            for name, values in (("inputs", self.inputs), ("outputs", self.outputs))
        }
        nodes = f"{self.source.nodes}, simplified to {len(self.simplified)}, fused to {len(self.fused)}"
        rows = {"network": self.source.name or "unnamed", "runs on": f"{self.dtype} on {self.backend}", **types}
        rows |= {"sizes": self._served()} if self._by_size else {}
        rows |= {"operators": nodes}
        rows |= {"pictures": self.preprocessing.described()} if self.preprocessing else {}
        rows |= {"classes": str(len(self.labels))} if self.labels else {}
        picture = self.fused._repr_html_()
        return f"{html.table(rows)}<details><summary>the fused graph</summary>{picture}</details>"

    def __call__(self, x: Array | Mapping[str, Array]) -> Result:
        """Runs the network on `x`, or on a mapping of inputs by name.

        Args:
            x: arrays or tensors of the model's declared shape (N×C×H×W, mostly) and dtype, of any batch size where the
                batch is open, and any height and width that `at` can give.

        Returns:
            The output, of the kind that was given, numpy or torch; a dict by name if there are several.

        Raises:
            InputError: an input that does not fit.
        """
        feeds = named(x, self.inputs)
        net = self._for(feeds)
        batch = batch_of(feeds, net.inputs)
        tensors = {name: a if isinstance(a, torch.Tensor) else as_tensor(a) for name, a in feeds.items()}
        results = given_back(net.runtime(tensors, batch), net._types, next(iter(feeds.values())))
        return next(iter(results.values())) if len(results) == 1 else results

    def preprocess(self, *pictures: str | Path | Image.Image) -> np.ndarray:
        """Pictures as the network wants them: a batch to call it with, for its first input that takes pictures.

        Args:
            pictures: files (.png, .jpg, .webp, .bmp) or images of Pillow's, each of any size.

        Returns:
            An array N×C×H×W, or N×H×W×C as the model has it, made as `preprocessing` says.

        Raises:
            InputError: a picture cannot be read, there are none, or no input takes any.
        """
        name = picture_input(self.inputs)
        if name is None:
            raise InputError("no input of the network takes pictures: pass arrays")
        if self.preprocessing is None:
            raise InputError("nothing says what is done to pictures: assign net.preprocessing, or compile it again")
        if not pictures:
            raise InputError("no pictures: preprocess is given one or more")
        return np.concatenate([self.preprocessing(picture, self.inputs[name]) for picture in pictures])

    def bind(self, batch: int = 1) -> Bound:
        """The network on buffers of its own for `batch` images, to be run with no copies: see `Bound`.

        One of several sizes is bound at its `size`; `net.at(height, width).bind()` is for another.

        Raises:
            InputError: a batch that the model does not take.
            ModelError: one over budget.
        """
        return Bound(self.runtime, self.inputs, batch)

    def plan(self, batch: int = 1, target: Target | str | None = None) -> Plan:
        """What the kernels would run for `batch` images; needs no GPU.

        Args:
            batch: number of images.
            target: where, such as 'sm_90' or 'h100'; by default what the backend's kernels run on, an H100 if it has
                none.

        Raises:
            InputError: a target that is none.
            ModelError: it is over budget.
        """
        at = Target.parse(target) if isinstance(target, str) else target
        plan = self.plans.get(batch, at or kernel_target(self.backend))
        self.fused.budget.check("arena_bytes", plan.arena_bytes, f"batch {batch} takes {plan.arena_bytes} bytes")
        return plan

    def save(self, path: str | Path, ops: Sequence[type[Op]] = (), any_size: bool = False) -> None:
        """Writes the net as one .optgraph file, at once or not at all: at the sizes that it was compiled at.

        Args:
            path: of the file.
            ops: operators of your own that it contains.
            any_size: with its ONNX model, so that it can be had at any other size, by the standard passes; the weights
                that folding changed are in the file twice then.

        Raises:
            InputError: the file cannot be written, or it has no model.
            ArtifactError: an operator that is not in `ops`.
        """
        if any_size and self._by_size is None:
            raise InputError("any_size is for a net that was compiled with sizes")
        sized = self._by_size.saved(any_size) if self._by_size else None
        net = self.at(*self.sizes[0]) if self.sizes else self
        source = net.source
        plans = [made.plans for made in self._by_size.given.values()] if self._by_size else [self.plans]
        kept = tuple(dict.fromkeys(name for each in plans for name in each.keep))
        options = artifact.Options(self.dtype, self.batches, source.nodes, source.bytes_per_image, kept)
        about = source.digest, source.name, self.cubins, sized, self.preprocessing, self.labels
        saved = artifact.Artifact(net.simplified, net.fused, options, *about)
        artifact.save(as_path(path), saved, ops)

    def _for(self, feeds: Mapping[str, Array]) -> Net:
        """The net at the size of these images. Raises InputError if they fit at none."""
        if self._by_size is None:
            return self
        image = self._by_size.image
        name, value = image.input, self.inputs[image.input]
        batch_of({name: feeds[name]}, {name: replace(value, shape=image.opened(value.shape))})
        return self.at(*(int(feeds[name].shape[axis]) for axis in image.axes))
