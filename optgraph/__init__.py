"""optgraph: compiles ONNX convolutional networks to fused, hand-written Triton kernels.

    net = optgraph.compile("model.onnx")        # a Net: call it, save it, look into it
    y = net(x)                                  # numpy or torch in, the same out
    net.save("model.optgraph"); optgraph.load("model.optgraph")
    graph = optgraph.read("model.onnx")         # the Graph, its networkx graph at `graph.nx`
    optgraph.simplify(graph)                    # fewer operators, still standard ONNX
    optgraph.verify("model.onnx").ok            # region by region against ONNX Runtime
    optgraph.quantize("model.onnx", "photographs").save("int8.onnx")

Names are imported when they are first asked for: torch and onnx take a second that `optgraph --help` need not.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optgraph.api.compiling import compile, load, simplify
    from optgraph.api.net import Net
    from optgraph.base.budget import Budget
    from optgraph.base.errors import ArtifactError, GraphError, InputError, ModelError, OptgraphError
    from optgraph.compare.verify import verify
    from optgraph.int8.quantize import Quantized, quantize
    from optgraph.ir.graph import Graph, Node
    from optgraph.onnx.read import read
    from optgraph.passes.pipeline import Pass
    from optgraph.pictures.preprocess import Preprocess

    __version__: str

__all__ = [
    "ArtifactError",
    "Budget",
    "Graph",
    "GraphError",
    "InputError",
    "ModelError",
    "Net",
    "Node",
    "OptgraphError",
    "Pass",
    "Preprocess",
    "Quantized",
    "compile",
    "load",
    "quantize",
    "read",
    "simplify",
    "verify",
]

_HOMES = {
    "api.compiling": ("compile", "load", "simplify"),
    "api.net": ("Net",),
    "base.budget": ("Budget",),
    "base.errors": ("ArtifactError", "GraphError", "InputError", "ModelError", "OptgraphError"),
    "compare.verify": ("verify",),
    "int8.quantize": ("Quantized", "quantize"),
    "ir.graph": ("Graph", "Node"),
    "onnx.read": ("read",),
    "passes.pipeline": ("Pass",),
    "pictures.preprocess": ("Preprocess",),
}

# In a checkout, `kernels` and `passes` here are links to the folders beside this one. Where links do not work (git on
# Windows, some zip tools), they are found from the root itself.
if not (Path(__file__).parent / "kernels").is_dir():
    __path__.append(str(Path(__file__).parent.parent))


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("optgraph.base.version").version()
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"optgraph.{home}"), name)
    raise AttributeError(f"module 'optgraph' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
