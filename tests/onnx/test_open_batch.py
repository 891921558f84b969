"""What works along an open batch, of which no size is a multiple: right for each batch, or refused with the option."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

import optgraph
from optgraph.base.errors import ModelError, OptgraphError
from optgraph.onnx.sessions import session

CONSTANTS = (
    "int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] minus = {-1}, int64[1] end = {999},"
    "int64[8] around = {1, 0, 0, 0, 1, 0, 0, 0}, int64[4] thrice = {3, 1, 1, 1}, "
    f"float[1, 4, 2, 2] more = {{{', '.join(map(str, range(16)))}}}"
)
SERVED = {
    "the first two": "y = Slice (x, zero, two, zero)",
    "all but the first": "y = Slice (x, one, end, zero)",
    "all but the last": "y = Slice (x, zero, minus, zero)",
    "every other": "y = Slice (x, zero, end, zero, two)",
    "half": "n = Shape <start = 0, end = 1> (x) h = Div (n, two) y = Slice (x, zero, h, zero)",
    "how many the first two are": "z = Slice (x, zero, two, zero) n = Shape (z) y = Gather (n, zero)",
    "one more": "r = Relu (x) y = Concat <axis = 0> (r, more)",
    "padded": "p = Pad (x, around) r = GlobalAveragePool (p) y = Flatten (r)",
    "in two": "t = Concat <axis = 0> (x, more) p, q = Split <axis = 0, num_outputs = 2> (t) y = Relu (p)",
}


def written(body: str) -> onnx.ModelProto:
    head = f'<ir_version: 8, opset_import: ["" : 18]> g (float[N, 4, 2, 2] x) => (y) <{CONSTANTS}>'
    return parser.parse_model(f"{head} {{ {body} }}")


def right(proto: onnx.ModelProto, backend: str) -> None:
    theirs = session(proto.SerializeToString(), optimize=False)
    net = optgraph.compile(proto, backend=backend)
    for batch in (1, 2, 3, 4):
        x = np.random.default_rng(batch).standard_normal((batch, 4, 2, 2)).astype(np.float32)
        (wanted,), found = theirs.run(None, {"x": x}), np.asarray(net({"x": x}))
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SERVED)
def test_each_batch_is_served(name: str) -> None:
    proto = written(SERVED[name])
    right(proto, "torch")
    right(proto, "onnxruntime")
    with pytest.raises(OptgraphError, match=r"known only when it runs: fix the batch with --input-shape 1,4,2,2$"):
        optgraph.compile(proto, backend="interpret")({"x": np.zeros((2, 4, 2, 2), np.float32)})


def test_a_multiple_of_the_batch_has_kernels() -> None:
    right(written("y = Tile (x, thrice)"), "interpret")


def test_pieces_of_a_batch_are_of_that_batch() -> None:
    with pytest.raises(ModelError, match=r"only a batch of 3 .*: fix the batch to 3 with --input-shape"):
        optgraph.compile(written("pieces = Concat <axis = 0> (one, two) y, z = Split <axis = 0> (x, pieces)"))


def test_sizes_of_0_are_known() -> None:
    """An empty shape, as of a scalar, in front of what is joined to it."""
    body = "s = ReduceSum <keepdims = 0> (x) n = Shape (s) to = Concat <axis = 0> (n, minus) y = Reshape (s, to)"
    right(written(body), "interpret")


@pytest.mark.parametrize("backend", ["torch", "interpret"])
def test_an_image_that_is_not_there_is_told_of_its_node(backend: str) -> None:
    net = optgraph.compile(written("y = Gather <axis = 0> (x, two)"), backend=backend)
    assert np.asarray(net({"x": np.ones((3, 4, 2, 2), np.float32)})).shape == (1, 4, 2, 2)
    with pytest.raises(ModelError, match=r"^node '\w+' \(Gather\): index"):
        net({"x": np.ones((2, 4, 2, 2), np.float32)})
