"""The registry: every operator once, and operators of one's own by the same door as ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import optgraph
from optgraph import ops
from optgraph.base.errors import ModelError
from optgraph.ir.op import Exporter, Handlers, Importer, Inputs, Node, Op, Outputs
from optgraph.ir.values import Value
from optgraph.onnx.read import read
from optgraph.onnx.write import to_onnx
from optgraph.ops.importing import KeepError, require_floating
from optgraph.ops.registry import OURS, Registry
from optgraph.ops.rounding import Rounding
from optgraph.ops.windowed import Windowed
from tests.support.onnx_checks import types
from tests.support.paths import ROOT


def test_all_operators_are_there_once() -> None:
    modules = [import_module(f"optgraph.ops.{path.stem}") for path in (ROOT / "optgraph" / "ops").glob("[a-z]*.py")]
    classes = {c for module in modules for c in vars(module).values() if isinstance(c, type) and issubclass(c, Op)}
    assert Counter(OURS.ops) == Counter(classes - {Op, Rounding, Windowed})
    assert all(OURS.named(op.__name__) is op for op in OURS.ops)
    assert set(ops.__all__) <= {op.__name__ for op in OURS.ops}


def test_no_two_operators_read_the_same_onnx_operator() -> None:
    read_by = Counter(name for op in OURS.ops for name in op.handlers)
    assert read_by and set(read_by.values()) == {1}
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if not schema.domain}
    assert known >= set(read_by)


@pytest.mark.parametrize("op", OURS.ops)
def test_every_operator_says_all_that_it_has_to(op: type[Op]) -> None:
    """Its reference and its ONNX are its own; a fuse pass made what no ONNX operator becomes."""
    assert op.compute is not Op.compute and op.export is not Op.export
    fused = {ops.MergedPointwise, ops.Separable, ops.PooledPointwise, ops.Bottleneck, ops.Affine, ops.FakeQuantize}
    assert bool(op.handlers) == (op not in fused | {ops.Opaque})


# ---- an operator of one's own


@dataclass(frozen=True, kw_only=True)
class Swirl(Op):
    """factor * sin(x), and its negative."""

    writes_channels = True
    factor: float = 1.0

    def infer(self, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
        assert inputs[0] is not None
        return (inputs[0], inputs[0])

    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        require_floating(importer, node.input[0])
        if attrs.get("mode", "plain") != "plain":
            raise KeepError
        importer.add(Swirl(factor=attrs.get("factor", 1.0)), node.input, node.output)

    handlers: ClassVar[Handlers] = {"acme:Swirl": from_onnx}

    def export(self, to: Exporter, node: Node) -> None:
        outputs = [to.name(value) for value in node.outputs]
        to.emit("Swirl", [to.name(node.inputs[0])], outputs, domain="acme", factor=self.factor)

    def compute(self, inputs: Inputs) -> Outputs:
        (x,) = self.per_slot(inputs)
        y = self.factor * x.sin()
        return (y, -y)


def model(*nodes: onnx.NodeProto, dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """x -> nodes -> y."""
    graph = helper.make_graph(
        nodes,
        "theirs",
        [helper.make_tensor_value_info("x", dtype, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 2)]
    return helper.make_model(graph, opset_imports=domains, ir_version=8)


def swirl(**attrs: object) -> onnx.NodeProto:
    return helper.make_node("Swirl", ["x"], ["up", "down"], name="swirl", domain="acme", **attrs)


RELU = helper.make_node("Relu", ["down"], ["y"], name="relu")
X = np.linspace(-3, 3, 6, dtype=np.float32).reshape(2, 3)


def test_one_comes_in_runs_and_goes_out_as_ours_do(tmp_path: Path) -> None:
    proto = model(swirl(factor=2.0), RELU)
    with pytest.raises(ModelError, match=r"node 'swirl' \(Swirl\): ONNX opset 2 of domain 'acme' knows no operator"):
        optgraph.compile(proto, backend="torch")
    net = optgraph.compile(proto, backend="torch", ops=[Swirl])
    assert net.simplified.nodes()[0].op == Swirl(factor=2.0)
    expected = np.maximum(-2 * np.sin(X), 0)
    np.testing.assert_allclose(net(X), expected, rtol=1e-6)
    net.save(tmp_path / "net.optgraph", ops=[Swirl])
    np.testing.assert_allclose(optgraph.load(tmp_path / "net.optgraph", "torch", ops=[Swirl])(X), expected, rtol=1e-6)
    written = to_onnx(net.simplified)
    assert types(written) == ["Swirl", "Relu"]
    assert {o.domain: o.version for o in written.opset_import} == {"": 17, "acme": 2}
    back = read(written, ops=[Swirl])
    assert [(node.name, node.op, node.outputs) for node in back.nodes()] == [
        (node.name, node.op, node.outputs) for node in read(proto, ops=[Swirl]).nodes()
    ]


def test_what_its_handler_refuses_is_no_operator_at_all() -> None:
    with pytest.raises(ModelError, match=r"node 'swirl' \(Swirl\): its handler refuses it, and ONNX itself knows no"):
        read(model(swirl(mode="wild"), RELU), ops=[Swirl])


def test_a_name_that_shape_arithmetic_knows_means_nothing_in_another_domain() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Halved(Op):
        @staticmethod
        def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
            importer.add(Halved(), node.input)

        handlers: ClassVar[Handlers] = {"acme:Add": from_onnx}

        def compute(self, inputs: Inputs) -> Outputs:
            (x,) = self.per_slot(inputs)
            return (x // 2,)

    add = helper.make_node("Add", ["x"], ["half"], domain="acme")
    cast = helper.make_node("Cast", ["half"], ["y"], to=TensorProto.FLOAT)
    net = optgraph.compile(model(add, cast, dtype=TensorProto.INT64), backend="torch", ops=[Halved])
    assert net(np.array([[4, 7, 9]]))[0].tolist() == [2, 3, 4]


@dataclass(frozen=True, kw_only=True)
class Erf(Op):
    @staticmethod
    def from_onnx(importer: Importer, node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
        importer.add(Erf(), node.input)

    handlers: ClassVar[Handlers] = {"Erf": from_onnx}

    def compute(self, inputs: Inputs) -> Outputs:
        (x,) = self.per_slot(inputs)
        return (torch.erf(x),)


def test_one_for_an_operator_of_onnx_itself_is_checked_as_ours_are() -> None:
    """Instead of an Opaque; ONNX's word on its opset and its inputs still counts."""
    relu = helper.make_node("Relu", ["down"], ["y"])
    graph = read(model(helper.make_node("Erf", ["x"], ["down"]), relu), ops=[Erf])
    assert [type(node.op) for node in graph.nodes()] == [Erf, ops.Activation]
    with pytest.raises(ModelError, match="2 inputs and 1 outputs, which Erf does not have"):
        read(model(helper.make_node("Erf", ["x", "x"], ["down"]), relu), ops=[Erf])
    old = model(helper.make_node("Erf", ["x"], ["down"]), relu)
    old.opset_import[0].version = 8
    with pytest.raises(ModelError, match=r"ONNX opset 8 of domain 'ai.onnx' knows no operator Erf"):
        read(old, ops=[Erf])


def test_a_later_operator_has_the_name() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Softmax(Op):
        handlers: ClassVar[Handlers] = {"Softmax": Erf.from_onnx, "acme:Softmax": Erf.from_onnx}

    extended = OURS.extended([Softmax])
    assert extended.named("Softmax") is Softmax and OURS.named("Softmax") is ops.Softmax
    assert extended.handler("", "Softmax") is Erf.from_onnx and OURS.handler("", "Softmax") is not Erf.from_onnx
    assert extended.handler("acme", "Softmax") is Erf.from_onnx and OURS.handler("acme", "Softmax") is None
    assert Registry([]).named("Conv") is None
