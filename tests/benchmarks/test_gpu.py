"""The logic of what runs on a GPU: peers on the CPU, what is kept and gone on from, what the results say."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch

from benchmarks import cudnn, gpu, gpu_report, gpu_steps, peers, record, tables
from benchmarks.torch_module import Network
from optgraph.api import net
from optgraph.base.store import Store
from optgraph.ir.graph import Graph
from optgraph.onnx import write
from optgraph.passes import pipeline
from optgraph.plan import lowering as lowering
from optgraph.plan.lowering import lower
from optgraph.run import reference
from optgraph.tune.layers import Operands, layers
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


def test_the_half_model_is_half_and_still_the_network(tmp_path) -> None:
    compiled = net.compile(saved(tmp_path, classifier()), "onnxruntime")
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
    """Convolutions of every kind that the three networks have, merged 1×1 among them."""
    b = Builder(channels=16, size=9)
    trunk = b.act(b.conv(b.x, 24, 3, stride=2))
    left, right = b.act(b.conv(trunk, 16, 1)), b.act(b.conv(trunk, 12, 1))
    joined = b.concat(b.act(b.conv(left, 8, (1, 3))), right)
    residual = b.act(b.add(trunk, b.conv(joined, 24, 1)))
    separable = b.conv(b.depthwise(b.act(residual)), 24, 1)
    return b.done(b.add(separable, residual), b.conv(b.act(separable), 8, 1, stride=2))


def test_cudnn_computes_what_the_layer_does(monkeypatch) -> None:
    graph = all_kinds()
    pipeline.apply(graph, pipeline.FUSE)
    apart = list(layers(lower(graph, 2), graph))
    monkeypatch.setattr(lowering, "_one_launch", lambda context, node: True)  # as at a large batch
    seen = set()
    for layer in (*apart, *layers(lower(graph, 2), graph)):
        operands = Operands(layer, CPU)
        peer = cudnn.cudnn(operands)
        assert (peer is None) == (layer.name not in gpu.KERNELS)
        if peer is not None:
            seen.add(layer.name)
            for found, expected in zip(peer(), operands.expected(), strict=True):
                assert relative(found, expected) < 1e-5, str(layer)
    assert seen == set(gpu.KERNELS)


def test_separate_calls_compute_what_the_fused_one_does(monkeypatch) -> None:
    graph = all_kinds()
    pipeline.apply(graph, pipeline.FUSE)
    monkeypatch.setattr(lowering, "_one_launch", lambda context, node: True)
    fused = set()
    for layer in layers(lower(graph, 2), graph):
        operands = Operands(layer, CPU)
        run = cudnn.separate(operands, lambda launch: launch)
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


def test_a_store_goes_on_where_it_stopped_unless_something_changed(tmp_path) -> None:
    path, done = tmp_path / "new" / "r.json", []
    tasks = [(name, lambda n=name: done.append(n) or {"n": n}) for name in "abc"]
    clock = iter([0.0, 1.0, 2.0])
    assert not Store(path, {"gpu": 1}, {"date": "1"}).complete(tasks, 1.5, lambda: next(clock))
    assert done == ["a", "b"]
    assert Store(path, {"gpu": 1}, {"date": "2"}).complete(tasks, 1.0, lambda: 0.0)
    assert done == ["a", "b", "c"]
    written = json.loads(path.read_text())
    assert written["date"] == "2" and list(written["records"]) == ["a", "b", "c"]
    assert Store(path, {"gpu": 2}).records == {}


def test_a_race_says_how_many_times_ours_each_other_takes(monkeypatch) -> None:
    times = {"ours": Times(2.0, 1.0, 3.0, 0.5, 21), "theirs": Times(6.0, 5.0, 7.0, 0.5, 21)}
    monkeypatch.setattr(gpu, "interleaved", lambda sides, timer, blocks: times)
    found = gpu.race({"ours": lambda: None, "theirs": lambda: None}, lambda run, repeats: 1.0, runs=2)
    assert found["ratio"] == {"theirs": 3.0}
    assert found["ms"]["ours"] == {"median": 1.0, "min": 0.5, "max": 1.5, "iqr": 0.25, "blocks": 21}


def host_timer(run, repeats: int) -> float:
    """As `timing.cuda_timer`, in a hurry."""
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


@pytest.fixture
def no_cuda(tmp_path, monkeypatch) -> None:
    """What gpu.py asks of CUDA, done by the CPU; kernels are interpreted."""
    compiled = net.compile(saved(tmp_path, classifier()), "interpret", "fp16")
    monkeypatch.setattr(gpu, "_net", lambda name, folder: compiled)
    monkeypatch.setattr(gpu, "cuda_timer", host_timer)
    monkeypatch.setattr(gpu, "captured", lambda run, times=1: run)
    monkeypatch.setattr(gpu, "BLOCKS", 2)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)


def torch_side(graph: Graph, x: torch.Tensor) -> peers.Side:
    module, answer = Network(graph), []
    return peers.Side(lambda: answer.append(module(x)), lambda: answer[-1], host_timer)


@pytest.mark.usefixtures("no_cuda")
def test_a_network_is_raced_if_the_answers_agree(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(peers.PEERS, "torch eager", torch_side)
    found = gpu.network("xception", 2, "torch eager", tmp_path)
    assert found["ratio"]["theirs"] > 0 and found["ms"]["ours"]["blocks"] == 2 and 0 < found["apart"] < 1e-2
    assert "ms" not in gpu.network("xception", 2, "TensorRT", tmp_path)

    def liar(graph: Graph, x: torch.Tensor) -> peers.Side:
        side = torch_side(graph, x)
        return peers.Side(side.run, lambda: 1.1 * side.result(), host_timer)

    def broken(graph: Graph, x: torch.Tensor) -> peers.Side:
        raise RuntimeError("out of memory\nand more")

    for peer, reason in ((liar, "apart"), (broken, "RuntimeError: out of memory")):
        monkeypatch.setitem(peers.PEERS, "torch eager", peer)
        found = gpu.network("xception", 2, "torch eager", tmp_path)
        assert reason in found["skipped"] and "ms" not in found


@pytest.mark.usefixtures("no_cuda")
def test_a_layer_is_raced_if_both_are_right(monkeypatch) -> None:
    graph = all_kinds()
    pipeline.apply(graph, pipeline.FUSE)
    merged = next(k for k in layers(lower(graph, 1, "fp16"), graph) if len(Operands(k, CPU).results()) > 1)
    found = gpu.measure_layer(merged, 1, CPU)
    assert set(found["ratio"]) == {"theirs", "separate"}
    assert set(gpu.measure_layer(merged, 128, CPU)["ratio"]) == {"theirs"}
    monkeypatch.setattr(Operands, "launch", lambda self: lambda: None)
    assert "off by inf" in gpu.measure_layer(merged, 1, CPU)["skipped"]


def test_every_measurement_has_a_key_of_its_own(monkeypatch, tmp_path) -> None:
    graph = all_kinds()
    pipeline.apply(graph, pipeline.FUSE)
    monkeypatch.setattr(gpu, "_layers", lambda name, batch, folder: layers(lower(graph, batch, "fp16"), graph))
    keys = [key for key, _ in gpu.tasks(tmp_path)]
    assert len(keys) == len(set(keys))
    for batch in gpu.BATCHES:
        assert {f"network xception {batch} {peer}" for peer in peers.PEERS} <= set(keys)
    assert sum(key.startswith("layer") for key in keys) > 3 * len(gpu.KERNELS)


# ---- what make gpu does


class Machine:
    """Runs nothing, takes its time, and exits as told."""

    def __init__(self, seconds: float, codes: dict[str, int]) -> None:
        self.now, self._seconds, self._codes = 0.0, seconds, codes
        self.commands: list[list[str]] = []
        self.environment: dict[str, str] = {}

    def execute(self, command: list[str], environment: dict[str, str], seconds: float) -> int:
        assert seconds > 0
        self.commands.append(command)
        self.environment = environment
        self.now += self._seconds
        return next((code for word, code in self._codes.items() if word in command), 0)


@pytest.fixture
def folders(tmp_path, monkeypatch) -> tuple[Path, Path]:
    results = tmp_path / "results"
    (results / "tuned").mkdir(parents=True)
    (results / "gpu.json").write_text("old")
    (results / "tuned" / "sm_90.json").write_text("tiles")
    monkeypatch.setattr(record, "RESULTS", results)
    monkeypatch.setattr(record, "model", lambda name: Path(f"/{name}.onnx"))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return results, tmp_path / "out"


def steps(machine: Machine, out: Path, minutes: float = 9.0) -> dict[str, str]:
    return gpu_steps.run(list(gpu_steps.STEPS), out, minutes, "abc", machine.execute, lambda: machine.now)


def test_all_steps_run_in_order_with_the_time_that_is_left(folders) -> None:
    machine = Machine(30.0, {})
    assert steps(machine, folders[1]) == dict.fromkeys(gpu_steps.STEPS, "done")
    tests, *tunes, race = machine.commands
    assert "pytest" in tests and "--minutes" not in tests
    assert [command[4] for command in tunes] == [f"/{name}.onnx" for name in record.NETWORKS]
    assert [command[-1] for command in tunes] == ["8.50", "8.00", "7.50"]
    assert "benchmarks.gpu" in race and race[-1] == "7.00" and "abc" in race
    assert "TRITON_INTERPRET" not in machine.environment and machine.environment["OPTGRAPH_TEST_GPU"] == "1"
    assert machine.environment["OPTGRAPH_TUNED"] == str(folders[1] / "tuned")


def test_what_an_earlier_call_left_is_taken_over_once(folders) -> None:
    results, out = folders
    steps(Machine(1.0, {}), out)
    assert (out / "gpu.json").read_text() == "old" and (out / "tuned" / "sm_90.json").read_text() == "tiles"
    (out / "gpu.json").write_text("newer")
    steps(Machine(1.0, {}), out)
    assert (out / "gpu.json").read_text() == "newer"
    steps(Machine(1.0, {}), results)  # where they are the same folder


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ({"pytest": 1}, ("failed", "done", "done")),
        ({"pytest": 5}, ("done", "done", "done")),  # all have passed before
        ({"optgraph": 1, "benchmarks.gpu": 75}, ("done", "unfinished", "unfinished")),
        ({"optgraph": 2, "benchmarks.gpu": 1}, ("done", "failed", "failed")),
    ],
)
def test_exit_codes_are_understood(codes, expected, folders) -> None:
    assert tuple(steps(Machine(1.0, codes), folders[1]).values()) == expected


def test_nothing_is_started_when_the_time_is_up(folders) -> None:
    machine = Machine(100.0, {})
    assert steps(machine, folders[1], minutes=3.0) == {"tests": "done", "tune": "unfinished", "race": "unfinished"}
    assert len(machine.commands) == 2


def test_tests_that_passed_are_left_out_the_next_time(tmp_path, monkeypatch) -> None:
    """What tests/gpu/conftest.py does where there is a GPU."""
    from tests.gpu import conftest

    chip = {"gpu": "one"}
    monkeypatch.setattr(conftest, "_obstacle", lambda: "")
    monkeypatch.setattr(record, "identity", lambda: chip)
    monkeypatch.setenv("OPTGRAPH_TEST_PASSED", str(tmp_path / "gpu_tests.json"))
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    names = ["tests/gpu/test_a.py::test_1", "tests/gpu/test_a.py::test_2", "tests/test_b.py::test_1"]
    for name, passed in zip(names, (True, False, True), strict=True):
        report = SimpleNamespace(when="call", passed=passed, nodeid=name, duration=1.0)
        conftest.pytest_runtest_logreport(report)

    def left() -> list[str]:
        items = [SimpleNamespace(nodeid=name, path=record.ROOT / name.partition("::")[0]) for name in names]
        hooks = SimpleNamespace(hook=SimpleNamespace(pytest_deselected=lambda items: None))
        conftest.pytest_collection_modifyitems(hooks, items)
        return [item.nodeid for item in items]

    assert left() == names[1:]
    chip["gpu"] = "another"
    assert left() == names


def test_a_command_that_hangs_is_stopped() -> None:
    sleep = ["python3", "-c", "import time; time.sleep(60)"]
    assert gpu_steps.execute(sleep, {}, 0.2) == gpu_steps.UNFINISHED
    assert gpu_steps.execute(["python3", "-c", "raise SystemExit(3)"], {}, 60.0) == 3


# ---- what the results say


def rows() -> list[dict[str, object]]:
    def timed(ours: float, **others: float) -> dict[str, object]:
        ms = {"ours": ours} | others
        ratio = {name: value / ours for name, value in others.items()}
        return {"ms": {name: {"median": value} for name, value in ms.items()}, "ratio": ratio}

    network = {"kind": "network", "network": "xception", "batch": 1}
    layer = {"kind": "layer", "layer": "x", "kernel": "conv2d", "batch": 8, "peer": "cuDNN", "network": "xception"}
    return [
        network | {"peer": "torch.compile"} | timed(0.2, theirs=0.8),
        network | {"peer": "torch eager"} | timed(0.3, theirs=0.6),
        network | {"peer": "TensorRT", "skipped": "not here"},
        network | {"peer": "torch.compile", "batch": 128} | timed(10.0, theirs=15.0),
        layer | timed(1.0, theirs=4.0),
        layer | timed(1.0, theirs=1.0),
        layer | {"kernel": "pointwise"} | timed(1.0, theirs=1.0, separate=3.0),
        {"kind": "cold start", "network": "xception", "seconds": 1.25, "process": 4.0},
    ]


def test_the_summary_puts_figures_beside_targets() -> None:
    text = "\n".join(gpu_report.summary(rows()))
    assert "xception, batch 1" in text and "0.300 ms (target 0.22)" in text
    assert "4.00 × torch.compile (target 3.0)" in text and "2.00 × torch eager\n" in text
    assert "1.50 × torch.compile (target 2.0)" in text
    assert "2.00 × cuDNN, mean of 2 (target 1.0)" in text and "1.00 × cuDNN, worst (target 0.85)" in text
    assert "3.00 × our kernels called one by one (target 1.5)" in text
    assert "1.25 s (target 1.5)" in text and "skipped: TensorRT: not here" in text


def test_the_tables_show_them(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    assert "Not measured yet: `make gpu`" in tables.table("gpu")
    store = Store(tmp_path / "gpu.json", {"gpu": "NVIDIA H100 80GB HBM3"}, record.environment("abc"))
    for i, row in enumerate(rows()):
        store.add(str(i), row)
    assert "| xception, batch 1 | 0.300 | 4.00 | 2.00 | – | – | – |\n" in tables.table("gpu")
    assert "NVIDIA H100 80GB HBM3" in tables.table("gpu")
    assert "| conv2d, batch 8 | 2 | 2.00 | 1.00 | – |\n" in tables.table("gpu_layers")
    assert "| pointwise, batch 8 | 1 | 1.00 | 1.00 | 3.00 |\n" in tables.table("gpu_layers")
    assert tuple(peers.PEERS) == gpu_report.PEERS


def test_the_plot_is_a_picture(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    gpu_report.plot(rows(), tmp_path / "gpu.png", "a GPU")
    assert (tmp_path / "gpu.png").read_bytes().startswith(b"\x89PNG")
