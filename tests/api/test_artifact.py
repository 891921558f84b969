"""The .optgraph file: everything comes back, damage is noticed, and nothing else on disk is touched."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from optgraph import ops
from optgraph.api import artifact
from optgraph.api.artifact import Artifact, Options, load, save
from optgraph.api.graph_json import graph_from_json, graph_to_json
from optgraph.base.errors import ArtifactError, InputError
from optgraph.ir.graph import Graph
from optgraph.ir.op import Op
from optgraph.ir.text import graph_text
from optgraph.ir.values import Act, Value
from optgraph.ops.registry import OURS
from optgraph.passes import pipeline
from optgraph.pictures.preprocess import Preprocess
from tests.support.cubin_samples import sample
from tests.support.networks import Builder, inception_a, inception_resnet, preactivation_resnet, xception

OPTIONS = Options("fp32", (1, 8), 77, 123_456)
CUBINS = (sample(), sample(key="f" * 64, target="sm_80", parameters=("pointer",), code=b"\x7fELF for another"))


def compiled(graph: Graph) -> Artifact:
    fused = graph.copy()
    pipeline.apply(fused, pipeline.FUSE)
    return Artifact(graph, fused, OPTIONS, "0" * 64, "model.onnx", CUBINS)


def assert_same(a: Graph, b: Graph) -> None:
    assert graph_text(a) == graph_text(b)
    assert [(n.name, n.op, n.inputs, n.outputs, n.origin) for n in a.nodes()] == [
        (n.name, n.op, n.inputs, n.outputs, n.origin) for n in b.nodes()
    ]
    assert (a.inputs, a.outputs, a.opset, a.domains, a.sources) == (b.inputs, b.outputs, b.opset, b.domains, b.sources)
    assert a.values == b.values and a.constants.keys() == b.constants.keys()
    for name in a.constants:
        assert np.array_equal(a.constants[name], b.constants[name])


@pytest.mark.parametrize("build", [inception_a, xception, inception_resnet, preactivation_resnet])
def test_both_graphs_come_back(build, tmp_path: Path) -> None:
    made = compiled(build())
    save(tmp_path / "net.optgraph", made)
    back = load(tmp_path / "net.optgraph")
    assert_same(back.simplified, made.simplified)
    assert_same(back.fused, made.fused)
    assert (back.options, back.source_digest, back.source_name) == (OPTIONS, "0" * 64, "model.onnx")
    assert back.cubins == CUBINS


def test_what_is_done_to_pictures_and_the_names_of_classes_come_back(tmp_path: Path) -> None:
    made = compiled(inception_a())
    save(tmp_path / "net.optgraph", made)
    assert (load(tmp_path / "net.optgraph").preprocessing, load(tmp_path / "net.optgraph").labels) == (None, ())
    own = Preprocess("", 255.0, (0.5, 0.25, 0.125), (2.0,), True, (9, 8), None, "so")
    save(tmp_path / "net.optgraph", replace(made, preprocessing=own, labels=("cat", "dög\n", "")))
    back = load(tmp_path / "net.optgraph")
    assert (back.preprocessing, back.labels) == (own, ("cat", "dög\n", ""))


def test_machine_code_can_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "net.optgraph"
    made = compiled(inception_a())
    save(path, made)
    assert load(path, cubins=False).cubins == ()
    assert_same(load(path, cubins=False).fused, made.fused)
    rewritten(path, lambda m, t: t["cubin000000"].__setitem__(5, 0))
    with pytest.raises(ArtifactError, match="its cubins are damaged"):
        load(path)
    assert load(path, cubins=False).cubins == ()  # not even looked at


def test_a_file_without_machine_code(tmp_path: Path) -> None:
    made = replace(compiled(inception_a()), cubins=())
    save(tmp_path / "net.optgraph", made)
    assert load(tmp_path / "net.optgraph").cubins == ()
    with safe_open(tmp_path / "net.optgraph", framework="numpy") as file:
        assert "cubins" not in file.metadata() and not [name for name in file.keys() if "cubin" in name]  # noqa: SIM118


def test_weights_are_stored_once(tmp_path: Path) -> None:
    made = compiled(xception())
    save(tmp_path / "net.optgraph", made)
    with safe_open(tmp_path / "net.optgraph", framework="numpy") as file:
        assert len(list(file.keys())) == len(made.simplified.constants) + len(CUBINS)


def test_every_operator_has_a_form() -> None:
    classes = {c for c in vars(ops).values() if isinstance(c, type) and issubclass(c, Op)}
    assert set(OURS.ops) >= {c for c in classes if not c.__name__.startswith("_") and c is not Op}
    b = Builder(channels=4)
    lrn = b.graph.add(ops.LRN(size=3), [b.x]).output
    cut = b.graph.add(ops.Slice(starts=(1,), ends=(8,), axes=(2,), steps=(2,)), [lrn]).output
    graph = b.done(b.graph.add(ops.Activation(act=Act("clip", -1.5, 6.0)), [cut]).output)
    opaque = ops.Opaque(op_type="Elu", domain="", proto=b"\x00\xff", values=(Value(("N", 4, 4, 9)),))
    graph.outputs["y1"] = graph.add(opaque, [cut]).output
    assert_same(graph_from_json(json.loads(json.dumps(graph_to_json(graph))), graph.constants), graph)


@dataclass(frozen=True, kw_only=True)
class Own(Op):
    amount: int = 2


def test_an_operator_of_ones_own_needs_to_be_named(tmp_path: Path) -> None:
    graph = Graph()
    graph.outputs["y"] = graph.add(Own(amount=5), [graph.add_input("x", Value(("N", 3)))], name="mine").output
    made, path = Artifact(graph, graph, OPTIONS, "", "m.onnx"), tmp_path / "net.optgraph"
    with pytest.raises(ArtifactError, match=r"node 'mine' \(Own\).*ops=\[Own\]"):
        save(path, made)
    assert not path.exists()
    save(path, made, ops=[Own])
    with pytest.raises(ArtifactError, match="unknown operator 'Own'"):
        load(path)
    assert load(path, ops=[Own]).fused.nodes()[0].op == Own(amount=5)


def test_another_format_says_who_made_it(tmp_path: Path) -> None:
    path = tmp_path / "net.optgraph"
    save_file({"000000": np.zeros(1)}, path, {"format": "9", "optgraph": "7.1"})
    with pytest.raises(ArtifactError, match=r"made by optgraph 7\.1 \(format 9\).*compile the \.onnx again"):
        load(path)
    save_file({"000000": np.zeros(1)}, path, {"about": "somebody else's weights"})
    with pytest.raises(ArtifactError, match=r"not an \.optgraph file"):
        load(path)
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "missing.optgraph")


def rewritten(path: Path, change) -> None:
    """Saves the artifact again after `change(metadata, tensors)`."""
    with safe_open(path, framework="numpy") as file:
        metadata, tensors = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    change(metadata, tensors)
    save_file(tensors, path, metadata)


def edit_node(key: str, value: object):
    def change(metadata: dict, tensors: dict) -> None:
        graph = json.loads(metadata["fused"])
        node = next(n for n in graph["nodes"] if n["op"] == "Conv")
        (node if key in node else node["fields"])[key] = value
        metadata["fused"] = json.dumps(graph)

    return change


def edit_cubins(**changes: object):
    """A change that somebody made on purpose: the digest fits."""

    def change(metadata: dict, tensors: dict) -> None:
        cubins = json.loads(metadata["cubins"])
        cubins[0].update(changes)
        metadata["cubins"] = json.dumps(cubins)
        codes = [tensors[f"cubin{i:06}"] for i in range(len(cubins))]
        metadata["cubins_digest"] = artifact._digest(codes, metadata["cubins"])

    return change


DAMAGE = {
    "a kernel that does not fit its weight": edit_node("kernel", [4, 4]),
    "a stride of the wrong type": edit_node("stride", ["a", 1]),
    "a field too many": edit_node("fields", {"wings": 2}),
    "an input that is not there": edit_node("inputs", ["nowhere", "nothing"]),
    "a class of Python's": edit_node("op", "Graph"),
    "no fused graph": lambda m, t: m.pop("fused"),
    "JSON cut short": lambda m, t: m.update(fused=m["fused"][:-10]),
    "a missing weight": lambda m, t: t.pop("000000"),
    "a changed weight": lambda m, t: t["000000"].__setitem__((0,) * t["000000"].ndim, 1e9),
    "batches that are text": lambda m, t: m.update(batches='"many"'),
    "a changed cubin": lambda m, t: t["cubin000001"].__setitem__(0, 0),
    "changed facts of a cubin": lambda m, t: m.update(cubins=m["cubins"].replace("98304", "98300")),
    "a missing cubin": lambda m, t: t.pop("cubin000001"),
    "a cubin too many": lambda m, t: t.update(cubin000002=t["cubin000001"]),
    "cubins that are none": lambda m, t: m.update(cubins='{"0": 1}'),
    "no digest of the cubins": lambda m, t: m.pop("cubins_digest"),
    "a cubin of a million warps": edit_cubins(num_warps=10**6),
    "a cubin of no kernel": edit_cubins(entry=None),
    "a cubin with wings": edit_cubins(wings=2),
    "preprocessing that is none": lambda m, t: m.update(preprocessing="[]"),
    "preprocessing of half its fields": lambda m, t: m.update(preprocessing='{"name": "torch"}'),
    "preprocessing that divides by 0": lambda m, t: m.update(
        preprocessing=json.dumps(Preprocess().to_json() | {"std": [0]})
    ),
    "preprocessing that is text": lambda m, t: m.update(
        preprocessing=json.dumps(Preprocess().to_json() | {"crop": "a"})
    ),
    "labels that are numbers": lambda m, t: m.update(labels="[1, 2]"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_line_of_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / "net.optgraph"
    save(path, compiled(inception_a()))
    rewritten(path, DAMAGE[name])
    with pytest.raises(ArtifactError) as caught:
        load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_random_damage_never_passes_for_a_network(tmp_path: Path) -> None:
    path = tmp_path / "net.optgraph"
    made = compiled(xception())
    save(path, made)
    good, rng = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(300):
        data = bytearray(good)
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        else:
            for _ in range(rng.choice((1, 3, 50))):
                data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            load(path).fused.verify()
        except ArtifactError:
            refused += 1
    assert refused > 250  # the rest changed a name, a count or nothing


def test_a_failed_save_keeps_what_was_there(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "net.optgraph"
    path.write_bytes(b"precious")

    def full(*args: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifact, "to_bytes", full)
    with pytest.raises(InputError, match="No space left on device"):
        save(path, compiled(xception()))
    assert path.read_bytes() == b"precious" and [p.name for p in tmp_path.iterdir()] == ["net.optgraph"]
    with pytest.raises(InputError, match="cannot be written"):
        save(tmp_path / "no" / "such" / "net.optgraph", compiled(xception()))
