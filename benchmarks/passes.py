"""CPU time of import and all passes on the largest graph, and on ten of it in a row.

    python -m benchmarks.passes

In a row: the mean of each network's answer is added to the image that the next one gets. No weight is shared, and
each reads as one number (the files are stripped), so this is the cost of the graph and of folding into the weights.
One and ten alternate; medians. Writes benchmarks/results/passes.json.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import onnx
from onnx import helper, numpy_helper

import optgraph
from benchmarks import record
from optgraph.passes import pipeline

GRAPH = "keras_torch_inception_resnet_v2"
COPIES = 10
REPEATS = 5


def in_a_row(model: onnx.ModelProto, count: int) -> onnx.ModelProto:
    """`count` networks, each on the image plus the mean answer of the one before."""
    source = model.graph
    image, answer = source.input[0].name, source.output[0].name
    whole = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    whole.graph.name = source.name
    whole.graph.input.extend(source.input)
    whole.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
    whole.graph.initializer.append(numpy_helper.from_array(np.array([-1, 1, 1, 1], np.int64), "image shape"))
    entry = image
    for i in range(count):
        names = {"": "", image: entry}
        for tensor in source.initializer:
            copy = whole.graph.initializer.add()
            copy.CopyFrom(tensor)
            copy.name = f"{tensor.name}/{i}"
        for node in source.node:
            copied = whole.graph.node.add()
            copied.CopyFrom(node)
            copied.name = f"{node.name}/{i}"
            copied.input[:] = [names.get(name, f"{name}/{i}") for name in node.input]
            copied.output[:] = [f"{name}/{i}" for name in node.output]
        if i + 1 < count:
            entry = f"{image}/{i + 1}"
            whole.graph.node.extend(
                [
                    helper.make_node("ReduceMean", [f"{answer}/{i}", "axis"], [f"mean/{i}"], name=f"mean/{i}"),
                    helper.make_node("Reshape", [f"mean/{i}", "image shape"], [f"grey/{i}"], name=f"grey/{i}"),
                    helper.make_node("Add", [image, f"grey/{i}"], [entry], name=entry),
                ]
            )
    result = whole.graph.output.add()
    result.CopyFrom(source.output[0])
    result.name = f"{answer}/{count - 1}"
    return whole


def seconds(model: onnx.ModelProto) -> float:
    """CPU seconds from the loaded model to the fused graph."""
    start = time.process_time()
    graph = optgraph.read(model, allow_stripped=True)
    pipeline.apply(graph, pipeline.SIMPLIFY)
    pipeline.apply(graph, pipeline.FUSE)
    return time.process_time() - start


def main() -> None:
    one = onnx.load(record.GRAPHS / f"{GRAPH}.onnx", load_external_data=False)
    one, ten = (in_a_row(one, count) for count in (1, COPIES))
    seconds(one)
    times = [(seconds(one), seconds(ten)) for _ in range(REPEATS)]
    single, many = (statistics.median(side) for side in zip(*times, strict=True))
    row = {
        "graph": GRAPH,
        "nodes": optgraph.read(one, allow_stripped=True).source_nodes,
        "copies": COPIES,
        "cpu_seconds": single,
        "cpu_seconds_of_copies": many,
        "ratio": many / single,
        "pairs": times,
    }
    print({k: v for k, v in row.items() if k != "pairs"})
    print(record.write("passes", [row]))


if __name__ == "__main__":
    main()
