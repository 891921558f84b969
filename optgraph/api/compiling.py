"""compile, load and simplify: what a Net is made by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import torch

from optgraph.ahead.build import Use, build_all, parse_targets
from optgraph.ahead.cubins import Cubin
from optgraph.api import artifact
from optgraph.api.net import Net
from optgraph.api.recipe import Made, Recipe, loaded
from optgraph.api.sized import AtSize
from optgraph.api.sizes import Sizes
from optgraph.base.budget import DEFAULT, Budget
from optgraph.base.dtypes import check_dtype
from optgraph.base.errors import InputError
from optgraph.base.files import as_path
from optgraph.base.progress import Progress, silent
from optgraph.ir.graph import Graph
from optgraph.ir.op import Op
from optgraph.onnx.load import as_model
from optgraph.onnx.read import InputShape
from optgraph.onnx.sessions import Feeds
from optgraph.onnx.sizes import Size, checked_sizes, open_image
from optgraph.passes import pipeline
from optgraph.passes.pipeline import Pass, Watch
from optgraph.pictures.guess import for_pictures
from optgraph.pictures.preprocess import Preprocess
from optgraph.plan.batches import checked_batches
from optgraph.run.backends import kernel_target, resolve_backend

if TYPE_CHECKING:
    from optgraph.modules.capture import Examples


def compile(
    model: str | Path | bytes | onnx.ModelProto | torch.nn.Module,
    backend: str = "auto",
    dtype: str = "fp32",
    input_shape: InputShape | Mapping[str, InputShape] | None = None,
    *,
    outputs: Sequence[str] = (),
    strict: bool = False,
    budget: Budget = DEFAULT,
    batches: Sequence[int] = (1,),
    sizes: Sequence[Size] = (),
    targets: Sequence[str] = (),
    progress: Progress = silent,
    simplify_passes: Sequence[Pass] = pipeline.SIMPLIFY,
    fuse_passes: Sequence[Pass] = pipeline.FUSE,
    ops: Sequence[type[Op]] = (),
    keep_fp32: Sequence[str] | str = (),
    inputs: Sequence[Feeds] = (),
    preprocess: Preprocess | str | None = None,
    labels: Sequence[str] | str | Path = (),
    watch: Watch | None = None,
    example_inputs: Examples | None = None,
    exporter: str = "trace",
) -> Net:
    """Compiles an ONNX model, or a torch module.

    Args:
        model: a path, what is in a file, or a loaded ModelProto; or a module in eval mode, whose weights are copied.
        backend: 'auto' (a GPU's kernels, else ONNX Runtime), 'triton', 'interpret', 'onnxruntime' or 'torch'.
        dtype: 'fp32', 'tf32', 'fp16' or 'bf16', what the kernels store and multiply in; sums are float32, and the two
            reference backends always compute in float32. 'int8', for a model that says what 8 bits stand for: such
            numbers are stored and multiplied as integers, all others as in fp16; ONNX Runtime multiplies integers, too.
        input_shape: fixes open dimensions, see `read`.
        outputs: names of tensors to cut the network off at: what it then answers with, by these names. `--cut`, on
            the command line.
        strict: a node without a kernel is an error.
        budget: what the model may ask for.
        batches: batch sizes worth reporting on; any size runs.
        sizes: heights and widths in pixels to compile for, of an image whose own the model leaves open; other inputs
            have those they share with it by name. The net runs at any other, too, which is compiled when it first
            comes.
        targets: GPUs, such as 'sm_90' or 'h100', to compile the kernels for now, with no GPU: there, they need not be
            compiled again.
        progress: told what is being compiled, now or when a GPU first needs it, and how much of it is done, 0 to 1.
        simplify_passes: what leaves standard ONNX, in order.
        fuse_passes: what makes operators of our own, after them.
        ops: operators of your own, for the ONNX operators that their `handlers` name, custom domains included.
        keep_fp32: ONNX nodes whose regions stay in float32 (see `plan/kept.py`), or 'auto' for those that leave the
            range of fp16 on `inputs`.
        inputs: dicts of arrays by input name, to look at ranges on; random images if there are none.
        preprocess: what is to be done to pictures, a `Preprocess` or the name of one: 'torch', 'keras', 'caffe' or
            'none'. By default a guess, which `Net.preprocessing` tells; calls with arrays never use it.
        labels: the names of the classes, or a file of them: text, one a line, or JSON. By default those in the model's
            metadata.
        watch: called with each pass and the graph that it leaves, to look at; first with `pipeline.READ`.
        example_inputs: what a module takes: a tensor, several in order, or a mapping by the names of its arguments. The
            network is for tensors of these shapes, and for any batch where the module is.
        exporter: which of torch's exporters a module passes through: 'trace', or 'dynamo', which needs onnxscript.

    Raises:
        ModelError: the model cannot be read, is over budget, or, with `strict`, has a node without a kernel.
        InputError: there is no such file, or an option does not fit it.
    """
    if isinstance(model, torch.nn.Module):
        from optgraph.modules.capture import exported_module  # half a second, which files need not

        model = exported_module(model, example_inputs, exporter)
    elif example_inputs is not None:
        raise InputError("example_inputs are for a torch module: an ONNX model says itself what it takes")
    model = as_model(model)
    check_dtype(dtype)
    gpus, batches = parse_targets(targets), checked_batches(batches)
    backend = resolve_backend(backend)
    strictly = kernel_target(backend) if strict else None
    if keep_fp32 and dtype == "fp32":
        raise InputError("keep_fp32 is for a dtype of fewer bits: in fp32 all is float32")
    how = simplify_passes, fuse_passes, strictly, "", keep_fp32, inputs, watch
    recipe = Recipe(model, dtype, input_shape, outputs, budget, ops, *how)
    by_size: Sizes[Net] | None = None
    if sizes:
        recipe = recipe.loaded()
        by_size = Sizes.made(recipe, open_image(recipe.proto, input_shape), checked_sizes(sizes))
    made = list(by_size.given.values()) if by_size else [recipe.make()]
    told = for_pictures(model, made[0].fused, by_size is not None, preprocess, labels)
    uses, cubins = build_all([each.plans for each in made], batches, gpus, progress)
    net = _net(made[0], by_size, backend, dtype, batches, cubins, uses, progress)
    net.preprocessing, net.labels = told
    return net


def _net(
    made: Made,
    by_size: Sizes[Net] | None,
    backend: str,
    dtype: str,
    batches: Sequence[int],
    cubins: Sequence[Cubin],
    uses: Sequence[Use] = (),
    progress: Progress = silent,
) -> Net:
    """The net that `made` is, the first of its sizes if it has several."""
    size = next(iter(by_size.given)) if by_size else None
    settled = backend, dtype, made.reports, batches, cubins, uses, made.plans
    net = Net(made.simplified, made.fused, made.source, *settled, size, by_size, progress=progress)
    if by_size and size:
        by_size.keep(size, net)
    return net


def simplify(graph: Graph) -> Graph:
    """A simplified copy of `graph`: fewer operators, the same results, every one standard ONNX.

    Raises:
        GraphError: a pass broke it, which is a fault of the pass.
    """
    simplified = graph.copy()
    pipeline.apply(simplified, pipeline.SIMPLIFY)
    return simplified


def load(
    path: str | Path,
    backend: str = "auto",
    ops: Sequence[type[Op]] = (),
    budget: Budget = DEFAULT,
    cubins: bool = True,
    progress: Progress = silent,
) -> Net:
    """Loads a saved net.

    Args:
        path: of a .optgraph file.
        backend: as for `compile`; the dtype is the file's.
        ops: operators of your own that it contains.
        budget: what it may ask for.
        cubins: use the file's, if it has some for this GPU. They are machine code, which the GPU will run unseen: for
            a file from where you would not run a program from, say False, and all kernels are compiled here.
        progress: told what is being compiled, when a GPU first needs it.

    Raises:
        InputError: there is no such file.
        ArtifactError: it is damaged, or of another version.
        ModelError: it is over budget.
    """
    found = artifact.load(as_path(path), ops, cubins)
    options, sized = found.options, found.sized
    first = loaded(found, AtSize(found.simplified, found.fused, options.bytes_per_image), budget)
    by_size: Sizes[Net] | None = None
    if sized is not None:
        given = {sized.size: first} | {size: loaded(found, at, budget) for size, at in sized.others.items()}
        common = options.dtype, budget, ops, found.source_digest, options.keep_fp32
        recipe = Recipe.saved(sized.original, *common) if sized.original else None
        by_size = Sizes(sized.image, given, recipe)
    net = _net(first, by_size, backend, options.dtype, options.batches, found.cubins, (), progress)
    net.preprocessing, net.labels = found.preprocessing, found.labels
    return net
