"""Exported models: valid by ONNX's checker, the same in ONNX Runtime as here in float64, written all or nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from optgraph import ops
from optgraph.base.errors import InputError, ModelError
from optgraph.ir.graph import Graph
from optgraph.ir.op import Op
from optgraph.ir.values import IDENTITY, RELU, Act, Pads, Pair, Segment, Shape, Value
from optgraph.onnx.write import save_onnx, to_onnx
from optgraph.run.reference import run

IMAGE = ("N", 4, 9, 8)
ACTS = {
    "relu": RELU,
    "clip": Act("clip", -0.5, 0.8),
    "clip_below": Act("clip", -0.3, float("inf")),
    "clip_above": Act("clip", float("-inf"), 0.4),
    "leaky_relu": Act("leaky_relu", 0.2),
    "sigmoid": Act("sigmoid"),
    "silu": Act("silu"),
    "tanh": Act("tanh"),
    "hard_sigmoid": Act("hard_sigmoid", 0.3, 0.4),
    "hard_swish": Act("hard_swish"),
}
ACT_TYPES = {
    **{name: [name.capitalize()] for name in ("relu", "clip", "sigmoid", "tanh")},
    "clip_below": ["Clip"],
    "clip_above": ["Clip"],
    "leaky_relu": ["LeakyRelu"],
    "silu": ["Sigmoid", "Mul"],
    "hard_sigmoid": ["HardSigmoid"],
    "hard_swish": ["HardSwish"],
}


def rand(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


def single(op: Op, *constants: np.ndarray | None, shape: Shape = IMAGE, residual: int = -1) -> Graph:
    """x of `shape` -> op, its further inputs constants; slot `residual` is an input of the output's shape."""
    graph = Graph("single")
    inputs = [graph.add_input("x", Value(shape))]
    inputs += ["" if array is None else graph.add_constant(array, "weight") for array in constants]
    if residual >= 0:
        (out,) = op.infer([graph.values[v] if v else None for v in inputs])
        inputs += [""] * (residual + 1 - len(inputs))
        inputs[residual] = graph.add_input("residual", out)
    outputs = graph.add(op, inputs, name="node").outputs
    graph.outputs = {f"y{i}": value for i, value in enumerate(outputs)}
    return graph


def types(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def feeds_for(graph: Graph, batch: int) -> dict[str, np.ndarray]:
    shapes = {name: [batch if d == "N" else int(d) for d in graph.shape(name)] for name in graph.inputs}
    return {name: rand(*shape).astype(graph.values[name].dtype) for name, shape in shapes.items()}


def check(graph: Graph, exact: bool = False) -> onnx.ModelProto:
    """Exports, and compares ONNX Runtime in float32 with the reference in float64 on batches of 1 and 3."""
    model = to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    names = [node.name for node in model.graph.node]
    assert len(names) == len(set(names))
    assert [o.name for o in model.graph.output] == list(graph.outputs)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        feeds = feeds_for(graph, batch)
        expected = run(graph, feeds, torch.float64)
        for name, out in zip(graph.outputs, session.run(list(graph.outputs), feeds), strict=True):
            wanted = expected[name].numpy()
            assert out.shape == wanted.shape
            assert out.dtype == graph.values[graph.outputs[name]].dtype
            assert np.linalg.norm(wanted) > 0
            assert np.linalg.norm(out - wanted) <= (0 if exact else 1e-6) * np.linalg.norm(wanted)
    return model


# ---- operators, each on its own


@pytest.mark.parametrize("name", ACTS)
def test_activation(name: str) -> None:
    assert types(check(single(ops.Activation(act=ACTS[name])))) == ACT_TYPES[name]


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(
    "window",
    [
        {},
        {"stride": (2, 1), "pads": (1, 0, 1, 0)},
        {"stride": (1, 2), "pads": (0, 1, 2, 0), "dilation": (2, 3)},
    ],
)
def test_conv(groups: int, window: dict[str, tuple[int, ...]]) -> None:
    op = ops.Conv(kernel=(3, 2), groups=groups, **window)
    assert types(check(single(op, rand(8, 4 // groups, 3, 2)))) == ["Conv"]
    assert types(check(single(op, rand(8, 4 // groups, 3, 2), rand(8)))) == ["Conv"]


def test_conv_with_everything() -> None:
    op = ops.Conv(kernel=(3, 3), pads=(1, 1, 1, 1), pre_act=RELU, act=ACTS["silu"], post=ACTS["clip"])
    graph = single(op, rand(6, 4, 3, 3), rand(6), None, rand(4), rand(4) + 1, residual=3)
    assert types(check(graph)) == ["Mul", "Add", "Relu", "Conv", "Sigmoid", "Mul", "Add", "Clip"]


def test_merged_pointwise() -> None:
    segments = (Segment(3, RELU), Segment(5, IDENTITY), Segment(2, ACTS["silu"]))
    weights = [rand(3, 4, 1, 1), rand(3), rand(5, 4, 1, 1), None, rand(2, 4, 1, 1), rand(2)]
    op = ops.MergedPointwise(segments=segments, stride=(2, 2), pre_act=ACTS["tanh"])
    graph = single(op, rand(4), rand(4) - 1, *weights)
    assert types(check(graph)) == ["Mul", "Add", "Tanh", "Conv", "Relu", "Conv", "Conv", "Sigmoid", "Mul"]


def test_separable() -> None:
    op = ops.Separable(
        kernel=(3, 3), stride=(2, 1), pads=(1, 0, 0, 1), pre_act=RELU, mid=ACTS["clip"], act=ACTS["tanh"], post=RELU
    )
    weights = [rand(4, 1, 3, 3), rand(4), rand(6, 4, 1, 1), rand(6)]
    graph = single(op, *weights, None, rand(4), rand(4) + 1, residual=5)
    assert types(check(graph)) == ["Mul", "Add", "Relu", "Conv", "Clip", "Conv", "Tanh", "Add", "Relu"]
    plain = single(ops.Separable(kernel=(3, 3)), rand(4, 1, 3, 3), None, rand(6, 4, 1, 1))
    assert types(check(plain)) == ["Conv", "Conv"]


@pytest.mark.parametrize("rest_first", [False, True])
def test_bottleneck(rest_first: bool) -> None:
    acts: dict[str, Act] = {"pre_act": RELU, "mid": ACTS["clip"], "act": ACTS["tanh"], "post": RELU}
    op = ops.Bottleneck(kernel=(3, 3), stride=(2, 1), pads=(1, 0, 0, 1), rest_first=rest_first, **acts)
    graph = Graph()
    images = {"x": IMAGE, "residual": ("N", 6, 4, 7), "rest": ("N", 3, 4, 7)}
    weights = {
        "conv_w": (5, 4, 3, 3),
        "conv_b": (5,),
        "w": (6, 8, 1, 1),
        "b": (6,),
        "pre_scale": (4,),
        "pre_shift": (4,),
    }
    inputs = {name: graph.add_input(name, Value(shape)) for name, shape in images.items()}
    inputs |= {name: graph.add_constant(rand(*shape) + 0.5) for name, shape in weights.items()}
    graph.outputs = {"y": graph.add(op, [inputs[slot] for slot in op.slots]).output}
    chain = ["Mul", "Add", "Relu", "Conv", "Clip", "Concat", "Conv", "Tanh", "Add", "Relu"]
    assert types(check(graph)) == chain
    plain = single(ops.Bottleneck(kernel=(3, 3)), rand(5, 4, 3, 3), None, rand(6, 5, 1, 1))
    assert types(check(plain)) == ["Conv", "Conv"]


def test_pooled_pointwise() -> None:
    acts: dict[str, Act] = {"pre_act": RELU, "act": ACTS["tanh"], "post": RELU}
    op = ops.PooledPointwise(kernel=(3, 2), stride=(2, 1), pads=(1, 0, 0, 1), **acts)
    graph = single(op, rand(6, 4, 1, 1), rand(6), residual=3)
    assert types(check(graph)) == ["Relu", "MaxPool", "Conv", "Tanh", "Add", "Relu"]
    wide = single(ops.PooledPointwise(kernel=(2, 2), pads=(2, 0, 0, 2), dilation=(2, 2)), rand(6, 4, 1, 1))
    assert types(check(wide)) == ["Pad", "MaxPool", "Conv"]


@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 2, 0)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)])
@pytest.mark.parametrize(("mode", "counted"), [("max", False), ("average", False), ("average", True)])
def test_pool(pads: Pads, dilation: Pair, mode: str, counted: bool) -> None:
    op = ops.Pool(kernel=(3, 2), stride=(2, 1), pads=pads, dilation=dilation, mode=mode, count_include_pad=counted)
    model = check(single(op))
    assert types(model) == ["MaxPool" if mode == "max" else "AveragePool"]
    assert model.opset_import[0].version == (19 if mode == "average" and dilation != (1, 1) else 17)


def test_pool_with_everything() -> None:
    op = ops.Pool(kernel=(3, 3), pads=(1, 1, 1, 1), mode="average", pre_act=RELU, act=ACTS["leaky_relu"], post=RELU)
    graph = single(op, rand(4), residual=2)
    assert types(check(graph)) == ["Relu", "AveragePool", "Add", "LeakyRelu", "Add", "Relu"]


@pytest.mark.parametrize("mode", ["max", "average"])
def test_global_pool(mode: str) -> None:
    model = check(single(ops.GlobalPool(mode=mode, act=RELU)))
    assert types(model) == [f"Global{mode.capitalize()}Pool", "Relu"]


@pytest.mark.parametrize("shape", [("N", 4), ("N", 4, 5), IMAGE])
def test_affine_writes_only_what_it_does(shape: Shape) -> None:
    scale, shift, one, zero = rand(4), rand(4) + 1, np.ones(4, np.float32), np.zeros(4, np.float32)
    assert types(check(single(ops.Affine(act=RELU), scale, shift, shape=shape))) == ["Mul", "Add", "Relu"]
    assert types(check(single(ops.Affine(), scale, zero, shape=shape))) == ["Mul"]
    assert types(check(single(ops.Affine(), one, shift, shape=shape))) == ["Add"]
    assert types(check(single(ops.Affine(), one, zero, shape=shape), exact=True)) == ["Identity"]


def test_affine_by_computed_values() -> None:
    graph = Graph()
    x = graph.add_input("x", Value(IMAGE))
    scale, shift = graph.add_input("scale", Value((4,))), graph.add_input("shift", Value((4,)))
    graph.outputs = {"y": graph.add(ops.Affine(), [x, scale, shift]).output}
    assert types(check(graph)) == ["Reshape", "Mul", "Reshape", "Add"]


@pytest.mark.parametrize("fn", ["add", "sub", "mul", "div"])
def test_binary(fn: str) -> None:
    model = check(single(ops.Binary(fn=fn, post=RELU), rand(4, 1, 8)))
    assert types(model) == [fn.capitalize(), "Relu"]


CASES: dict[str, tuple[list[str], Callable[[], Graph]]] = {
    "batch_norm": (
        ["BatchNormalization"],
        lambda: single(ops.BatchNorm(epsilon=0.01), rand(4), rand(4) + 1, rand(4) - 1, rand(4) ** 2),
    ),
    "gemm": (["Gemm", "Relu"], lambda: single(ops.Gemm(act=RELU), rand(5, 4), rand(5), shape=("N", 4))),
    "gemm_without_bias": (["Gemm"], lambda: single(ops.Gemm(), rand(5, 4), shape=("N", 4))),
    "matmul": (["MatMul"], lambda: single(ops.MatMul(), rand(8, 5))),
    "concat": (["Concat"], lambda: single(ops.Concat(axis=2), rand(1, 4, 3, 8), shape=(1, 4, 9, 8))),
    "split": (["Split"], lambda: single(ops.Split(axis=1, sizes=(1, 3)))),
    "slice": (
        ["Slice"],
        lambda: single(ops.Slice(starts=(-1, 2), ends=(-(2**63), 100), axes=(2, 3), steps=(-2, 1))),
    ),
    "reshape_copied_batch": (["Reshape"], lambda: single(ops.Reshape(shape=("N", -1)))),
    "reshape_left_over_batch": (["Reshape"], lambda: single(ops.Reshape(shape=(-1, 36, 8)))),
    "reshape_moved_batch": (["Reshape"], lambda: single(ops.Reshape(shape=(2, "N", 4)), shape=("N", 8))),
    "reshape_static": (["Reshape"], lambda: single(ops.Reshape(shape=(3, -1)), shape=(6, 5))),
    "transpose": (["Transpose"], lambda: single(ops.Transpose(perm=(0, 2, 3, 1)))),
    "softmax": (["Softmax"], lambda: single(ops.Softmax(axis=1))),
    "lrn": (["LRN"], lambda: single(ops.LRN(size=3, alpha=0.3, beta=0.6, bias=1.5))),
    "pad": (["Pad"], lambda: single(ops.Pad(pads=(0, 0, 1, -1, 0, 2, 0, 3), value=0.5))),
    "pad_edge": (["Pad"], lambda: single(ops.Pad(pads=(0, 0, 1, 0, 0, 2, 0, 3), mode="edge"))),
    "reduce_all_axes": (["ReduceMax"], lambda: single(ops.Reduce(mode="max", axes=(0, 1, 2, 3), keepdims=True))),
    "reduce_no_axes": (["Identity"], lambda: single(ops.Reduce(mode="sum", axes=(), keepdims=True))),
    "cast": (["Cast"], lambda: single(ops.Cast(to="int32"))),
    "identity": (["Identity"], lambda: single(ops.Identity())),
}


@pytest.mark.parametrize("case", CASES)
def test_operator(case: str) -> None:
    expected, build = CASES[case]
    assert types(check(build())) == expected


@pytest.mark.parametrize("mode", ["mean", "max", "min", "sum"])
@pytest.mark.parametrize("keepdims", [True, False])
@pytest.mark.parametrize("opset", [17, 18])
def test_reduce(mode: str, keepdims: bool, opset: int) -> None:
    """`axes` became an input at opset 13 for ReduceSum and at 18 for the others."""
    graph = single(ops.Reduce(mode=mode, axes=(1, 3), keepdims=keepdims))
    graph.opset = opset
    add_opaque(graph, "Elu")  # which pins the opset
    model = check(graph)
    assert model.opset_import[0].version == opset
    assert types(model) == [f"Reduce{mode.capitalize()}", "Elu"]


# ---- Opaque


def add_opaque(graph: Graph, op_type: str, *constants: np.ndarray, shape: Shape | None = None, **attrs: object) -> None:
    """`op_type` after the first output, on further constants."""
    (public, value), *_ = graph.outputs.items()
    inputs = [value, *(graph.add_constant(array, "extra") for array in constants)]
    proto = helper.make_node(op_type, [f"p{i}" for i in range(len(inputs))], ["q"], name="theirs", **attrs)
    out = Value(shape or graph.shape(value))
    op = ops.Opaque(op_type=op_type, domain="", proto=proto.SerializeToString(), values=(out,))
    graph.outputs[public] = graph.add(op, inputs, name="ours").output


def test_opaque_as_it_came() -> None:
    graph = single(ops.Activation(act=RELU))
    graph.opset = 13
    add_opaque(graph, "Elu", alpha=0.5)
    model = check(graph)
    assert types(model) == ["Relu", "Elu"]
    assert (model.graph.node[1].name, model.graph.node[1].attribute[0].f) == ("ours", 0.5)


def test_opaque_of_an_old_opset_is_converted() -> None:
    """Softmax ran over all axes from `axis` on until opset 13; Upsample became Resize."""
    graph = single(ops.Activation(act=ACTS["tanh"]))
    graph.opset = 9
    add_opaque(graph, "Softmax", axis=1)
    add_opaque(graph, "Upsample", np.array([1, 1, 2, 2], np.float32), shape=("N", 4, 18, 16), mode="nearest")
    model = to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == 17
    assert "Upsample" not in types(model)
    x = rand(2, 4, 9, 8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    exp = np.exp(np.tanh(x))
    expected = exp / exp.sum((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected.repeat(2, 2).repeat(2, 3), rtol=1e-5)


def test_opaque_of_another_domain_imports_it() -> None:
    graph = single(ops.Activation(act=ACTS["tanh"]), shape=("N", 4))
    proto = helper.make_node("Normalizer", ["a"], ["b"], domain="ai.onnx.ml", norm="L2")
    op = ops.Opaque(
        op_type="Normalizer", domain="ai.onnx.ml", proto=proto.SerializeToString(), values=(Value(("N", 4)),)
    )
    graph.outputs = {"y": graph.add(op, [graph.outputs["y0"]]).output}
    graph.domains = {"": 17, "ai.onnx.ml": 2, "unused": 1}
    model = check(graph)
    assert {o.domain: o.version for o in model.opset_import} == {"": 17, "ai.onnx.ml": 2}


def test_what_onnx_does_not_have() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Mine(Op):
        pass

    with pytest.raises(ModelError, match=r"node 'node' \(Mine\): ONNX has no such operator"):
        to_onnx(single(Mine()))
    graph = single(ops.Activation(act=RELU))
    add_opaque(graph, "Nonsense")
    with pytest.raises(ModelError, match=r"node 'ours' \(Nonsense\): ONNX opset 17 has no such operator"):
        to_onnx(graph)
    with pytest.raises(ModelError, match=r"node 'node' \(Activation\): unknown activation 'gelu'"):
        to_onnx(single(ops.Activation(act=Act("gelu"))))


# ---- names, versions, dtypes


def test_public_names_and_the_symbolic_batch() -> None:
    """Outputs that are an input, a constant, a value twice, and a name that an inner value has."""
    graph = Graph("names")
    x = graph.add_input("x", Value(("N", 4)))
    w = graph.add_constant(rand(5, 4), "w")
    inner = graph.add(ops.Gemm(), [x, w], outputs=["y"], name="same").output
    outer = graph.add(ops.Activation(act=RELU), [inner], outputs=["x/Relu"], name="y").output
    graph.outputs = {"y": outer, "again": outer, "x": x, "copy": x, "weight": w}
    model = check(graph)
    assert [i.name for i in model.graph.input] == ["x"]
    assert [d.dim_param or d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim] == ["N", 5]
    assert [i.name for i in model.graph.initializer] == ["weight"]


def test_an_activation_that_does_nothing_keeps_what_it_reads() -> None:
    graph = single(ops.Activation(act=RELU))
    before = graph.outputs["y0"]
    graph.outputs["same"] = graph.add(ops.Activation(act=IDENTITY), [before]).output
    graph.outputs["also"] = graph.add(ops.Activation(act=ACTS["tanh"]), [before]).output
    assert types(check(graph)) == ["Relu", "Identity", "Tanh"]


def test_a_shared_constant_is_written_once_and_an_unused_one_never() -> None:
    graph = Graph()
    x = graph.add_input("x", Value(IMAGE))
    w = graph.add_constant(rand(4, 4, 1, 1), "w")
    graph.add_constant(rand(100), "unused")
    y = graph.add(ops.Conv(kernel=(1, 1)), [x, w]).output
    graph.outputs = {"y": graph.add(ops.Conv(kernel=(1, 1)), [y, w]).output}
    model = check(graph)
    assert [i.name for i in model.graph.initializer] == ["w"]
    tensor = model.graph.initializer[0]
    assert len(tensor.raw_data) == 64
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), graph.constants["w"])


def test_half_precision_stays() -> None:
    graph = Graph()
    x = graph.add_input("x", Value(("N", 4), "float16"))
    y = graph.add(ops.Affine(act=ACTS["clip"]), [x, *(graph.add_constant(rand(4).astype(np.float16)) for _ in "ab")])
    graph.outputs = {"y": y.output}
    model = to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    kinds = {t.data_type for t in model.graph.initializer} | {model.graph.output[0].type.tensor_type.elem_type}
    assert kinds == {onnx.TensorProto.FLOAT16}


def test_onnx_runtime_1_22_can_read_it() -> None:
    model = to_onnx(single(ops.Activation(act=RELU)))
    assert model.opset_import[0].version == 17
    assert model.ir_version <= 10


# ---- the file


def test_save(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"before")
    graph = single(ops.Activation(act=RELU))
    save_onnx(graph, path)
    assert onnx.load(str(path)) == to_onnx(graph)
    save_onnx(graph, str(tmp_path / "other.onnx"))
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", "other.onnx"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("failing", ["os.replace", "pathlib.Path.open"])
def test_a_failed_save_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"before")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(failing, full)
        with pytest.raises(InputError, match=r"model\.onnx: cannot be written: No space left on device"):
            save_onnx(single(ops.Activation(act=RELU)), path)
    assert os.listdir(tmp_path) == ["model.onnx"]
    assert path.read_bytes() == b"before"


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        assert len(os.listdir(tmp_path)) == 1  # the temporary file, complete
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_onnx(single(ops.Activation(act=RELU)), tmp_path / "model.onnx")
    assert os.listdir(tmp_path) == []


def test_paths_that_cannot_be_written(tmp_path: Path) -> None:
    graph = single(ops.Activation(act=RELU))
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for path in ("missing/model.onnx", "file/model.onnx", "folder"):
        with pytest.raises(InputError, match="cannot be written"):
            save_onnx(graph, tmp_path / path)
    with pytest.raises(InputError, match="not a file name"):
        save_onnx(graph, "")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_over_two_gigabytes(tmp_path: Path) -> None:
    graph = single(ops.Activation(act=RELU), shape=("N", 4))
    huge = np.broadcast_to(np.float32(1), (150_000_000, 4))
    w = graph.add_constant(huge, "w")
    graph.outputs = {"y": graph.add(ops.Gemm(), [graph.outputs["y0"], w]).output}
    with pytest.raises(ModelError, match=r"2\.4 GB of weights.*save a \.optgraph artifact"):
        save_onnx(graph, tmp_path / "model.onnx")
    assert os.listdir(tmp_path) == []
