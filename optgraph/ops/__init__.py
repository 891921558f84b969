"""The operators a Graph is made of, one file a family. Uses base, ir, kernels and plan."""

from optgraph.ops.bottleneck import Bottleneck
from optgraph.ops.conv import Conv
from optgraph.ops.dense import Gemm
from optgraph.ops.elementwise import Activation, Affine, Binary, Cast
from optgraph.ops.fused import MergedPointwise, PooledPointwise, Separable
from optgraph.ops.group_norm import GroupNorm, MeanVarianceNorm
from optgraph.ops.joining import Concat, Gather, Slice, Split
from optgraph.ops.layer_norm import LayerNorm
from optgraph.ops.matmul import MatMul
from optgraph.ops.movement import Identity, Pad, Reshape, Transpose
from optgraph.ops.normalise import LRN, BatchNorm, Hardmax, Softmax
from optgraph.ops.opaque import Opaque
from optgraph.ops.pool import Pool
from optgraph.ops.quantised import FakeQuantize
from optgraph.ops.reduction import GlobalPool, Reduce
from optgraph.ops.repeating import DepthToSpace, Expand, SpaceToDepth, Tile
from optgraph.ops.resize import Resize
from optgraph.ops.transposed import ConvTranspose

__all__ = [
    "LRN",
    "Activation",
    "Affine",
    "BatchNorm",
    "Binary",
    "Bottleneck",
    "Cast",
    "Concat",
    "Conv",
    "ConvTranspose",
    "DepthToSpace",
    "Expand",
    "FakeQuantize",
    "Gather",
    "Gemm",
    "GlobalPool",
    "GroupNorm",
    "Hardmax",
    "Identity",
    "LayerNorm",
    "MatMul",
    "MeanVarianceNorm",
    "MergedPointwise",
    "Opaque",
    "Pad",
    "Pool",
    "PooledPointwise",
    "Reduce",
    "Reshape",
    "Resize",
    "Separable",
    "Slice",
    "Softmax",
    "SpaceToDepth",
    "Split",
    "Tile",
    "Transpose",
]
