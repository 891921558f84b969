"""The logic of what runs on a GPU: peers on the CPU, timing, what is kept and gone on from."""

from __future__ import annotations

import math
import time

import numpy as np
import onnx
import pytest
import torch

from benchmarks import cudnn, peers
from benchmarks.gpu import compile, race
from benchmarks.gpu.device import WrongError
from benchmarks.torch_module import Network
from optgraph.api import compiling
from optgraph.base.config import early_launch
from optgraph.base.devices import SM_90
from optgraph.ir.graph import Graph
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.sample import Operands
from optgraph.onnx import write
from optgraph.ops import bottleneck
from optgraph.passes import pipeline
from optgraph.plan.lowering import lower
from optgraph.run import reference
from optgraph.run.engine import Held
from optgraph.tune.apart import separate
from optgraph.tune.layers import layers
from optgraph.tune.timing import Times, interleaved
from tests.support.cli_models import classifier, saved
from tests.support.networks import Builder, inception_a, inception_resnet, xception

CPU = torch.device("cpu")


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


def image(graph: Graph, batch: int = 2) -> torch.Tensor:
    (name,) = graph.inputs
    return torch.randn(batch, *(int(d) for d in graph.shape(name)[1:]))


# ---- peers


@pytest.mark.parametrize("build", [inception_a, inception_resnet, xception])
def test_the_torch_module_is_the_network_and_traces_whole(build) -> None:
    graph = build()
    x = image(graph)
    module = Network(graph).to(memory_format=torch.channels_last)
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in module.buffers() if t.dim() == 4)
    expected = reference.run(graph, {"x": x}, torch.float64)["y0"]
    assert relative(module(x), expected) < 1e-6
    traced = torch.compile(module, backend="eager", fullgraph=True)
    assert relative(traced(x), expected) < 1e-6


def test_launches_in_turn_are_a_side_of_their_own(monkeypatch) -> None:
    begins_early: list[bool] = []
    run = Held.run
    monkeypatch.setattr(Held, "run", lambda *given: begins_early.append(early_launch()) or run(*given))
    graph = xception()
    before, x = len(graph.nodes()), image(graph, 1)
    side = peers.in_turn(graph, x)
    side.run()
    assert begins_early == [False, True]  # as it is recorded, and when that is replayed
    assert relative(side.result(), reference.run(graph, {"x": x}, torch.float64)["y0"]) < 5e-3
    assert len(graph.nodes()) == before


def test_the_half_model_is_half_and_still_the_network(tmp_path) -> None:
    compiled = compiling.compile(saved(tmp_path, classifier()), "onnxruntime")
    model = peers.half(write.to_onnx(compiled.simplified))
    kinds = {t.data_type for t in model.graph.initializer}
    assert onnx.TensorProto.FLOAT not in kinds and onnx.TensorProto.FLOAT16 in kinds
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((1, 3, 12, 12)).astype(np.float32)
    (found,) = session.run(None, {session.get_inputs()[0].name: x.astype(np.float16)})
    assert found.dtype == np.float16
    assert relative(torch.from_numpy(found), torch.from_numpy(compiled(x))) < 1e-2


def test_a_peer_that_is_not_here_says_so() -> None:
    graph = xception()
    for peer in (peers.onnxruntime_cuda, peers.tensorrt):
        with pytest.raises(peers.UnavailableError, match=r"has no \w+ExecutionProvider"):
            peer(graph, image(graph))


def test_the_jax_function_is_the_network(tmp_path) -> None:
    """Only where jax is: it is no dependency."""
    jax = pytest.importorskip("jax")
    from benchmarks.jax_network import network

    for graph in (inception_a(), inception_resnet(), xception()):
        x = image(graph)
        side = peers.jax_side(jax.jit(network(graph, "float32")), jax.numpy.asarray(x.permute(0, 2, 3, 1).numpy()))
        assert side.timer(side.run, 2) > 0
        expected = reference.run(graph, {"x": x}, torch.float64)["y0"].permute(0, 2, 3, 1)
        assert relative(side.result(), expected) < 1e-6


def all_kinds() -> Graph:
    """Convolutions of every kind that the three networks have, merged 1×1 among them, and slopes a channel."""
    b = Builder(channels=16, size=9)
    trunk = b.act(b.conv(b.x, 24, 3, stride=2))
    left, right = b.act(b.conv(trunk, 16, 1)), b.act(b.conv(trunk, 12, 1))
    joined = b.concat(b.act(b.conv(left, 8, (1, 3))), right)
    residual = b.act(b.add(trunk, b.conv(joined, 24, 1)))
    separable = b.prelu(b.conv(b.prelu(b.depthwise(b.act(residual))), 24, 1))
    return b.done(b.add(separable, residual), b.conv(b.act(separable), 8, 1, stride=2))


def test_cudnn_computes_what_the_layer_does(monkeypatch) -> None:
    graph = all_kinds()
    pipeline.apply(graph, pipeline.FUSE)
    apart = list(layers(lower(graph, 2), graph))
    monkeypatch.setattr(bottleneck, "pays", lambda *_, **__: True)  # as at a large batch
    seen = set()
    for layer in (*apart, *layers(lower(graph, 2), graph)):
        operands = layer.operands(CPU)
        peer = cudnn.cudnn(operands)
        assert (peer is None) == (layer.name not in race.KERNELS)
        if peer is not None:
            seen.add(layer.name)
            for found, expected in zip(peer(), operands.expected(), strict=True):
                assert relative(found, expected) < 1e-5, str(layer)
    assert seen == set(race.KERNELS)


def test_separate_calls_compute_what_the_fused_one_does(monkeypatch) -> None:
    graph = all_kinds()
    pipeline.apply(graph, pipeline.FUSE)
    monkeypatch.setattr(bottleneck, "pays", lambda *_, **__: True)
    fused = set()
    for layer in layers(lower(graph, 2), graph):
        operands = layer.operands(CPU)
        run = separate(operands, lambda launch: launch)
        if run is not None:
            fused.add(layer.name)
            assert operands.error(run) <= layer.bound, str(layer)
        else:
            assert layer.name in ("conv2d", "pointwise", "elementwise") and len(operands.results()) == 1
    assert fused == {"pointwise", "separable", "bottleneck"}


# ---- timing, and what is kept


def test_sides_take_turns_in_blocks_of_equal_length() -> None:
    log: list[tuple[str, int]] = []
    cost = {"fast": 0.5, "slow": 2.0}
    sides = {name: (lambda n=name: n) for name in cost}

    def timer(run, repeats: int) -> float:
        log.append((run(), repeats))
        return cost[run()] * (1.0 if len(log) % 2 else 1.1)

    found = interleaved(sides, timer, blocks=6, block_ms=10.0)
    blocks = log[4:]  # after two warm-ups of each
    assert [name for name, _ in blocks[:4]] == ["fast", "slow", "slow", "fast"]
    repeats = dict(blocks)
    assert 18 <= repeats["fast"] <= 20 and 4 <= repeats["slow"] <= 5
    assert found["fast"].blocks == 6 and 0.5 <= found["fast"].median <= 0.55
    assert found["slow"].min == 2.0 and found["slow"].max == pytest.approx(2.2) and found["slow"].iqr > 0


@pytest.mark.parametrize("peer", ["torch eager", "torch.compile"])
def test_cudnn_may_search_whichever_peer_is_first(peer, monkeypatch) -> None:
    """A call that goes on may have done all races with one of them."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(peers, "_module", lambda graph: torch.nn.Identity())
    monkeypatch.setattr(peers, "captured", lambda run: torch.backends.cudnn.benchmark)
    assert peers.PEERS[peer](xception(), torch.zeros(1, 3, 8, 8)).run is True


def test_cudnn_may_search_for_layers_too(monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    graph = all_kinds()
    pipeline.apply(graph, pipeline.FUSE)
    layer = next(k for k in layers(lower(graph, 1), graph) if k.name == "conv2d")
    assert cudnn.cudnn(layer.operands(CPU)) is not None and torch.backends.cudnn.benchmark


def test_a_race_says_how_many_times_ours_each_other_takes(monkeypatch) -> None:
    times = {"ours": Times(2.0, 1.0, 3.0, 0.5, 21), "theirs": Times(6.0, 5.0, 7.0, 0.5, 21)}
    monkeypatch.setattr(race, "interleaved", lambda sides, timer, blocks: times)
    found = race.race({"ours": lambda: None, "theirs": lambda: None}, lambda run, repeats: 1.0, runs=2)
    assert found["ratio"] == {"theirs": 3.0}
    assert found["ms"]["ours"] == {"median": 1.0, "min": 0.5, "max": 1.5, "iqr": 0.25, "blocks": 21}


def host_timer(run, repeats: int) -> float:
    """As `timing.cuda_timer`, in a hurry."""
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


@pytest.fixture
def no_cuda(tmp_path, monkeypatch) -> None:
    """What race.py asks of CUDA, done by the CPU; kernels are interpreted."""
    compiled = compiling.compile(saved(tmp_path, classifier()), "interpret", "fp16")
    monkeypatch.setattr(race, "_net", lambda name, folder: compiled)
    monkeypatch.setattr(race, "cuda_timer", host_timer)
    monkeypatch.setattr(race, "captured", lambda run, times=1: run)
    monkeypatch.setattr(race, "BLOCKS", 2)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)


def torch_side(graph: Graph, x: torch.Tensor) -> peers.Side:
    module, answer = Network(graph), []
    return peers.Side(lambda: answer.append(module(x)), lambda: answer[-1], host_timer)


@pytest.mark.usefixtures("no_cuda")
def test_a_network_is_raced_if_the_answers_agree(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(peers.PEERS, "torch eager", torch_side)
    found = race.network("xception", 2, "torch eager", tmp_path)
    assert found["ratio"]["theirs"] > 0 and found["ms"]["ours"]["blocks"] == 2 and 0 < found["apart"] < 1e-2
    assert "ms" not in race.network("xception", 2, "TensorRT", tmp_path)

    def liar(graph: Graph, x: torch.Tensor, factor: float) -> peers.Side:
        side = torch_side(graph, x)
        return peers.Side(side.run, lambda: factor * side.result(), host_timer)

    def broken(graph: Graph, x: torch.Tensor) -> peers.Side:
        raise RuntimeError("out of memory\nand more")

    monkeypatch.setitem(peers.PEERS, "torch eager", broken)
    found = race.network("xception", 2, "torch eager", tmp_path)
    assert "RuntimeError: out of memory" in found["skipped"] and "ms" not in found
    for factor in (1.1, math.nan):
        monkeypatch.setitem(peers.PEERS, "torch eager", lambda graph, x, f=factor: liar(graph, x, f))
        with pytest.raises(WrongError, match="the answers are"):
            race.network("xception", 2, "torch eager", tmp_path)


@pytest.mark.usefixtures("no_cuda")
def test_a_layer_is_raced_if_both_are_right(monkeypatch) -> None:
    graph = all_kinds()
    pipeline.apply(graph, pipeline.FUSE)
    merged = next(k for k in layers(lower(graph, 1, "fp16"), graph) if len(k.operands(CPU).results()) > 1)
    found = race.measure_layer(merged, 1, CPU, as_it_is)
    assert set(found["ratio"]) == {"theirs", "separate"}
    assert set(race.measure_layer(merged, 128, CPU, as_it_is)["ratio"]) == {"theirs"}
    with monkeypatch.context() as patch:
        patch.setattr(cudnn, "cudnn", lambda operands: lambda: [2.0 * t for t in operands.expected()])
        assert "cuDNN is off by 1.0e+00" in race.measure_layer(merged, 1, CPU, as_it_is)["skipped"]
    monkeypatch.setattr(Operands, "launch", lambda self: lambda: None)
    with pytest.raises(WrongError, match="off by inf"):
        race.measure_layer(merged, 1, CPU, as_it_is)


def as_it_is(launch: Launch) -> Launch:
    return launch


def test_every_measurement_has_a_key_of_its_own(monkeypatch, tmp_path) -> None:
    graph = all_kinds()
    pipeline.apply(graph, pipeline.FUSE)
    monkeypatch.setattr(race, "_layers", lambda name, batch, folder: layers(lower(graph, batch, "fp16"), graph))
    monkeypatch.setattr(race, "_cuda", lambda: CPU)
    monkeypatch.setattr(race, "target_of", lambda device: SM_90)
    keys = [task.key for task in (*race.tasks(tmp_path), *compile.tasks(tmp_path))]
    assert len(keys) == len(set(keys))
    for batch in race.BATCHES:
        assert {f"network xception {batch} {peer}" for peer in peers.PEERS} <= set(keys)
    assert sum(key.startswith("layer") for key in keys) > 3 * len(race.KERNELS)
