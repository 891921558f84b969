"""Local functions written out: the answers of ONNX Runtime, which writes them out itself, and what is refused."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

from optgraph.base.errors import ModelError
from optgraph.onnx.inlining import inlined
from optgraph.onnx.read import read
from optgraph.onnx.sessions import InnerValues, session
from optgraph.run import reference

FUNCTIONS = {
    "default": """{ y = my.leaky (x) }
        <domain: "my", opset_import: ["" : 17]> leaky <alpha: float = 0.5> (a) => (b)
        { b = LeakyRelu <alpha: float = @alpha> (a) }""",
    "default overridden": """{ y = my.leaky <alpha: float = 0.25> (x) }
        <domain: "my", opset_import: ["" : 17]> leaky <alpha: float = 0.5> (a) => (b)
        { b = LeakyRelu <alpha: float = @alpha> (a) }""",
    "not given, so the operator's own": """{ y = my.leaky (x) }
        <domain: "my", opset_import: ["" : 17]> leaky <alpha> (a) => (b)
        { b = LeakyRelu <alpha: float = @alpha> (a) }""",
    "default of the caller passed on": """{ y = my.outer (x) }
        <domain: "my", opset_import: ["" : 17]> leaky <alpha: float = 0.5> (a) => (b)
        { b = LeakyRelu <alpha: float = @alpha> (a) }
        <domain: "my", opset_import: ["" : 17, "my" : 1]> outer <slope: float = 0.125> (a) => (b)
        { c = my.leaky <alpha: float = @slope> (a) b = my.leaky (c) }""",
    "nothing to pass on, so the default": """{ y = my.outer (x) }
        <domain: "my", opset_import: ["" : 17]> leaky <alpha: float = 0.5> (a) => (b)
        { b = LeakyRelu <alpha: float = @alpha> (a) }
        <domain: "my", opset_import: ["" : 17, "my" : 1]> outer <slope> (a) => (b)
        { b = my.leaky <alpha: float = @slope> (a) }""",
    "several outputs, of which one is read": """{ a, unused = my.both (x) b, c = my.both (a) y = Add (b, c) }
        <domain: "my", opset_import: ["" : 17]> both (a) => (b, c)
        { t = Neg (a) b = Exp (t) c = Relu (t) }""",
    "an input that is left out": """{ y = my.clipped (x) }
        <domain: "my", opset_import: ["" : 17]> clipped (a, low) => (b)
        { zero = Constant <value_float: float = 0.5> () b = Clip (a, low, zero) }""",
    "an older opset of the same meaning": """{ y = my.f (x) }
        <domain: "my", opset_import: ["" : 13]> f (a) => (b) { c = Relu (a) b = Add (a, c) }""",
    "an older opset, where Relu took fewer types": """{ y = my.f (x) }
        <domain: "my", opset_import: ["" : 12]> f (a) => (b) { b = Relu (a) }""",
    "names inside that the model has, too": """{ t = Neg (x) u = my.f (t) y = Add (t, u) }
        <domain: "my", opset_import: ["" : 17]> f (x) => (y) { t = Exp (x) u = Add (t, x) y = Neg (u) }""",
}


def _model(body: str) -> onnx.ModelProto:
    head = '<ir_version: 9, opset_import: ["" : 17, "my" : 1]> g (float[N,3] x) => (float[N,3] y)'
    return onnx.parser.parse_model(f"{head} {body}")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_answer_as_in_onnx_runtime(name: str) -> None:
    model = _model(FUNCTIONS[name])
    x = np.array([[-1.5, 0.25, 2.0], [3.0, -0.75, -2.0]], np.float32)
    (wanted,) = session(model.SerializeToString(), optimize=False).run(["y"], {"x": x})
    graph = read(model)
    np.testing.assert_allclose(reference.run(graph, {"x": x})["y"], wanted, rtol=1e-6)
    assert np.abs(wanted - x).max() > 0.1
    # The oracle writes them out alike: the same names inside, of the same values.
    inner = InnerValues(model)
    names = list(graph.sources)
    assert all(name in inner for name in names)
    (values,) = inner.run(names, {"x": x})
    ours = reference.run(graph, {"x": x}, keep=names)
    for name in names:
        np.testing.assert_allclose(ours[name], values[name], rtol=1e-6)


REFUSED = {
    "another meaning": (
        """{ y = my.f (x) } <domain: "my", opset_import: ["" : 11]> f (a) => (b) { b = Softmax <axis: int = 0> (a) }""",
        "function 'f' is written for opset 11, where Softmax is not what it is in the model's, 17",
    ),
    "an operator that the older opset has not": (
        """{ y = my.f (x) } <domain: "my", opset_import: ["" : 13]> f (a) => (b) { b = Mish (a) }""",
        "written for opset 13, where Mish",
    ),
    "too many inputs": (
        """{ y = my.f (x, x) } <domain: "my", opset_import: ["" : 17]> f (a) => (b) { b = Exp (a) }""",
        "called with 2 inputs and 1 outputs, and has 1 and 1",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_written_out(name: str) -> None:
    body, says = REFUSED[name]
    with pytest.raises(ModelError, match=says) as raised:
        read(_model(body))
    assert raised.value.remedy == "export the model without functions"


def test_a_model_without_functions_is_itself() -> None:
    model = _model("{ y = Exp (x) }")
    assert inlined(model) is model


def test_functions_inside_subgraphs() -> None:
    model = _model(
        """{ c = Constant <value: tensor = bool {1}> () y = my.f <flag: int = 1> (c, x) }
        <domain: "my", opset_import: ["" : 17, "my" : 1]> leaky <alpha: float = 0.5> (a) => (b)
        { b = LeakyRelu <alpha: float = @alpha> (a) }
        <domain: "my", opset_import: ["" : 17, "my" : 1]> f <flag> (c, a) => (b)
        { t = Neg (a)
          b = If (c) <then_branch = then () => (float[N,3] r) { s = my.leaky (t) r = Exp (s) },
                      else_branch = else () => (float[N,3] s) { s = my.leaky (a) }> }"""
    )
    x = np.array([[-1.5, 0.25, 2.0]], np.float32)
    written = inlined(model)
    assert not written.functions and len(written.graph.node) == 3
    whole, ours = (session(m.SerializeToString(), optimize=False).run(["y"], {"x": x})[0] for m in (model, written))
    np.testing.assert_array_equal(ours, whole)


def test_what_onnx_runtime_does_not_take() -> None:
    """An output that is an input, and a domain that only a function names."""
    model = _model(
        """{ a, b = my.both (x) y = Add (a, b) }
        <domain: "my", opset_import: ["" : 17, "other" : 1]> both (a) => (a, c) { c = other.g (a) }
        <domain: "other", opset_import: ["" : 17]> g (a) => (b) { b = Exp (a) }"""
    )
    x = np.array([[-1.5, 0.25, 2.0]], np.float32)
    np.testing.assert_allclose(reference.run(read(model), {"x": x})["y"], x + np.exp(x), rtol=1e-6)
