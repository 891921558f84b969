"""A model that ONNX Runtime dies of: verify says so, and goes on with what is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from optgraph.base.errors import ModelError
from optgraph.compare.verify import verify, verify_net
from optgraph.onnx import apart
from tests.support.cli_models import NODES, call, classifier, ok, saved
from tests.support.faulty_ort import __file__ as faulty_ort
from tests.support.sabotage import sabotaged


@pytest.fixture
def goes_wrong(monkeypatch: pytest.MonkeyPatch):
    """Makes ONNX Runtime go wrong at nodes called 'bad', as `faulty_ort` says."""
    return lambda *how: monkeypatch.setattr(apart, "COMMAND", ("-P", faulty_ort, *how))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The classifier, whose ReLU has that name."""
    made = classifier()
    made.graph.node[3].name = "bad"
    return saved(tmp_path, made)


def test_the_original_is_compared_with_torch(model: Path, goes_wrong) -> None:
    goes_wrong("SIGSEGV")
    found = verify(model, "interpret", batch=2)
    assert found.ok and found.reference.startswith("torch 2.")
    assert found.regions_compared == found.regions_total
    assert 0 < found.outputs[0].rel_l2 < found.bound == 1e-5
    (note,) = found.notes
    assert note == (
        "ONNX Runtime ended with signal 11 (SIGSEGV) on the original model, at node 'bad' (Relu): "
        "compared with torch, on the same import, instead"
    )


def test_and_what_is_wrong_is_found(model: Path, goes_wrong) -> None:
    goes_wrong("SIGABRT")
    found = verify_net(sabotaged(model, "torch", 1), model)
    assert not found.ok and found.reference.startswith("torch")
    right = verify_net(sabotaged(model, "torch", 1), saved(model.parent, name="named_otherwise.onnx"))
    assert right.reference.startswith("onnxruntime")
    assert found.first_bad_region["region"] == right.first_bad_region["region"]


@pytest.mark.parametrize("place", [0, NODES - 1])
def test_the_node_is_named_wherever_it_is(place: int, tmp_path: Path, goes_wrong) -> None:
    goes_wrong("SIGSEGV", "run")
    made = classifier()
    made.graph.node[place].name = "bad"
    assert f"at node 'bad' ({made.graph.node[place].op_type})" in verify(saved(tmp_path, made), "torch").notes[0]


def test_a_hang_is_not_looked_for(model: Path, goes_wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look would take as long."""
    goes_wrong("hang")
    monkeypatch.setattr(apart, "DEADLINE", 1.0)
    found = verify(model, "torch")
    assert found.ok and found.notes[0].startswith(
        "ONNX Runtime was ended, for it gave no answer in 1 s, on the original"
    )


def test_only_its_optimiser_dies(model: Path, goes_wrong) -> None:
    goes_wrong("SIGSEGV", "optimized")
    found = verify(model, "torch")
    assert found.ok and found.reference.startswith("onnxruntime")
    assert found.notes == (
        "ONNX Runtime's optimiser ended with signal 11 (SIGSEGV) on this model: compared without it",
    )


@pytest.mark.parametrize("when", [(), ("run",)])
def test_the_backend_dies(when: tuple[str, ...], model: Path, goes_wrong) -> None:
    goes_wrong("SIGSEGV", "ours", *when)
    assert verify(model, "torch").reference.startswith("onnxruntime")
    result = call("verify", model, "--backend", "onnxruntime")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "error: ONNX Runtime ended with signal 11 (SIGSEGV) on the simplified model: use backend='torch'\n"
    )


def test_both_die(model: Path, goes_wrong) -> None:
    """What a user on a CPU meets, where ONNX Runtime is the backend too."""
    goes_wrong("SIGSEGV")
    result = call("verify", model)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "error: ONNX Runtime ended with signal 11 (SIGSEGV) on the simplified model, at node 'bad' (Relu): "
        "use backend='torch'\n"
    )


def test_on_the_command_line(model: Path, goes_wrong) -> None:
    goes_wrong("SIGSEGV")
    out = ok("verify", model, "--backend", "torch")
    assert "with torch 2." in out and "at node 'bad' (Relu)" in out


def test_torch_cannot_compute_it(model: Path, goes_wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ModelError("node 'x' (Frobnicate): torch has no form of it")

    goes_wrong("SIGSEGV")
    monkeypatch.setattr("optgraph.compare.imported.Executor", refuse)
    result = call("verify", model, "--backend", "torch")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert "at node 'bad' (Relu); with torch in its place: node 'x' (Frobnicate)" in result.stderr


def test_a_part_of_it_at_a_fixed_batch(tmp_path: Path, goes_wrong) -> None:
    goes_wrong("SIGSEGV")
    made = classifier(shape=(2, 3, 12, 12))
    made.graph.node[3].name = "bad"
    found = verify(saved(tmp_path, made), "torch", outputs=["pooled", "cat"])
    assert found.ok and found.batch == 2 and found.reference.startswith("torch")
    assert [output.name for output in found.outputs] == ["pooled", "cat"]
