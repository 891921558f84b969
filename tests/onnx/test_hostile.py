"""Hostile files: each is refused in one line and with code 2, and none costs more than a look at it."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

import optgraph
from optgraph.base.errors import OptgraphError
from tests.support.cli_models import call, classifier, ok, saved
from tests.support.cubin_samples import sample
from tests.support.paths import ROOT

Change = Callable[[onnx.ModelProto], None]
GIB = 1 << 30
MUTATIONS = 2_000


def refused(path: Path, says: str) -> None:
    """Asserts that the file is refused as every file should be, whatever the command."""
    start = time.process_time()
    for command in ("compile", "optimize") if path.suffix == ".onnx" else ("run", "inspect"):
        result = call(command, path, *(["-o", path.with_suffix(".out")] if command == "optimize" else []))
        assert result.exit_code == 2, f"{result.exit_code}: {result.output}"
        assert result.stdout == "" and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
        assert says in result.stderr, result.stderr
    assert time.process_time() - start < 10
    assert not [p for p in path.parent.iterdir() if p.suffix in (".out", ".tmp")]


# ---- models


def node(model: onnx.ModelProto, output: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.output[0] == output)


def weight(model: onnx.ModelProto, name: str = "stem.w") -> TensorProto:
    return next(t for t in model.graph.initializer if t.name == name)


def attribute(output: str, name: str, value: Any) -> Change:
    def change(model: onnx.ModelProto) -> None:
        found = node(model, output)
        kept = [a for a in found.attribute if a.name != name]
        del found.attribute[:]
        found.attribute.extend([*kept, *([helper.make_attribute(name, value)] if value is not None else [])])

    return change


def reads(output: str, *inputs: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        node(model, output).input[:] = inputs

    return change


def becomes(output: str, op: str, *inputs: str, **attributes: Any) -> Change:
    def change(model: onnx.ModelProto) -> None:
        node(model, output).CopyFrom(helper.make_node(op, inputs, [output], name=output, **attributes))

    return change


def array(name: str, value: np.ndarray) -> Change:
    return lambda model: weight(model, name).CopyFrom(numpy_helper.from_array(value, name))


def dims(*sizes: int) -> Change:
    return lambda model: weight(model).dims.__setitem__(slice(None), sizes)


def filled(size: int) -> Change:
    """One number a pixel out of `size` zeros that nobody stored."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array([size]), "size"))
        zeros = helper.make_node("ConstantOfShape", ["size"], ["zeros"], name="zeros")
        total = helper.make_node("ReduceMax", ["zeros"], ["most"], keepdims=0)
        model.graph.node.insert(0, total)
        model.graph.node.insert(0, zeros)
        node(model, "same").CopyFrom(helper.make_node("Add", ["x", "most"], ["same"]))

    return change


def functions(count: int, calls: int, again: bool = False) -> Change:
    """`count` functions that each call the one before `calls` times; `again`: the first calls the last."""

    def change(model: onnx.ModelProto) -> None:
        for i in range(count):
            previous = f"f{(i - 1) % count}"
            names = ["a", *(f"v{k}" for k in range(calls - 1)), "b"]
            body = [
                helper.make_node("Relu", names[k : k + 1], names[k + 1 : k + 2])
                if i == 0 and not again
                else helper.make_node(previous, names[k : k + 1], names[k + 1 : k + 2], domain="local")
                for k in range(calls)
            ]
            opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
            model.functions.append(helper.make_function("local", f"f{i}", ["a"], ["b"], body, opsets))
        model.opset_import.append(helper.make_opsetid("local", 1))
        node(model, "same").CopyFrom(helper.make_node(f"f{count - 1}", ["x"], ["same"], domain="local"))

    return change


def many_nodes(model: onnx.ModelProto) -> None:
    model.graph.node.extend(helper.make_node("Relu", ["y"], [f"y{i}"]) for i in range(200_000))


def sparse(model: onnx.ModelProto) -> None:
    values, places = (numpy_helper.from_array(np.array([1], t)) for t in (np.float32, np.int64))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [5]))


def inputs(*shape: int, dtype: int = TensorProto.FLOAT) -> Change:
    return lambda model: model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", dtype, shape))


def control_flow(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    node(model, "same").CopyFrom(helper.make_node("Loop", ["", "", "x"], ["same"], name="loop", body=body))


MODELS: dict[str, tuple[Change, str]] = {
    "32 GiB of zeros": (filled(8 * GIB), "a tensor of [8589934592] takes 34359738368 bytes, over the budget"),
    "zeros of a size that overflows": (filled((1 << 62) + 1), "bytes, over the budget of 17179869184"),
    "a negative size": (filled(-5), "node 'zeros'"),
    "an image of a petabyte": (inputs(1, 3, 1 << 24, 1 << 24), "over the budget of 17179869184"),
    "a cycle": (reads("stem", "act", "stem.w"), "reads 'act', which no earlier node"),
    "a node that reads itself": (reads("act", "act"), "reads 'act', which no earlier node"),
    "a value defined twice": (lambda m: m.graph.node.append(node(m, "act")), "'act' is defined twice"),
    "a weight defined twice": (lambda m: m.graph.initializer.append(weight(m)), "'stem.w' is defined twice"),
    "a value that is a weight": (lambda m: node(m, "act").output.__setitem__(0, "mean"), "'mean' is defined twice"),
    "a weight of rank 2": (array("stem.w", np.ones((8, 27), np.float32)), "node '/stem/Conv' (Conv)"),
    "a bias of another length": (reads("stem", "same", "stem.w", "fc.b"), "of shape [10] for 8 channels"),
    "too many inputs": (reads("stem", "same", "stem.w", "beta", "x"), "4 inputs and 1 outputs"),
    "too few inputs": (reads("stem", "same"), "1 inputs and 1 outputs"),
    "no input at all": (reads("act"), "0 inputs and 1 outputs"),
    "huge dims": (dims(1 << 40, 1 << 40, 3, 3), "weight 'stem.w' is damaged"),
    "negative dims": (dims(-8, -3, 3, 3), "weight 'stem.w' has a negative dimension"),
    "stride 0": (attribute("stem", "strides", [0, 0]), "strides [0, 0]"),
    "negative pads": (attribute("stem", "pads", [-1, -1, -1, -1]), "pads [-1, -1, -1, -1]"),
    "three strides": (attribute("stem", "strides", [1, 1, 1]), "are not for two axes"),
    "strides that are text": (attribute("stem", "strides", ["a", "b"]), "not as ONNX defines it"),
    "group 0": (attribute("stem", "group", 0), "node '/stem/Conv'"),
    "a pool without a window": (becomes("pooled", "MaxPool", "cat"), "kernel_shape"),
    "a window of 2^31": (becomes("pooled", "MaxPool", "cat", kernel_shape=[1 << 31, 1]), "does not fit"),
    "an axis that is not there": (attribute("cat", "axis", 7), "axis 7"),
    "a permutation that is none": (becomes("right.relu", "Transpose", "right", perm=[0, 1, 1, 3]), "does not permute"),
    "a reshape to a negative size": (becomes("flat", "Reshape", "pooled", "to"), "cannot reshape"),
    "an operator of somebody's own": (becomes("act", "Run", "bn", domain="evil"), "knows no operator Run"),
    "a loop": (control_flow, "node 'loop' (Loop): control flow is not supported"),
    "a function that calls itself": (functions(3, 1, again=True), "calls itself"),
    "2^40 nodes in functions": (functions(20, 4), "--budget nodes="),
    "functions 50 deep": (functions(50, 1), "--budget nesting="),
    "too many nodes": (many_nodes, "--budget nodes=200013"),
    "a sparse weight": (sparse, "sparse initializers are not supported"),
    "text for an input": (inputs(1, 3, 8, 8, dtype=TensorProto.STRING), "not a numeric tensor"),
    "an operator set of the future": (lambda m: m.opset_import[0].__setattr__("version", 1 << 40), "opset"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_bad_model(name: str, tmp_path: Path) -> None:
    change, says = MODELS[name]
    model = classifier()
    model.graph.initializer.append(numpy_helper.from_array(np.array([-3, -11]), "to"))
    change(model)
    refused(saved(tmp_path, model), says)


def test_bytes_that_are_no_model(tmp_path: Path) -> None:
    whole, path = classifier().SerializeToString(), tmp_path / "m.onnx"
    nested = b""
    for _ in range(5000):  # a graph in an attribute of a node of a graph in ...
        nested = b"\x0a" + len_prefixed(b"\x2a" + len_prefixed(b"\x32" + len_prefixed(nested)))
    for data in (whole[:-1], whole[: len(whole) // 2], b"\xff" * 1000, b"\x3a" + len_prefixed(nested)):
        path.write_bytes(data)
        refused(path, "not an ONNX model")


def len_prefixed(data: bytes) -> bytes:
    size, prefix = len(data), b""
    while size > 127:
        prefix, size = prefix + bytes([size & 127 | 128]), size >> 7
    return prefix + bytes([size]) + data


# ---- external data

EXTERNAL = {
    "out by ..": ({"location": "../secret.bin"}, "no path within"),
    "out by a folder and ..": ({"location": "inner/../../secret.bin"}, "no path within"),
    "out by Windows' ..": ({"location": "..\\secret.bin"}, "no path within"),
    "an absolute path": ({"location": "/etc/passwd"}, "no path within"),
    "a drive": ({"location": "C:secret.bin"}, "no path within"),
    "out by a link": ({"location": "link.bin"}, "a link out of"),
    "out by a linked folder": ({"location": "inner/secret.bin"}, "a link out of"),
    "a device": ({"location": "device"}, "a link out of"),
    "a folder": ({"location": "."}, "is not a file"),
    "nowhere": ({}, "no path within"),
    "missing": ({"location": "missing.bin"}, "no file 'missing.bin'"),
    "a name no file can have": ({"location": "a" * 5000}, "too long"),
    "a zero byte": ({"location": "w.bin\0"}, "null"),
    "an offset past the end": ({"location": "w.bin", "offset": "4000"}, "of a file of 864"),
    "a negative offset": ({"location": "w.bin", "offset": "-8"}, "bytes -8 to"),
    "a length past the end": ({"location": "w.bin", "length": "865"}, "bytes 0 to 865"),
    "an offset that is text": ({"location": "w.bin", "offset": "many"}, "'many'"),
    "too short": ({"location": "w.bin", "length": "100"}, "damaged"),
    "more than the tensor": ({"location": "big.bin"}, "900 bytes for a [8, 3, 3, 3] tensor of 864"),
}


@pytest.mark.parametrize("name", EXTERNAL)
def test_external_data_is_read_only_beside_the_model(name: str, tmp_path: Path) -> None:
    entries, says = EXTERNAL[name]
    folder, outside = tmp_path / "model", tmp_path / "outside"
    folder.mkdir(), outside.mkdir()
    model = classifier()
    data = weight(model).raw_data
    for path in (tmp_path / "secret.bin", outside / "secret.bin", folder / "w.bin"):
        path.write_bytes(data)
    (folder / "big.bin").write_bytes(data + bytes(36))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "inner").symlink_to(outside)
    (folder / "device").symlink_to("/dev/zero")
    external(weight(model), **entries)
    refused(saved(folder, model), says)


def external(tensor: TensorProto, **entries: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    model = classifier()
    (tmp_path / "w.bin").write_bytes(b"\1" * 16 + weight(model).raw_data)
    external(weight(model), location="w.bin", offset="16", length="864")
    ok("verify", saved(tmp_path, model))


def test_external_data_of_a_constant_and_of_a_loaded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = classifier()
    tensor = TensorProto()
    tensor.CopyFrom(weight(model))
    external(tensor, location="../secret.bin")
    constant = helper.make_node("Constant", [], ["k"], name="k")
    constant.attribute.append(AttributeProto(name="value", type=AttributeProto.TENSOR, t=tensor))
    model.graph.node.insert(0, constant)
    reads("stem", "same", "k")(model)
    refused(saved(tmp_path, model), "no path within")
    # A model in memory has no folder: not even the working directory is read.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.bin").write_bytes(weight(model).raw_data)
    tensor.external_data[0].value = "w.bin"
    constant.attribute[0].t.CopyFrom(tensor)
    model.graph.node[0].CopyFrom(constant)
    with pytest.raises(OptgraphError, match="not loaded: give the path of the model"):
        optgraph.compile(model)


# ---- artifacts


def header(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    def rewrite(data: bytes) -> bytes:
        size = int.from_bytes(data[:8], "little")
        found = json.loads(data[8 : 8 + size])
        change(found)
        text = json.dumps(found).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + size :]

    return rewrite


def fused(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    def rewrite(found: dict[str, Any]) -> None:
        graph = json.loads(found["__metadata__"]["fused"])
        change(graph)
        found["__metadata__"]["fused"] = json.dumps(graph)

    return header(rewrite)


def conv(graph: dict[str, Any]) -> dict[str, Any]:
    return next(n for n in graph["nodes"] if n["op"] == "Conv")


def swap(graph: dict[str, Any]) -> None:
    graph["nodes"].reverse()


def deep(found: dict[str, Any]) -> None:
    found["__metadata__"]["fused"] = "[" * 100_000 + "]" * 100_000


def metadata(key: str, value: str) -> Callable[[bytes], bytes]:
    return header(lambda found: found["__metadata__"].__setitem__(key, value))


ARTIFACTS: dict[str, Callable[[bytes], bytes]] = {
    "a header longer than the file": lambda data: (1 << 40).to_bytes(8, "little") + data[8:],
    "a header that is not text": lambda data: data[:8] + b"\xff" * 100 + data[108:],
    "an offset past the end": header(lambda h: h["000000"]["data_offsets"].__setitem__(1, 1 << 40)),
    "weights that overlap": header(lambda h: h["000001"].update(h["000000"])),
    "a shape larger than its data": header(lambda h: h["000000"]["shape"].__setitem__(0, 1 << 40)),
    "no weights": lambda data: data[: 8 + int.from_bytes(data[:8], "little")],
    "a changed weight": lambda data: data[:-2] + b"\x7f\x7f",
    "JSON 100,000 deep": header(deep),
    "an image of a petabyte": fused(lambda g: g["inputs"][0].__setitem__(1, ["N", 3, 1 << 24, 1 << 24])),
    "nodes in reverse": fused(swap),
    "stride 0": fused(lambda g: conv(g)["fields"].__setitem__("stride", [0, 0])),
    "a kernel of a million": fused(lambda g: conv(g)["fields"].__setitem__("kernel", [10**6, 10**6])),
    "an unknown activation": fused(lambda g: conv(g)["fields"].__setitem__("act", ["exec", 0.0, 0.0])),
    "an output that is not there": fused(lambda g: g["outputs"][0].__setitem__(1, "nowhere")),
    "an unknown dtype": metadata("dtype", "fp7"),
    "a batch of 0": metadata("batches", "[0]"),
    "cubins that are not there": metadata("cubins", "[{}]"),
    "cubins 100,000 deep": metadata("cubins", "[" * 100_000 + "]" * 100_000),
}


@pytest.mark.parametrize("name", ARTIFACTS)
def test_a_bad_artifact(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.optgraph"
    ok("compile", saved(tmp_path))
    path.write_bytes(ARTIFACTS[name](path.read_bytes()))
    refused(path, "")


# ---- random damage


def mutate(good: bytes, path: Path, use: Callable[[Path], object], report: dict[str, int]) -> None:
    """Tries MUTATIONS versions of `good`; counts how they ended. What is no OptgraphError goes through."""
    rng = random.Random(0)
    for i in range(MUTATIONS):
        data = bytearray(good)
        if i % 10 == 0:
            del data[rng.randrange(len(data)) :]
        for _ in range(rng.choice((1, 2, 8))):
            if data:
                data[rng.randrange(len(data))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        path.write_bytes(data)
        try:
            use(path)
            report["used"] += 1
        except OptgraphError as error:
            assert "\n" not in str(error) and len(str(error)) < 2000
            report["refused"] += 1
        except Exception:
            print("version", i, file=sys.stderr)
            raise


def fuzz(folder: Path) -> None:
    """In a process of its own, which a limit or a crash may end."""
    model = classifier(width=2)
    names = iter(range(1000))  # short names: a mutation should hit structure more often than text
    for n in model.graph.node:
        n.name = str(next(names))
    path = saved(folder, model)
    net = optgraph.compile(path, "torch")
    optgraph.Net(net.simplified, net.fused, net.source, "torch", cubins=[sample()]).save(folder / "good.optgraph")
    net.plan()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * GIB, used + 2 * GIB))
    for good, use in (
        (path.read_bytes(), lambda path: optgraph.compile(path, "torch").plan()),
        ((folder / "good.optgraph").read_bytes(), lambda path: optgraph.load(path, "torch").plan()),
    ):
        report = {"used": 0, "refused": 0}
        mutate(good, folder / "bad", use, report)
        print(json.dumps(report))
    # Not getrusage's figure, which a process begins with that of the one that started it.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    print(json.dumps({"peak": int(peak.split()[1]) * 1024}))


def test_random_damage(tmp_path: Path) -> None:
    """4,000 damaged files, in a process that may take 2 GiB more than it has and 150 seconds."""
    command = [sys.executable, "-c", f"from tests.onnx.test_hostile import *; fuzz(Path({str(tmp_path)!r}))"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150)
    assert run.returncode == 0, run.stderr[-3000:]
    model, artifact, memory = map(json.loads, run.stdout.splitlines()[-3:])
    assert model["used"] + model["refused"] == artifact["used"] + artifact["refused"] == MUTATIONS
    assert model["refused"] > 300 and model["used"] > 300 and artifact["refused"] > 1000
    assert memory["peak"] < 2 * GIB
