"""A pass and a kernel of one's own: ShuffleNet's channel shuffle as one launch.

Exporters write the shuffle as Reshape -> Transpose -> Reshape on five dimensions. Both reshapes move data, which no
kernel of optgraph does: two fallbacks to torch. Here a pass finds the three nodes and puts one operator in their
place, and a Triton kernel runs it.

    python examples/own_pass_and_kernel.py
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: run kernels on the CPU

import triton
import triton.language as tl
from onnx import TensorProto, helper, numpy_helper

import optgraph
from optgraph.ir.op import Op
from optgraph.ir.values import Value
from optgraph.kernels.frame.launch import Launch
from optgraph.ops import Reshape, Transpose
from optgraph.passes.pipeline import FUSE, Pass
from optgraph.passes.rewrite import Outcome, Rule, sweep

# ---- the kernel: y[p, i * groups + g] = x[p, g * (C / groups) + i] for every pixel p


@triton.jit
def _shuffle(x, out, rows, channels, groups, x_row, out_row, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    source = (c % groups) * (channels // groups) + c // groups
    values = tl.load(x + row * x_row + source, mask=c < channels)
    tl.store(out + row * out_row + c, values, mask=c < channels)


def shuffle(x: torch.Tensor, out: torch.Tensor, *, groups: int) -> Launch:
    """Launcher: x and out are N×H×W×C, each maybe a channel slice of a wider buffer."""
    n, h, w, c = x.shape
    arguments = {"x": x, "out": out, "rows": n * h * w, "channels": c, "groups": groups}
    strides = {"x_row": x.stride(2), "out_row": out.stride(2)}
    return Launch("shuffle", _shuffle, (n * h * w,), arguments | strides, {"BLOCK": triton.next_power_of_2(c)})


# ---- the operator: its shape, its reference, and which kernel it becomes


@dataclass(frozen=True, kw_only=True)
class ChannelShuffle(Op):
    groups: int

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        assert inputs[0] is not None
        return (inputs[0],)

    def compute(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        x = inputs[0]
        assert x is not None
        return (torch.nn.functional.channel_shuffle(x, self.groups),)

    def lower(self, context: Any, node: Any) -> None:
        x, out = context.read(node.inputs[0]).nhwc, context.write(node.output).nhwc
        context.call(f"{__name__}:shuffle", node, {"x": x}, {"out": out}, groups=self.groups)


# ---- the pass: match, check, rewrite


def match(graph, node):
    """A Reshape after a Transpose(0, 2, 1, 3, 4) after a Reshape."""
    transpose = graph.producer(node.inputs[0]) if isinstance(node.op, Reshape) else None
    if transpose is None or transpose.op != Transpose(perm=(0, 2, 1, 3, 4)):
        return None
    split = graph.producer(transpose.inputs[0])
    return (split, transpose, node) if split is not None and isinstance(split.op, Reshape) else None


def check(graph, found):
    split, transpose, joined = found
    if graph.shape(split.inputs[0]) != graph.shape(joined.output):
        return "the shape after it is not the shape before it"
    if any(graph.sole_user(node.output) is None for node in (split, transpose)):
        return "a value inside is also needed elsewhere"
    return None


def rewrite(graph, found):
    split, transpose, joined = found
    groups = graph.shape(split.output)[1]
    origin = (*split.origin, *transpose.origin)
    graph.replace_node(joined, ChannelShuffle(groups=groups), [split.inputs[0]], origin)
    graph.prune()


def run(graph) -> Outcome:
    return sweep(graph, Rule("channel shuffle", match, check, rewrite))


# ---- a network with a shuffle in it, compiled with and without the pass


def network():
    """Two grouped convolutions with a channel shuffle of three groups between them, as ONNX."""
    torch.manual_seed(0)
    first, second = torch.randn(12, 4, 1, 1), torch.randn(12, 4, 3, 3) / 6
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="conv1", group=3),
        helper.make_node("Reshape", ["a", "five"], ["b"], name="split"),
        helper.make_node("Transpose", ["b"], ["c"], name="swap", perm=[0, 2, 1, 3, 4]),
        helper.make_node("Reshape", ["c", "four"], ["d"], name="join"),
        helper.make_node("Conv", ["d", "w2"], ["y"], name="conv2", group=3, pads=[1, 1, 1, 1]),
    ]
    constants = {
        "w1": first.numpy(),
        "w2": second.numpy(),
        "five": torch.tensor([0, 3, 4, 14, 14]).numpy(),
        "four": torch.tensor([0, 12, 14, 14]).numpy(),
    }
    shape = ["N", 12, 14, 14]
    graph = helper.make_graph(
        nodes,
        "shuffled",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main() -> None:
    model = network()
    kernels = "triton" if torch.cuda.is_available() else "interpret"
    plain = optgraph.compile(model, backend="torch")
    print("without the pass:", plain.plan().launches_by_kernel())
    mine = Pass("channel_shuffle", "channel shuffle", run)
    net = optgraph.compile(model, backend=kernels, fuse_passes=(mine, *FUSE))
    print("with the pass:   ", net.plan().launches_by_kernel())
    x = torch.randn(2, 12, 14, 14)
    difference = (net(x) - plain(x)).norm() / plain(x).norm()
    print(f"relative difference of the answers: {difference:.1e}")
    assert difference < 1e-6


if __name__ == "__main__":
    main()
