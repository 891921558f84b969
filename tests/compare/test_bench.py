"""bench times fairly, and only what gives the right answer. Nothing here asserts how fast anything is."""

import importlib
import json
import types

import onnx
import pytest
import torch

from optgraph.api import compiling
from optgraph.base.errors import InputError, OptgraphError
from optgraph.compare.bench import bench, interleave
from optgraph.onnx.write import save_onnx
from optgraph.passes.pipeline import FUSE, Pass
from optgraph.passes.rewrite import Outcome
from tests.support.networks import xception
from tests.support.two_inputs import shifted

benchmark = importlib.import_module("optgraph.compare.bench")  # the module, whatever the package calls `bench`


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.onnx"
    save_onnx(xception(), path)
    return path


def quick(model, backend, **options):
    return bench(model, backend=backend, repeats=3, min_seconds=0.0, threads=1, **options)


@pytest.mark.parametrize("backend", ["onnxruntime", "torch", "interpret"])
def test_what_is_reported(model, backend):
    found = quick(model, backend, batch=2).to_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["model"], found["backend"], found["against"]) == ("model.onnx", backend, "onnxruntime")
    assert (found["dtype"], found["batch"], found["threads"], found["repeats"]) == ("fp32", 2, 1, 3)
    for side in ("ours", "theirs"):
        spread = found["spread"][side]
        assert 0 < spread["min"] <= found[f"{side}_ms"] <= spread["max"]
        assert 0 <= spread["iqr"] <= spread["max"] - spread["min"]
    assert found["ratio"] > 0 and found["device"]
    assert set(found["versions"]) == {"python", "torch", "onnxruntime", "onnx", "triton", "optgraph"}
    assert found["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize("backend", ["onnxruntime", "torch", "interpret"])
def test_a_first_input_without_a_batch(tmp_path, backend):
    save_onnx(shifted(), tmp_path / "two.onnx")
    assert quick(tmp_path / "two.onnx", backend, batch=2).batch == 2


def test_the_ratio_is_the_median_of_the_pairs(model, monkeypatch):
    times = ([1.0, 2.0, 4.0, 5.0], [3.0, 2.0, 12.0, 3.0])
    monkeypatch.setattr(benchmark, "interleave", lambda *_: times)
    found = quick(model, "torch")
    assert found.ratio == 2.0  # of 3, 1, 3 and 0.6
    assert found.ratio_of_medians == 1.0
    assert (found.ours_ms, found.theirs_ms, found.repeats) == (3000.0, 3000.0, 4)
    ours = found.spread["ours"]
    assert (ours.min, ours.max, ours.iqr) == (1000.0, 5000.0, 2500.0)
    assert (ours.p90, ours.p99) == pytest.approx((4700.0, 4970.0))
    assert found.images_per_second["ours"] == pytest.approx(1 / 3)
    assert found.runs["theirs"] == pytest.approx([3000.0, 2000.0, 12000.0, 3000.0])


class Clock:
    """Time that only the runs make pass, and a record of which ran."""

    def __init__(self):
        self.now = 0.0
        self.ran = ""

    def __call__(self):
        return self.now

    def runner(self, name, *seconds):
        left = list(seconds)

        def run():
            self.ran += name
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


def test_runs_alternate_and_so_does_who_starts():
    clock = Clock()
    ours, theirs = interleave(clock.runner("o", 1.0, 2.0, 3.0), clock.runner("t", 5.0), 4, 0.0, clock=clock)
    assert clock.ran == "ottootto"
    assert ours == [1.0, 2.0, 3.0, 3.0] and theirs == [5.0] * 4


def test_quick_runs_are_repeated_until_the_time_is_up():
    clock, told = Clock(), []
    ours, theirs = interleave(clock.runner("o", 0.25), clock.runner("t", 0.75), 2, 5.0, told.append, clock)
    assert len(ours) == len(theirs) == 5
    assert told == [0.2, 0.4, 0.6, 0.8, 1.0]


def test_a_network_that_answers_wrong_is_not_timed(model, monkeypatch):
    def run(graph):
        node = next(node for node in graph.nodes() if node.op.kind == "Conv")
        w = graph.constants[node.get("w")] * 1.1
        graph.update(node, inputs=node.inputs_with(w=graph.add_constant(w)))
        return Outcome(1)

    broken = compiling.compile(model, "torch", fuse_passes=(*FUSE, Pass("sabotage", "sabotage", run)))
    monkeypatch.setattr(benchmark, "open_with_original", lambda *_, **__: (broken, model))
    monkeypatch.setattr(benchmark, "interleave", lambda *_: pytest.fail("timed"))
    with pytest.raises(OptgraphError, match=r"output 'y0' is off by .* run verify"):
        quick(model, "torch")


def test_an_artifact_is_timed_against_its_original(model, tmp_path):
    artifact = tmp_path / "compiled.optgraph"
    compiling.compile(model, "torch").save(artifact)
    assert quick(artifact, "torch").model == "model.onnx"
    original = model.rename(tmp_path / "elsewhere.onnx")
    assert quick(artifact, "torch", original=original).model == "model.onnx"


def test_torch_gets_the_threads_and_gives_them_back(model, monkeypatch):
    before, during = torch.get_num_threads(), []
    wanted = before + 1

    def fake(ours, *_):
        during.append(torch.get_num_threads())
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "interleave", fake)
    with pytest.raises(KeyboardInterrupt):
        bench(model, backend="torch", threads=wanted)
    assert during == [wanted]
    assert torch.get_num_threads() == before


def test_both_sides_of_onnxruntime_get_the_threads(model, monkeypatch):
    given = []
    make = benchmark.session

    def recorded(path, threads):
        given.append(threads)
        return make(path, threads)

    class Ours(benchmark.OnnxRuntime):
        def __init__(self, graph, threads, *how):
            given.append(threads)
            super().__init__(graph, threads, *how)

    monkeypatch.setattr(benchmark, "session", recorded)
    monkeypatch.setattr(benchmark, "OnnxRuntime", Ours)
    bench(model, backend="onnxruntime", threads=2, repeats=1, min_seconds=0.0)
    assert given == [2, 2]


def test_what_cannot_be_asked_for(model):
    with pytest.raises(InputError, match="cannot compare with 'tvm': use onnxruntime"):
        bench(model, against="tvm")
    with pytest.raises(InputError, match="at least 1"):
        bench(model, repeats=0)
    for threads in (0, 100_000):
        with pytest.raises(InputError, match="at least 1, and at most 1024"):
            bench(model, threads=threads)
    with pytest.raises(InputError, match="at least 1"):
        bench(model, warm_up=0)


def test_an_input_that_the_original_does_not_take(model, monkeypatch):
    def refuse(*_):
        raise OptgraphError("ONNX Runtime cannot run the model: out of space")

    monkeypatch.setattr(benchmark, "session", lambda *_, **__: types.SimpleNamespace(run=refuse))
    with pytest.raises(OptgraphError, match=r"model.onnx: on the same input, ONNX Runtime cannot run the model: out"):
        quick(model, "torch")


@pytest.mark.parametrize("is_cut", [False, True])
def test_another_shape_than_the_model_fixes(model, is_cut):
    """Whatever the file says of shapes inside: verify takes it, and so does bench."""
    fixed = onnx.shape_inference.infer_shapes(onnx.load(model))
    for value in (*fixed.graph.input, *fixed.graph.output, *fixed.graph.value_info):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(fixed, model)
    inner = [next(iter(fixed.graph.node)).output[0]] if is_cut else ()
    for shape in (("N", 8, 9, 9), ("N", 8, 13, 14)):
        assert quick(model, "torch", input_shape=shape, batch=2, outputs=inner).batch == 2
