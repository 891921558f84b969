"""Tuning with a timer that is told what to say: which tile is kept, when, and what a launch then gets."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from optgraph.base import config
from optgraph.base.devices import SM_80, SM_90
from optgraph.base.store import Store
from optgraph.ir.graph import Graph
from optgraph.ir.values import Window
from optgraph.kernels.frame import tuned
from optgraph.kernels.frame.choice import choose
from optgraph.kernels.frame.fusion import Fusion
from optgraph.kernels.frame.gemm import Gemm
from optgraph.kernels.frame.launch import Launch, targeting
from optgraph.kernels.frame.sample import Operands
from optgraph.kernels.frame.tile import Problem, Tile
from optgraph.passes import pipeline
from optgraph.plan.lowering import lower
from optgraph.tune import tune
from optgraph.tune.apart import InTurn
from optgraph.tune.layers import Layer
from optgraph.tune.subjects import Candidate, subjects
from optgraph.tune.timing import Run
from tests.support.cli_models import call, ok_json, saved
from tests.support.networks import Builder
from tests.support.paths import ROOT

CPU = torch.device("cpu")
TARGET = SM_80  # its tiles, run in the interpreter, which runs no Gluon


def network() -> Graph:
    b = Builder(channels=32, size=6)
    graph = b.done(b.act(b.conv(b.act(b.conv(b.x, 64, 1)), 64, 3)))
    pipeline.apply(graph, pipeline.FUSE)
    return graph


class Timed:
    """A launch bound for the fake timer, which looks at its tile."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch

    def __call__(self) -> None:
        with targeting(TARGET):
            self.launch()


def bench(cost: Callable[[Launch], float]) -> tune.Bench:
    """`cost`: milliseconds of a launch, told and not measured."""

    def timer(run: Run, repeats: int) -> float:
        runs = run.runs if isinstance(run, InTurn) else (run,)
        assert all(isinstance(each, Timed) for each in runs) and repeats >= 1
        return sum(cost(each.launch) for each in runs) * tune.LAUNCHES

    def binder(launches: Sequence[Launch], device: torch.device) -> Callable[[Launch], Timed]:
        return Timed

    return tune.Bench(CPU, TARGET, binder, lambda run, times: run, timer)


def store(folder: Path, kernels: str = "1") -> Store:
    return Store(tuned.path(TARGET, folder), {"device": "a GPU", "target": str(TARGET), "kernels": kernels})


def block(launch: Launch) -> float:
    """Big tiles are fast, on this GPU."""
    return 1e4 / (launch.constants["BLOCK_M"] * launch.constants["BLOCK_N"])


@pytest.fixture(autouse=True)
def no_tuned_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTGRAPH_TUNED", str(tmp_path / "none"))
    monkeypatch.setattr(tune, "TRIED", 5)
    choose.cache_clear()
    yield
    choose.cache_clear()


def only(found: dict[Problem, Layer], name: str) -> tuple[Problem, Layer]:
    return next((problem, layer) for problem, layer in found.items() if layer.name == name)


def test_each_problem_is_found_once_with_a_layer() -> None:
    found = subjects(network(), "fp16", (1, 8, 8), TARGET).problems
    assert sorted(layer.name for layer in found.values()) == ["conv2d", "conv2d", "pointwise", "pointwise"]
    assert {problem.m for problem in found} == {36, 8 * 36}


def test_what_is_fastest_is_kept_and_chosen_from_then_on(tmp_path, monkeypatch) -> None:
    kept = store(tmp_path)
    assert tune.tune(network(), "fp16", (1,), bench(block), kept, minutes=10)
    problem, layer = only(subjects(network(), "fp16", (1,), TARGET).problems, "pointwise")
    tried = tune.tried(problem, TARGET)
    default = choose(problem, TARGET)
    assert tried[0] == default
    record = kept.records[tuned.key(problem)]
    assert record["us"] < record["default_us"] and record["tried"] > 1
    assert 0 < record["error"] <= layer.bound and record["layer"] == str(layer)

    monkeypatch.setenv("OPTGRAPH_TUNED", str(tmp_path))
    choose.cache_clear()
    chosen = choose(problem, TARGET)
    assert chosen != default
    assert chosen == max(tried, key=lambda tile: tile.block_m * tile.block_n)
    launch = layer.dry(TARGET)
    assert launch.constants["BLOCK_M"] == chosen.block_m
    assert choose(problem, SM_90) in problem.candidates(SM_90)  # of which there is no file
    assert tune.summary(kept)["changed"] >= 1 and tune.summary(kept)["gain"] > 0


def test_a_gain_within_the_noise_keeps_the_default(tmp_path) -> None:
    kept = store(tmp_path)
    problem, _ = only(subjects(network(), "fp16", (1,), TARGET).problems, "conv2d")
    default = choose(problem, TARGET)
    slower = bench(lambda launch: 1.0 if launch.constants["BLOCK_N"] == default.block_n else 0.99)
    tune.tune(network(), "fp16", (1,), slower, kept, minutes=10)
    record = kept.records[tuned.key(problem)]
    assert record["tile"] == tuned.record(default) and record["us"] == record["default_us"]


def test_a_wrong_tile_is_never_kept_however_fast(tmp_path, monkeypatch) -> None:
    launch = Operands.launch

    def broken(self: Operands, tile: Tile | None = None) -> Launch:
        made = launch(self, tile)
        if tile is not None and tile.block_m == 64:  # leaves its output as it was
            return replace(made, grid=(0,)) if self.kernel.name == "pointwise" else made
        return made

    monkeypatch.setattr(Operands, "launch", broken)
    kept = store(tmp_path)
    tune.tune(network(), "fp16", (1,), bench(lambda launch: launch.constants["BLOCK_M"]), kept, minutes=10)
    for record in kept.records.values():
        wrong = [line for line in record["rejected"] if "off by inf" in line]
        assert bool(wrong) == (record["kernel"] == "pointwise")
        assert (record.get("tile", {}).get("block_m") == 64) == (record["kernel"] != "pointwise")


def test_a_tile_that_cannot_run_is_rejected_with_the_reason(monkeypatch) -> None:
    problem, layer = only(subjects(network(), "fp16", (1,), TARGET).problems, "conv2d")
    refused = tune.tried(problem, TARGET)[1]
    launch = Operands.launch

    def refusing(self: Operands, tile: Tile | None = None) -> Launch:
        if tile == refused:
            raise ValueError("out of shared memory")
        return launch(self, tile)

    monkeypatch.setattr(Operands, "launch", refusing)
    record = tune.measure(problem, layer, bench(block), Timed)
    (reason,) = record["rejected"]
    assert "out of shared memory" in reason and record["tried"] == len(tune.tried(problem, TARGET)) - 1

    def gone(self: Operands) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Operands, "poison", gone)
    with pytest.raises(RuntimeError, match="illegal memory access"):  # else all that follows would count as refused
        tune.measure(problem, layer, bench(block), Timed)


def test_it_stops_at_its_deadline_and_goes_on_at_the_next_call(tmp_path, monkeypatch) -> None:
    measured: list[Problem] = []
    now = 0.0

    def measure(problem: Problem, *_: object) -> dict[str, object]:
        nonlocal now
        now += 60.0
        measured.append(problem)
        return {"kernel": "", "rejected": []}

    monkeypatch.setattr(tune, "measure", measure)
    monkeypatch.setattr(tune, "clock", lambda: now)
    arguments = network(), "fp16", (1, 8), bench(block)
    assert not tune.tune(*arguments, store(tmp_path), minutes=2.5)
    assert len(measured) == 3  # the last one began in time
    assert tune.tune(*arguments, store(tmp_path), minutes=2.5)
    assert len(measured) == len(set(measured)) == 4
    assert tune.tune(*arguments, store(tmp_path), minutes=0.0)
    assert len(measured) == 4
    assert not tune.tune(*arguments, store(tmp_path, kernels="2"), minutes=1.0)  # other code: all anew
    assert len(measured) == 5


@pytest.mark.parametrize("damage", ["not json", "[]", '{"records": []}', '{"records": {"k": 1}}', None])
def test_records_that_do_not_match_are_a_miss(damage, tmp_path, monkeypatch) -> None:
    problem, _ = only(subjects(network(), "fp16", (1,), TARGET).problems, "conv2d")
    default = choose(problem, TARGET)
    stale = {"records": {tuned.key(problem): {"tile": tuned.record(replace(default, block_m=48))}}}
    (tmp_path / "sm_90.json").write_text(json.dumps(stale) if damage is None else damage)
    monkeypatch.setenv("OPTGRAPH_TUNED", str(tmp_path))
    choose.cache_clear()
    assert choose(problem, TARGET) == default


def test_a_record_from_before_tiles_had_more_fields_is_found() -> None:
    problem, _ = only(subjects(network(), "fp16", (1,), TARGET).problems, "conv2d")
    found = problem.candidates(TARGET)
    wanted = found[-1]
    assert (wanted.producers, wanted.rows) == (0, 1)
    old = {k: list(v) if isinstance(v, tuple) else v for k, v in tuned.record(wanted).items()}
    del old["producers"], old["rows"]
    assert tuned.fastest(problem, found, {tuned.key(problem): {"tile": old}}) == wanted
    for tile in (old | {"rows": 2}, old | {"colour": 1}, [old], None):
        assert tuned.fastest(problem, found, {tuned.key(problem): {"tile": tile}}) is None


def test_every_field_of_a_problem_is_in_its_key() -> None:
    problem = Gemm((1, 5, 7), (32, 64), 48, 2)
    key = tuned.key(problem)
    assert "extent 1×5×7" in key and "n 32×64" in key
    changes = {"extent": (1, 7, 5), "n": (32,), "k": 49, "itemsize": 4, "taps": 3, "depthwise": 9}
    others = [replace(problem, **{name: value}) for name, value in changes.items()]
    others += [replace(problem, plain=False), replace(problem, tma=True)]
    assert len({key, *map(tuned.key, others)}) == 1 + len(others)


def ships(folder: Path) -> None:
    """What a folder of tuned tiles has is what such a machine would be launched with."""
    for file in folder.glob("*.json"):
        found = json.loads(file.read_text())
        assert found["identity"]["target"] == file.stem and found["identity"]["device"] and found["triton"]
        for record in found["records"].values():
            assert math.isfinite(record["us"]) and record["error"] <= 1.6e-2


def test_what_ships_names_real_tiles(tmp_path: Path) -> None:
    """No file is shipped before a GPU made it; the check itself is shown on a file made here."""
    ships(Path(config.__file__).parents[1] / "tuned")
    good = Store(tmp_path / "sm_90.json", {"device": "a GPU", "target": "sm_90"}, {"triton": "3.7.1"})
    good.add("k", {"us": 1.0, "error": 1e-3})
    ships(tmp_path)
    good.add("wrong", {"us": 1.0, "error": 0.5})
    with pytest.raises(AssertionError):
        ships(tmp_path)


def test_the_command_runs_without_an_installation(tmp_path) -> None:
    command = [sys.executable, "-m", "optgraph", "tune", "--help"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0 and "optgraph tune model.onnx" in run.stdout


def test_the_command_needs_a_gpu(tmp_path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    result = call("tune", saved(tmp_path))
    assert result.exit_code == 2 and "tuning needs an NVIDIA GPU" in result.stderr


def test_the_command_tunes_and_says_what_is_left(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tune, "gpu_bench", lambda: bench(block))
    monkeypatch.setattr(tune, "open_store", lambda target, folder: store(folder))
    command = "tune", saved(tmp_path), "--dtype", "fp16", "--batch", "1", "-o", tmp_path / "tuned"
    some = call(*command, "--minutes", "0")
    assert some.exit_code == 1 and "call again" in some.stdout
    data = ok_json(*command)
    assert data["finished"] and data["problems"] >= 1
    assert len(json.loads(Path(data["output"]).read_text())["records"]) == data["problems"]


# ---- one launch or several


def fused_network() -> Graph:
    """A separable convolution, and a bottleneck whose concatenation another value joins."""
    b = Builder(channels=32, size=6)
    x = b.act(b.conv(b.act(b.depthwise(b.x)), 64, 1))
    beside = b.act(b.conv(x, 16, 1))
    joined = b.concat(beside, b.act(b.conv(x, 32, 3)))
    graph = b.done(b.conv(joined, 64, 1))
    pipeline.apply(graph, pipeline.FUSE)
    return graph


def kernels(graph: Graph, batch: int = 1, dtype: str = "fp16") -> list[str]:
    return [call.kernel.name for call in lower(graph, batch, dtype, TARGET).calls]


def both_ways(one: float, several: float) -> tune.Bench:
    """A launch that fuses takes `one` milliseconds, and several `several` apiece, whatever their tiles."""
    fused = {"separable", "bottleneck"}
    return bench(lambda launch: one if launch.kernel in fused else several)


@pytest.mark.parametrize(("one", "several", "expected"), [(1.0, 9.0, True), (9.0, 1.0, False)])
def test_what_was_faster_overrules_what_is_predicted(one, several, expected, tmp_path, monkeypatch) -> None:
    kept, graph = store(tmp_path), fused_network()
    elsewhere = [kernels(graph, 8), kernels(graph, dtype="bf16")]
    assert tune.tune(graph, "fp16", (1,), both_ways(one, several), kept, minutes=10)
    found = subjects(graph, "fp16", (1,), TARGET).fusions
    assert {fusion.kernel for fusion in found} == {"separable", "bottleneck"}
    for fusion, candidate in found.items():
        record = kept.records[tuned.key(fusion)]
        assert record["one_launch"] is expected and record["layer"] == str(candidate.layer)
        apiece = [several, several, several] if fusion.copied else [several, several]
        assert record["us"] == pytest.approx(1e3 * min(one, sum(apiece)))
        assert (record["us"] < record["default_us"]) == (candidate.predicted != expected)
        assert fusion.measured(TARGET) is None  # the records are not where the package looks

    monkeypatch.setenv("OPTGRAPH_TUNED", str(tmp_path))
    assert all(fusion.measured(TARGET) is expected and fusion.measured(SM_90) is None for fusion in found)
    launched = kernels(graph)
    assert ("separable" in launched) == ("bottleneck" in launched) == expected
    assert ("depthwise" in launched) == ("conv2d" in launched) == (not expected)
    assert [kernels(graph, 8), kernels(graph, dtype="bf16")] == elsewhere  # of which nothing was measured
    summary = tune.summary(kept)
    assert [way["one_launch"] for way in summary["fusions"]] == [expected] * 2
    assert summary["problems"] == len(kept.records) - 2


def separable_of(graph: Graph) -> tuple[Fusion, Candidate]:
    found = subjects(graph, "fp16", (1,), TARGET).fusions
    return next((fusion, candidate) for fusion, candidate in found.items() if fusion.kernel == "separable")


def test_a_way_that_is_wrong_or_refused_is_never_kept_however_fast() -> None:
    fusion, candidate = separable_of(fused_network())

    def refused(launch: Launch) -> Run:
        if launch.kernel == "depthwise":
            raise ValueError("out of shared memory")
        return Timed(launch)

    record = tune.compare(fusion, candidate, both_ways(9.0, 1.0), refused, dict)
    assert record["one_launch"] and record["tried"] == 1 and "out of shared memory" in record["rejected"][0]

    def wrong(launch: Launch) -> Run:
        return Timed(replace(launch, grid=(0,)) if launch.kernel in broken else launch)

    for broken, kept in (({"separable"}, False), ({"depthwise"}, True)):
        fast = both_ways(1.0, 9.0) if broken == {"separable"} else both_ways(9.0, 1.0)
        record = tune.compare(fusion, candidate, fast, wrong, dict)
        assert record["one_launch"] is kept and "off by inf" in record["rejected"][0]
    broken = {"separable", "depthwise"}
    record = tune.compare(fusion, candidate, fast, wrong, dict)
    assert "one_launch" not in record and record["tried"] == 0 and len(record["rejected"]) == 2


def test_what_is_about_as_fast_is_no_reason_to_leave_the_predicted_way() -> None:
    fusion, candidate = separable_of(fused_network())
    for predicted, one in ((True, 2.02), (False, 1.98)):
        found = replace(candidate, predicted=predicted)
        record = tune.compare(fusion, found, both_ways(one, 1.0), Timed, dict)
        assert record["one_launch"] is predicted and record["us"] == record["default_us"]


def test_each_way_is_timed_with_the_tiles_that_were_fastest() -> None:
    fusion, candidate = separable_of(fused_network())
    found = subjects(fused_network(), "fp16", (1,), TARGET).problems
    slow = {problem: problem.candidates(TARGET)[-1] for problem in found}
    records = {tuned.key(problem): {"tile": tuned.record(tile)} for problem, tile in slow.items()}
    launched: list[Launch] = []

    def seen(launch: Launch) -> Run:
        launched.append(launch)
        return Timed(launch)

    tune.compare(fusion, candidate, both_ways(1.0, 1.0), seen, lambda: records)
    assert [launch.kernel for launch in launched] == ["separable", "depthwise", "pointwise"]
    assert all(launch.problem in slow and launch.tile == slow[launch.problem] for launch in launched)


def test_what_a_bottleneck_must_copy_is_copied_by_a_launch() -> None:
    found = subjects(fused_network(), "fp16", (1,), TARGET).fusions
    fusion, candidate = next(item for item in found.items() if item[0].kernel == "bottleneck")
    launched: list[str] = []

    def seen(launch: Launch) -> Run:
        launched.append(launch.kernel)
        return Timed(launch)

    for copied in (False, True):
        launched.clear()
        tune.compare(replace(fusion, copied=copied), candidate, both_ways(1.0, 1.0), seen, dict)
        assert launched == ["bottleneck", *["elementwise"] * copied, "conv2d", "pointwise"]


@pytest.mark.parametrize("entry", [{}, {"one_launch": "no"}, {"one_launch": None}, "damaged", None])
def test_a_fusion_without_a_record_is_decided_as_predicted(entry, tmp_path, monkeypatch) -> None:
    graph = fused_network()
    expected, (fusion, _) = kernels(graph), separable_of(graph)
    (tmp_path / "sm_90.json").write_text(json.dumps({"records": {tuned.key(fusion): entry}}))
    monkeypatch.setenv("OPTGRAPH_TUNED", str(tmp_path))
    assert fusion.measured(TARGET) is None and kernels(graph) == expected


def test_every_field_of_a_fusion_is_in_its_key() -> None:
    window = Window((3, 3), pads=(1, 1, 1, 1))
    fusion = Fusion("separable", (1, 19, 19, 728), 728, 256, window, False, False, "float16")
    key = tuned.key(fusion)
    assert "image 1×19×19×728" in key and "kernel 3×3 stride 1×1" in key
    changes = {"kernel": "bottleneck", "image": (8, 19, 19, 728), "hidden": 96, "columns": 728, "affine": True}
    changes |= {"window": Window((3, 3)), "residual": True, "dtype": "float32", "rest": 8, "copied": True}
    assert changes.keys() == {field.name for field in fields(fusion)}
    assert len({key, *(tuned.key(replace(fusion, **{name: value})) for name, value in changes.items())}) == 11
