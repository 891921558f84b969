"""optgraph: compiles ONNX convolutional networks to fused, hand-written Triton kernels.

    net = optgraph.compile("model.onnx")        # a Net: call it, save it, look into it
    y = net(x)                                  # numpy or torch in, the same out
    net.save("model.optgraph"); optgraph.load("model.optgraph")
    graph = optgraph.read("model.onnx")         # the Graph, its networkx graph at `graph.nx`
    optgraph.simplify(graph)                    # fewer operators, still standard ONNX

Names are imported when they are first asked for: torch and onnx take a second that `optgraph --help` need not.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optgraph.budget import Budget
    from optgraph.errors import ArtifactError, GraphError, InputError, ModelError, OptgraphError
    from optgraph.graph import Graph, Node
    from optgraph.net import Net, compile, load, simplify
    from optgraph.onnx_import import read
    from optgraph.pipeline import Pass

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
    "compile",
    "load",
    "read",
    "simplify",
]
__version__ = "0.1.0"

_HOMES = {
    "budget": ("Budget",),
    "errors": ("ArtifactError", "GraphError", "InputError", "ModelError", "OptgraphError"),
    "graph": ("Graph", "Node"),
    "net": ("Net", "compile", "load", "simplify"),
    "onnx_import": ("read",),
    "pipeline": ("Pass",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"optgraph.{home}"), name)
    raise AttributeError(f"module 'optgraph' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
