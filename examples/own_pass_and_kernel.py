"""A pass and a kernel of one's own: ShuffleNet's channel shuffle as one launch.

Exporters write the shuffle as Reshape -> Transpose -> Reshape on five dimensions. Both reshapes move data, which no
kernel of optgraph does: two fallbacks to torch. Here a pass finds the three nodes and puts one operator in their
place, and a Triton kernel runs it. It is checked, costed, tuned and compiled ahead like those of optgraph itself.

    python examples/own_pass_and_kernel.py
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import torch

if __name__ == "__main__" and not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: run kernels on the CPU

import triton
import triton.language as tl
from onnx import TensorProto, helper, numpy_helper

import optgraph
from optgraph.base.devices import SM_90, Target
from optgraph.cost.predict import predict
from optgraph.ir.graph import Graph
from optgraph.ir.op import Node, Op
from optgraph.ir.values import Value
from optgraph.kernels.frame.arguments import Jit
from optgraph.kernels.frame.choice import choose
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch, target_of
from optgraph.kernels.frame.sample import Operands, Sample, image
from optgraph.kernels.frame.tile import Problem, Tile, cdiv, ceil_pow2
from optgraph.kernels.frame.work import Read, Work
from optgraph.ops import Reshape, Transpose
from optgraph.passes.pipeline import FUSE, Pass
from optgraph.passes.rewrite import Outcome, Rule, sweep
from optgraph.plan.lowering import Lowering
from optgraph.tune.tune import gpu_bench, open_store, tune

# ---- the kernel: y[p, i * groups + g] = x[p, g * (C / groups) + i] for every pixel p


@triton.jit
def _shuffle(x, out, pixels, channels, groups, x_row, out_row, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    pixel = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.arange(0, BLOCK_N)
    inside = (pixel < pixels)[:, None] & (c < channels)
    source = (c % groups) * (channels // groups) + c // groups
    values = tl.load(x + pixel.to(tl.int64)[:, None] * x_row + source, mask=inside)
    tl.store(out + pixel.to(tl.int64)[:, None] * out_row + c, values, mask=inside)


@dataclass(frozen=True)
class Shuffle(Problem):
    """What the tile depends on: under these fields its measured time is kept."""

    pixels: int
    channels: int

    def candidates(self, target: Target) -> list[Tile]:
        """All channels of so many pixels; a block of 2,048 numbers is a fair guess."""
        channels = ceil_pow2(self.channels)
        fair = max(1, 2048 // channels)
        tiles = [Tile(pixels, channels) for pixels in (1, 2, 4, 8, 16, 32, 64)]
        return sorted(tiles, key=lambda tile: abs(tile.block_m - fair))


def shuffle(x: torch.Tensor, out: torch.Tensor, *, groups: int, tile: Tile | None = None) -> Launch:
    """The launcher. x and out are N×H×W×C, each maybe a channel slice of a wider buffer."""
    n, h, w, c = x.shape
    problem = Shuffle(n * h * w, c)
    tile = tile or choose(problem, target_of(x))
    return Launch(
        "shuffle",
        Jit("own_pass_and_kernel", "_shuffle"),  # by name: processes that compile it import it
        (cdiv(n * h * w, tile.block_m),),
        # In the order of the jit function, its compile-time constants after the others.
        {"x": x, "out": out, "pixels": n * h * w, "channels": c, "groups": groups}
        | {"x_row": x.stride(2), "out_row": out.stride(2)},
        tile.blocks(),
        tile,
        Work((Read(x),), (out,)),
        problem,
    )


def reference(x: torch.Tensor, out: torch.Tensor, *, groups: int) -> torch.Tensor:
    """The same in float64; `out` is not read."""
    return torch.nn.functional.channel_shuffle(x.double().movedim(3, 1), groups).movedim(1, 3)


def samples() -> Iterator[tuple[str, Sample]]:
    """Calls that the kernel is tried on: odd sizes, in slices of wider buffers."""
    for shape, groups in (((1, 7, 5, 6), 2), ((3, 4, 3, 33), 3)):
        x, out = image(*shape, beside=4), image(*shape, beside=8)
        yield "odd sizes", Sample({"x": x, "out": out, "groups": groups})


SHUFFLE = Kernel(shuffle, reference, samples)


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

    def lower(self, context: Lowering, node: Node) -> None:
        x, out = context.read(node.inputs[0]).nhwc, context.write(node.output).nhwc
        context.call(SHUFFLE, node, x=x, out=out, groups=self.groups)


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


def run(graph: Graph) -> Outcome:
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
    x = torch.randn(2, 12, 14, 14)
    plain = optgraph.compile(model, backend="torch")
    print("without the pass:", plain.plan().launches_by_kernel())

    gpu = torch.cuda.is_available()
    mine = Pass("channel_shuffle", "channel shuffle", run)
    net = optgraph.compile(
        model, backend="triton" if gpu else "interpret", targets=["sm_90"], fuse_passes=(mine, *FUSE)
    )
    print("with the pass:   ", net.plan().launches_by_kernel())
    difference = (net(x) - plain(x)).norm() / plain(x).norm()
    print(f"relative difference of the answers: {difference:.1e}")
    assert difference < 1e-6

    device = torch.device("cuda" if gpu else "cpu")
    for what, sample in samples():
        operands = Operands(SHUFFLE, sample.typed("fp32"), device)
        print(f"by itself, {what}: off by {operands.error(operands.launch()):.1e}")

    (cubin,) = {c.key: c for c in net.cubins if c.kernel == "shuffle"}.values()
    print(f"compiled ahead for {cubin.target}: {cubin.registers} registers, {cubin.spill_bytes} bytes spilled")
    for launch in predict(net.plan(64, SM_90), net.plans.shapes).launches:
        if launch.cost.call.kernel is SHUFFLE:
            us = [1e6 * seconds for seconds in launch.time]
            print(f"batch 64 moves {launch.cost.work.moved / 1e6:.1f} MB: predicted {us[0]:.1f} to {us[1]:.1f} us")
    if gpu:
        bench = gpu_bench()
        store = open_store(bench.target, Path(mkdtemp()))
        tune(net.fused, net.dtype, [64], bench, store, minutes=1)
        print("tuned:", *(record for record in store.records.values() if record["kernel"] == "shuffle"))


if __name__ == "__main__":
    main()
