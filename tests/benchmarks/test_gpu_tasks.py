"""What the steps of `make gpu` do, on the CPU: small launches, and a device that computes something else or lies about
its time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import record
from benchmarks.gpu import chain, device, fused, probe, profile, questions, smoke, suite, tune
from benchmarks.gpu.device import WrongError
from benchmarks.gpu.worker import flaw
from optgraph.base.devices import SM_90
from optgraph.ir.values import RELU, Window
from optgraph.kernels import conv2d, pointwise, separable
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.sample import Operands
from optgraph.kernels.frame.tile import Tile
from optgraph.onnx.write import to_onnx
from optgraph.tune.layers import Bind, Layer
from optgraph.tune.timing import Run
from optgraph.tune.tune import Bench
from tests.support.fake_gpu import FakeGpu
from tests.support.gpu_clock import GpuClock
from tests.support.lying_device import CPU, bench, right, wrong
from tests.support.networks import xception

SAME = Window((3, 3), pads=(1, 1, 1, 1))


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps' modules on a bench that interprets."""
    for module in (smoke, questions, fused, tune):
        monkeypatch.setattr(module, "bench", lambda: bench(right))
    monkeypatch.setattr(tune, "identity", lambda: {"target": "sm_90"})
    monkeypatch.setattr(record, "NETWORKS", ("xception",))
    monkeypatch.setattr(fused, "BATCHES", (1,))


@pytest.mark.usefixtures("on_the_cpu", "small")
@pytest.mark.parametrize(("step", "least"), [(smoke, 20), (questions, 6), (fused, 12), (tune, 8)])
def test_a_step_lists_its_tasks(step, least: int) -> None:
    tasks = list(step.tasks())
    keys = [task.key for task in tasks]
    assert len(set(keys)) == len(keys) >= least and not any("\n" in key for key in keys)
    assert all(0 < task.seconds <= 150 and callable(task.run) for task in tasks)
    if step is questions:
        assert all(task.run()["value"] > 0 for task in tasks if task.key != "dependent launch")


# ---- questions


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The questions on launches that the interpreter has done in no time."""
    tile = Tile(32, 32, 32)
    layers = {
        "middle": Layer(separable.SEPARABLE, separable.sample((1, 5, 5, 32), 32, SAME, tile=tile).typed("fp16")),
        "stem": Layer(conv2d.CONV2D, conv2d.sample((1, 9, 9, 3), 16, SAME, tile=tile).typed("fp16")),
        "wide": Layer(pointwise.POINTWISE, pointwise.sample((1, 5, 5, 64), 32).typed("fp16")),
        "point": Layer(pointwise.POINTWISE, pointwise.sample((1, 5, 5, 64), 32, tile=tile).typed("fp16")),
    }
    monkeypatch.setattr(questions, "middle", lambda batch: layers["middle"])
    monkeypatch.setattr(questions, "stem", lambda batch: layers["stem"])
    monkeypatch.setattr(questions, "wide", lambda: layers["wide"])
    monkeypatch.setattr(questions, "equals", lambda: {"conv2d": layers["stem"], "pointwise": layers["point"]})
    monkeypatch.setattr(questions, "L2_TILES", (tile,))


QUESTIONS: dict[str, Callable[[Bench, Bind], dict]] = {
    "separable, batch 128": lambda bench, bind: questions.separable_728(128, bench, bind),
    "separable, batch 1": lambda bench, bind: questions.separable_728(1, bench, bind),
    "L2 rate": questions.l2_rate,
    "stem, batch 128": questions.stem_time,
    "A from registers": questions.from_registers,
}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_is_answered_beside_its_prediction_or_not_at_all(name: str) -> None:
    row = QUESTIONS[name](bench(right), right)
    assert json.loads(json.dumps(row)) == row
    assert row["value"] > 0 and row["predicted"][0] <= row["predicted"][1] and row["unit"]
    assert row["within"] == (row["predicted"][0] <= row["value"] <= row["predicted"][1])
    for lie in ("nothing", "scaled"):
        with pytest.raises(WrongError, match="off by"):
            QUESTIONS[name](bench(wrong(lie)), wrong(lie))
    for milliseconds in (0.0, 1e-9):
        with pytest.raises(WrongError, match="is the least that the device can take"):
            QUESTIONS[name](bench(right, milliseconds), right)
    try:
        nan = QUESTIONS[name](bench(right, math.nan), right)
    except (WrongError, ValueError):  # refused at once, or where blocks are counted
        return
    assert flaw(nan)


@pytest.mark.parametrize("early", [False, True])
def test_a_chain_that_loses_launches_is_no_measurement(early: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def chained(device: torch.device, early_: bool, lost: int) -> tuple[Run, Callable[[Run], int]]:
        return (lambda: None), lambda run: chain.LENGTH - (lost if early_ == early else 0)

    monkeypatch.setattr(chain, "chain", lambda device, e: chained(device, e, 0))
    row = questions.dependent(bench(right))
    assert row["value"] == pytest.approx(1e3 / device.LAUNCHES / chain.LENGTH)
    assert set(row["us"]) == {"plain", "programmatic"}
    monkeypatch.setattr(chain, "chain", lambda device, e: chained(device, e, 1))
    reason = "49 of 50 dependent launches took effect"
    if early:
        row = questions.dependent(bench(right))
        assert reason in row["no programmatic launch"] and set(row["us"]) == {"plain"}
    else:
        with pytest.raises(WrongError, match=reason):
            questions.dependent(bench(right))


def test_every_question_has_launches_to_compile_before() -> None:
    names = [launch.kernel for launch in questions.launches(SM_90)]
    assert names.count("separable") == 2 and names.count("depthwise") == 2 and names.count("conv2d") == 2
    assert all(launch.tile.box for launch in (layer.dry(SM_90) for layer in questions.equals().values()))
    (conv, point) = (layer.dry(SM_90) for layer in questions.equals().values())
    assert sum(conv.work.flops.values()) == sum(point.work.flops.values())


# ---- fused against separate


def test_separate_launches_have_the_scratch_memory_that_they_need() -> None:
    found = [launch for layer in fused.layers().values() for launch in fused.apart(layer, SM_90)]
    assert any(launch.workspace for launch in found) and all(launch.bound for launch in found)


def test_what_the_networks_fuse_is_found_whether_or_not_it_pays() -> None:
    found = fused.layers()
    assert {layer.name for layer in found.values()} == {"separable", "bottleneck", "pooled_pointwise"}
    separables = [key for key, layer in found.items() if layer.name == "separable"]
    assert len(separables) >= 3 * 10
    for layer in found.values():
        assert len(fused.apart(layer, SM_90)) == 2
    assert "1×19×19×728" in " ".join(map(str, found.values()))


SMALL = {
    "separable": Layer(separable.SEPARABLE, separable.sample((1, 5, 5, 24), 32, SAME, mid=RELU).typed("fp16")),
    "pooled": Layer(
        fused.pooled_pointwise.POOLED_POINTWISE, fused.pooled_pointwise.sample((1, 7, 7, 24), 32, SAME).typed("fp16")
    ),
    "bottleneck": Layer(
        fused.bottleneck.BOTTLENECK, fused.bottleneck.sample((1, 5, 5, 24), 16, 32, SAME, rest=16).typed("fp16")
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_one_launch_and_several_are_timed_if_all_are_right(name: str) -> None:
    launches: list[Launch] = []
    row = fused.measure(SMALL[name], bench(right), lambda launch: launches.append(launch) or launch)
    assert len(launches) == 3 and all(launch.bound for launch in launches)
    assert json.loads(json.dumps(row)) == row
    assert row["ratio"] == 1.0 and row["batch"] == 1 and row["channels"] == 24
    for lie in ("nothing", "scaled"):
        with pytest.raises(WrongError, match="off by"):
            fused.measure(SMALL[name], bench(right), wrong(lie))

    def second_is_wrong(launch: Launch) -> Run:
        return wrong("scaled")(launch) if launch.kernel == "pointwise" else launch

    with pytest.raises(WrongError, match="separate launches of"):
        fused.measure(SMALL[name], bench(right), second_is_wrong)
    with pytest.raises(WrongError, match="is the least"):
        fused.measure(SMALL[name], bench(right, 0.0), right)


# ---- tests, tune, probe

TESTS = """
import pytest
pytestmark = pytest.mark.gpu
@pytest.fixture
def broken(): raise RuntimeError("no such device")
def test_right(): pass
def test_wrong(): assert 1 == 2, "off by 0.3"
@pytest.mark.skip
def test_skipped(): pass
def test_fixture(broken): pass
"""


def test_each_test_is_a_task_and_only_one_that_passes_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\nmarkers = ["gpu"]\n')
    (tmp_path / "test_some.py").write_text(TESTS)
    monkeypatch.setattr(suite.record, "ROOT", tmp_path)
    tasks = {task.key.partition("::")[2]: task for task in suite.tasks(".")}
    assert list(tasks) == ["test_right", "test_wrong", "test_skipped", "test_fixture"]
    assert tasks["test_right"].run()["seconds"] >= 0
    for name, reason in (
        ("test_wrong", "failed in call: AssertionError: off by 0.3"),
        ("test_skipped", "skipped in setup"),
        ("test_fixture", "failed in setup: RuntimeError: no such device"),
    ):
        with pytest.raises(WrongError, match=reason):
            tasks[name].run()
    with pytest.raises(WrongError, match="it did not run"):
        suite.passed("test_some.py::test_none")


def test_a_launch_without_a_right_tile_is_a_failure() -> None:
    row = {"kernel": "conv2d", "tried": 0, "rejected": ["Tile(...): off by 1.0e+00, bound 2.0e-03"]}
    with pytest.raises(WrongError, match=r"none is right: Tile.* off by"):
        tune.right(row)
    assert tune.right(row | {"us": 1.0})["us"] == 1.0


def test_a_copy_that_copies_nothing_is_no_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    found = probe.ceilings("cpu", 1000, 32)
    assert found["copy_tb_s"] > 0 and found["product_tflops"] > 0
    monkeypatch.setattr(probe, "_seconds", lambda run: 1e-3)
    with pytest.raises(WrongError, match="differs"):
        probe.ceilings("cpu", 1000, 32)


def test_a_tool_that_is_not_there_or_hangs_is_a_row() -> None:
    assert probe.version_of("no-such-tool") == {"path": None, "version": "not here"}
    assert "FileNotFoundError" in probe.output(["/no/such/tool"])
    assert probe.packages()["torch"] == torch.__version__ and probe.compiler()["headers"] in (True, False)


def test_a_number_that_is_none_is_found_anywhere() -> None:
    assert flaw({"a": [1.0, {"b": (2.0, math.inf)}]}) == "a.1.b.1 is inf" and flaw(math.nan) == "it is nan"
    assert not flaw({"a": [1.0, "nan", None, True, {"b": 2}]})


def test_a_result_that_is_nan_is_wrong() -> None:
    operands = Operands(SMALL["separable"].kernel, SMALL["separable"].sample, CPU)
    launch = operands.launch()

    def run() -> None:
        launch()
        operands.arguments["out"][0, 0, 0, 0] = math.nan

    with pytest.raises(WrongError, match="off by inf"):
        device.check(operands, run, 1.0, "it")


# ---- profile


@pytest.mark.parametrize("host", [1e-5, 1.0])
def test_a_profile_is_kept_unless_the_hosts_time_is_in_it(host: float, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(monkeypatch, lambda launch: clock.give(4e-6, host if gpu.done[-1] == "launch" else 0.0) and None)
    clock = GpuClock(monkeypatch)
    graph = xception()
    monkeypatch.setattr(record, "model", lambda name: to_onnx(graph))
    first, second = profile.tasks()
    assert (first.key, second.key) == ("inception_v3 1", "inception_v3 128")
    if host == 1.0:
        with pytest.raises(WrongError, match="waited for the host"):
            first.run()
        return
    row = first.run()
    assert row["whole_over_parts"] == pytest.approx(1, rel=0.05) and row["runs"] == profile.REPEATS
    assert json.dumps(row) and row["regions"] and row["network"] == "inception_v3"


def test_a_profiles_launches_are_those_that_are_carried() -> None:
    assert {launch.kernel for launch in profile.launches(SM_90)} > {"conv2d", "pointwise", "pool"}
