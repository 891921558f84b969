"""optgraph: compiles ONNX convolutional networks to fused, hand-written Triton kernels.

net = optgraph.compile("model.onnx")        # a Net: call it, save it, look into it
y = net(x)                                  # numpy or torch in, the same out
net.save("model.optgraph"); optgraph.load("model.optgraph")
graph = optgraph.read("model.onnx")         # the Graph, its networkx graph at `graph.nx`
optgraph.simplify(graph)                    # fewer operators, still standard ONNX
"""

from optgraph.errors import ArtifactError, GraphError, InputError, ModelError, OptgraphError
from optgraph.graph import Graph, Node
from optgraph.net import Net, compile, load, simplify
from optgraph.onnx_import import read
from optgraph.pipeline import Pass
from optgraph.verify import verify

__all__ = [
    "ArtifactError",
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
    "verify",
]
__version__ = "0.1.0"
