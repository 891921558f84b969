"""verify of networks of 8 bits: each region by itself, to the step."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import optgraph
from optgraph.api import compiling
from optgraph.base.errors import OptgraphError
from optgraph.compare import grid_regions, verdict
from optgraph.compare.original import Original, OutputError
from optgraph.compare.verify import computed_dtype, verify_net
from optgraph.ir.graph import Graph, Node
from optgraph.ir.quant import Quant
from optgraph.ops import conv, products
from optgraph.passes import pipeline
from optgraph.passes.rewrite import Outcome
from tests.support.quantised import mixed_network, quantised

# The modules, whatever the package calls by these names.
bench_module, verify_module = (importlib.import_module(f"optgraph.compare.{name}") for name in ("bench", "verify"))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantised")
    quantised(mixed_network(), folder)
    return folder / "quantised.onnx"


def _scaled(graph: Graph, node: Node) -> None:
    *others, last = node.op.quants  # type: ignore[attr-defined]
    graph.update(node, replace(node.op, quants=(*others, replace(last, scale=last.scale * 1.005))), same_value=True)


def _shifted(graph: Graph, node: Node) -> None:
    """Seen only where numbers reach an end of the grid."""
    *others, last = node.op.quants  # type: ignore[attr-defined]
    graph.update(node, replace(node.op, quants=(*others, replace(last, zero=last.zero + 9))), same_value=True)


def _unrounded(graph: Graph, node: Node) -> None:
    graph.update(node, replace(node.op, quants=()), same_value=True)


def _unrounded_before(graph: Graph, node: Node) -> None:
    graph.update(node, replace(node.op, before_residual=()), same_value=True)


def _weight(graph: Graph, node: Node) -> None:
    w = np.array(graph.constants[node.get("w")])
    w[1] *= np.float32(1.05)
    graph.update(node, inputs=node.inputs_with(w=graph.add_constant(w)), same_value=True)


MUTANTS: dict[str, tuple[Callable[[Graph, Node], None], str]] = {
    "a scale 0.5% off": (_scaled, "quants"),
    "a zero off": (_shifted, "quants"),
    "no rounding": (_unrounded, "quants"),
    "no rounding before the addition": (_unrounded_before, "before_residual"),
    "one channel of a weight 5% off": (_weight, "quants"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_graph_is_told_at_its_region(path: Path, name: str) -> None:
    change, field = MUTANTS[name]
    changed = []

    def run(graph: Graph) -> Outcome:
        nodes = [node for node in graph.nodes() if getattr(node.op, field, ()) and "w" in node.op.slots]
        changed.append(nodes[len(nodes) // 2].name)
        change(graph, nodes[len(nodes) // 2])
        return Outcome(1)

    sabotage = (pipeline.Pass("sabotage", "sabotage", run),)
    found = verify_net(compiling.compile(path, "torch", fuse_passes=pipeline.FUSE + sabotage), path, batch=3)
    bad = found.first_bad_region
    assert not found.ok and bad is not None and bad["region"] == changed[0] and bad["fault"] == "meant"
    assert ("of its integers off by up to" in found.reason) == (name != "no rounding")  # which leaves none
    assert "in the graph that it was compiled to" in found.reason


def _after(change: Callable[[Any], Any]) -> tuple[Any, str, Any]:
    """The end of the first convolution that `change` has something to say to, lowered wrong."""
    original, done = conv.after, []

    def wrong(*given: Any) -> Any:
        end = original(*given)
        changed = None if done else change(end)
        done.extend([] if changed is None else [changed])
        return end if changed is None else changed

    return conv, "after", wrong


def _sums(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> tuple[Any, str, Any]:
    original, done = getattr(products, name), []

    def wrong(*given: Any, **options: Any) -> Any:
        done.append(name)
        found = original(*given, **options)
        return change(found) if len(done) == 1 else found

    wrong.__module__, wrong.__qualname__ = original.__module__, original.__qualname__
    return products, name, wrong


def _residual(end: Any) -> Any:
    quant = end.residual_quant
    return quant and replace(end, residual_quant=replace(quant, scale=quant.scale * 1.03))


LOWERED: dict[str, Callable[[], tuple[Any, str, Any]]] = {
    "the grid of a residual": lambda: _after(_residual),
    "no rounding before a residual": lambda: _after(
        lambda end: replace(end, before_residual=None) if end.before_residual else None
    ),
    "the zero that is stored": lambda: _after(
        lambda end: replace(end, quants=(replace(end.quants[-1], zero=end.quants[-1].zero + 1),))
    ),
    "the scale of sums": lambda: _sums("scales", lambda x: x * 1.01),
    "the start of sums": lambda: _sums("sum_starts", lambda x: (x.double() * 1.01).round().int()),
}


@pytest.mark.parametrize("name", LOWERED)
def test_a_wrong_lowering_is_told(path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*LOWERED[name]())
    found = optgraph.verify(path, "interpret", "int8", batch=3)
    bad = found.first_bad_region
    assert not found.ok and bad is not None and bad["fault"] == "computed" and bad["integers_off"] > 0
    assert "from what the backend itself gave it" in found.reason


def test_what_onnx_runtime_computes_in(path: Path) -> None:
    found = optgraph.verify(path, "onnxruntime", "int8", batch=3)
    assert found.ok and (found.backend, found.dtype) == ("onnxruntime", "int8"), found.reason
    compiled = optgraph.compile(path, "torch", "int8")
    assert computed_dtype(compiled) == "fp32" and computed_dtype(compiled, "onnxruntime") == "int8"


def test_the_least_and_the_most(path: Path) -> None:
    """Half way between two steps either is right; off half way, one."""
    lean = grid_regions._leaning((Quant(0.5),), grid_regions.LEAN)[0]
    down = grid_regions._leaning((Quant(0.5),), -grid_regions.LEAN)[0]
    x = torch.tensor([0.25, 0.75, 0.26, 0.74, 0.24, 100.0, -100.0])
    assert down.apply(x).tolist() == [0.0, 0.5, 0.5, 0.5, 0.0, 63.5, -64.0]
    assert lean.apply(x).tolist() == [0.5, 1.0, 0.5, 0.5, 0.0, 63.5, -64.0]


def test_a_network_that_magnifies_a_step_is_right_and_told_so() -> None:
    regions: Any = SimpleNamespace(total=57)
    (note,) = verdict.magnified([OutputError("y", 0.43, 1.0)], regions, 0.8, 0.4)
    assert "each of the 57 regions is right by itself" in note and "moves it by 4.0e-01" in note
    assert verdict.magnified([OutputError("y", 0.005, 1.0)], regions, 0.8, 0.4) == []
    assert verdict.magnified([OutputError("y", 0.9, 1.0)], regions, 0.8, 0.4) == []


@pytest.mark.parametrize(
    ("noise", "off", "ok"), [(5.0, 0.85, True), (5.0, 0.95, False), (0.1, 0.35, True), (0.1, 0.45, False)]
)
def test_what_it_may_magnify(path: Path, monkeypatch: pytest.MonkeyPatch, noise: float, off: float, ok: bool) -> None:
    """Four times what rounding alone moves the answer, and never all of it."""
    monkeypatch.setattr(verify_module, "coarseness", lambda *args: noise)
    monkeypatch.setattr(Original, "compare", lambda self, name, results: OutputError(name, off, 1.0))
    found = optgraph.verify(path, "torch", batch=3)
    assert found.ok == ok and found.bound == pytest.approx(min(4 * noise, 0.9)), found.reason
    assert ok or f"is off by {off:.1e}, over {found.bound:.1e}" in found.reason


def test_bench_judges_as_verify_does(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that are far off are timed if each region is right by itself, and then only."""
    given: dict[str, Any] = {"backend": "interpret", "dtype": "int8", "repeats": 1, "min_seconds": 0.0, "threads": 1}
    monkeypatch.setattr(bench_module, "allowed", lambda *args: -1.0)  # what nothing is within
    assert bench_module.bench(path, **given).dtype == "int8"
    with monkeypatch.context() as patch, pytest.raises(OptgraphError, match=r"not timed, .* off by .* over -1.0e"):
        patch.setattr(bench_module, "on_grids", lambda graph: False)
        bench_module.bench(path, **given)
    monkeypatch.setattr(*LOWERED["the scale of sums"]())
    with pytest.raises(OptgraphError, match=r"not timed, .*region.* from what the backend itself gave it"):
        bench_module.bench(path, **given)
