"""Whether the integer kernels of ONNX Runtime add up right on this machine.

An x86 CPU without VNNI multiplies uint8 by int8 with `vpmaddubsw`, which puts the sum of two products into 16 bits: two
of 255 * 127 are cut off at 32767. Weights of 7 bits keep clear of it: 2 * 255 * 64 is less.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from optgraph.onnx.sessions import session

_CHANNELS = 64  # enough for the kernels that real layers get
_X, _W = 255, 127


def saturates() -> bool:
    """Whether a convolution of the largest uint8 and int8 comes out too small; measured, in a millisecond."""
    total = _X * _W * _CHANNELS
    scales = {"one": np.float32(1), "y_scale": np.float32(total / 200)}
    arrays = scales | {"u0": np.uint8(0), "i0": np.int8(0), "w": np.full((_CHANNELS, _CHANNELS, 1, 1), _W, np.int8)}
    inputs = ["x", "one", "u0", "w", "one", "i0", "y_scale", "u0"]
    shape = [1, _CHANNELS, 4, 4]
    graph = helper.make_graph(
        [helper.make_node("QLinearConv", inputs, ["y"])],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, shape)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    running = session(model.SerializeToString(), threads=1, integers=True)
    (y,) = running.run(None, {"x": np.full(shape, _X, np.uint8)})
    return bool((y != 200).any())
