"""What `make gpu` does around its steps: what an earlier call left, what processes are told, carried cubins."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import record
from benchmarks.gpu import carried, probe, steps
from benchmarks.gpu.runner import Found
from optgraph.ahead import cubins
from optgraph.base.devices import SM_90
from optgraph.base.errors import OptgraphError
from tests.support.cubin_samples import sample
from tests.support.paths import ROOT


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    results = tmp_path / "results"
    (results / "tuned").mkdir(parents=True)
    (results / "gpu.json").write_text("old")
    (results / "tuned" / "sm_90.json").write_text("tiles")
    monkeypatch.setattr(record, "RESULTS", results)
    return results, tmp_path / "out"


def test_what_an_earlier_call_left_is_taken_over_once(folders: tuple[Path, Path]) -> None:
    results, out = folders
    steps.take_over(results, out)
    assert (out / "gpu.json").read_text() == "old" and (out / "tuned" / "sm_90.json").read_text() == "tiles"
    (out / "gpu.json").write_text("newer")
    steps.take_over(results, out)
    assert (out / "gpu.json").read_text() == "newer"
    steps.take_over(results, results)  # where they are the same folder


def test_processes_compile_kernels_and_find_tiles_and_what_torch_compiled(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    found = steps.environment(tmp_path, "abc")
    assert "TRITON_INTERPRET" not in found and found["OPTGRAPH_TEST_GPU"] == "1" and found["OPTGRAPH_COMMIT"] == "abc"
    assert found["OPTGRAPH_TUNED"] == str(tmp_path / "tuned")
    assert found["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "inductor")


def test_the_steps_are_in_order_and_have_modules() -> None:
    names = [step.name for step in steps.STEPS]
    assert names == ["probe", "smoke", "questions", "tests", "fused", "tune", "profile", "race", "compile"]
    assert set(names) - set(steps.DEFAULT) == {"compile"}
    for step in steps.STEPS:
        assert (ROOT / "benchmarks" / "gpu" / f"{step.module}.py").exists()
    assert steps.CARRIED == carried.KEY


def test_a_machine_without_a_gpu_is_told_so_in_a_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path / "out")]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if run.returncode and "libcuda" in run.stderr:
        assert run.stderr == "make gpu needs an NVIDIA GPU: its driver, libcuda.so.1, is not here\n"
        assert not (tmp_path / "out").exists()
    else:
        pytest.skip("there is one")


def test_packages_of_the_same_names_are_not_taken_for_ours(tmp_path: Path) -> None:
    for name in ("benchmarks", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    code = (
        "from benchmarks.gpu import worker; import tests.support.paths as paths; print(worker.__file__, paths.__file__)"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert run.stdout.split() == [str(ROOT / "benchmarks/gpu/worker.py"), str(ROOT / "tests/support/paths.py")], (
        run.stderr
    )


# ---- carried cubins


def test_carried_cubins_are_found_whichever_triton_compiled_them(tmp_path, monkeypatch) -> None:
    made = [sample(key=f"{i}" * 64, code=b"\x7fELF" + bytes([i])) for i in range(3)]
    carried.write(tmp_path / "new" / "c.safetensors", made)
    assert carried.read(tmp_path / "new" / "c.safetensors") == made
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(cubins, "version", lambda name: "3.99.0")
    assert carried.unpack(tmp_path / "new" / "c.safetensors") == 3
    assert [cubins.cached(cubin.key) for cubin in made] == made
    assert [path.parent.name for path in tmp_path.rglob("1*.safetensors")] == ["triton-3.99.0"]


def test_a_kernel_that_does_not_compile_is_left_out_and_told(monkeypatch) -> None:
    def build(wanted: list[int]) -> list[str]:
        if broken := {3, 4, 11} & set(wanted):
            raise OptgraphError(f"kernel {min(broken)} does not compile")
        return [f"cubin {use}" for use in wanted]

    monkeypatch.setattr(carried.build, "build", build)
    told: list[str] = []
    found = carried.compiled(list(range(13)), told.append)
    assert found == [f"cubin {use}" for use in range(13) if use not in (3, 4, 11)]
    assert told == [f"left out: kernel {use} does not compile" for use in (3, 4, 11)]


def test_processes_are_told_of_carried_cubins(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(steps.tempfile, "gettempdir", lambda: str(tmp_path))
    told: list[str] = []
    (tmp_path / "broken").write_bytes(b"nothing of the kind")
    assert steps.carry(tmp_path / "broken", told.append) == {} and "left out" in told[-1]
    carried.write(tmp_path / "c.safetensors", [sample()])
    found = steps.carry(tmp_path / "c.safetensors", told.append)
    assert found["OPTGRAPH_CARRIED"] == carried.made_by(tmp_path / "c.safetensors")
    monkeypatch.setenv("TRITON_CACHE_DIR", found["TRITON_CACHE_DIR"])
    assert cubins.cached(sample().key) == sample()
    monkeypatch.setenv("OPTGRAPH_CARRIED_FILE", found["OPTGRAPH_CARRIED_FILE"])
    assert carried.file() == tmp_path / "c.safetensors"


def test_cubins_that_do_not_load_are_given_up(folders: tuple[Path, Path], monkeypatch) -> None:
    seen: list[bool] = []

    class Fails:
        def __init__(self, start: object, *_: object) -> None:
            pass

        def run(self) -> Found:
            return Found(failed={carried.KEY: "the CUDA driver's cuModuleLoadData failed"})

    def start(step: steps.Step, environment: dict[str, str]) -> None:
        seen.append("TRITON_CACHE_DIR" in environment)

    monkeypatch.setattr(steps, "Runner", Fails)
    monkeypatch.setenv("HOME", "/root")
    given = dict(os.environ) | dict.fromkeys(steps.CARRIED_NAMES, "x")
    steps.run(steps.STEPS[:3], folders[1], 1.0, given, start, tell=lambda text: None)
    assert seen == [True, False, False]


def test_the_probe_loads_what_is_for_this_device(tmp_path, monkeypatch) -> None:
    loaded: list[str] = []

    class Loads:
        def __init__(self, library: object) -> None:
            pass

        def load(self, cubin: cubins.Cubin, device: int) -> None:
            loaded.append(cubin.target)

    monkeypatch.setattr(probe, "Driver", Loads)
    monkeypatch.setattr(probe, "open_library", lambda: None)
    monkeypatch.setattr(probe.torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(probe.torch.cuda, "get_device_capability", lambda: (9, 0))
    carried.write(tmp_path / "c", [sample(), sample(key="0" * 64, target="sm_80")])
    assert probe.carried_cubins(tmp_path / "c")["loaded"] == 1 and loaded == ["sm_90"]
    carried.write(tmp_path / "c", [sample(target="sm_80")])
    with pytest.raises(probe.WrongError, match="none of 1 carried cubins is for sm_90"):
        probe.carried_cubins(tmp_path / "c")


def test_what_is_carried_is_what_smoke_and_questions_launch() -> None:
    """The other steps' take their time to find; smoke and questions stand for them."""
    from benchmarks.gpu import questions, smoke

    for step in (smoke, questions):
        keys = {cubins.key(launch.variant, SM_90) for launch in step.launches(SM_90)}
        assert len(keys) > 5 and all(len(key) == 64 for key in keys)
