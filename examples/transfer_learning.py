"""Transfer learning: a trained network's features, a new classifier on top, one compiled network of both.

    python examples/transfer_learning.py

The network is MobileNet as torch exported it, cut off before its classifier; scikit-learn's handwritten digits are the
new task. The weights here are calibrated random ones, since none come with this repository: even such features suffice.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import optgraph
from optgraph.onnx import calibrate
from optgraph.onnx.parts import cut

MOBILENET = Path(__file__).parent / "graphs" / "dynamo_mobilenet_v1.onnx"
SIZE = 32  # pixels; the network takes any size, and digits are small
TRAINING, TESTING = 600, 300


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits as N×3×SIZE×SIZE in -1..1, and what they are."""
    data = load_digits()
    images = data.images.astype(np.float32) / 8.0 - 1.0
    large = images.repeat(SIZE // 8, axis=1).repeat(SIZE // 8, axis=2)
    return np.ascontiguousarray(np.broadcast_to(large[:, None], (len(large), 3, SIZE, SIZE))), data.target


def with_head(model: onnx.ModelProto, features: str, weight: np.ndarray, bias: np.ndarray) -> onnx.ModelProto:
    """`model` as far as `features`, N×K, then a linear classifier: weight is classes×K."""
    new = cut(model, [features])
    new.graph.initializer.extend([numpy_helper.from_array(weight, "head.w"), numpy_helper.from_array(bias, "head.b")])
    new.graph.node.append(helper.make_node("Gemm", [features, "head.w", "head.b"], ["digit"], "head", transB=1))
    del new.graph.output[:]
    new.graph.output.append(helper.make_tensor_value_info("digit", onnx.TensorProto.FLOAT, ["N", len(bias)]))
    return new


def main() -> None:
    model = calibrate.calibrate(onnx.load(MOBILENET, load_external_data=False), size=SIZE)
    features = next(node.input[0] for node in model.graph.node if node.op_type == "Gemm")
    shape = ("N", 3, SIZE, SIZE)

    extractor = optgraph.compile(model, input_shape=shape, outputs=[features])
    print(f"features are '{features}': {list(extractor.outputs[features].shape)}, computed by {extractor.backend}")

    images, labels = digits()
    x, x_test, y, y_test = train_test_split(
        images, labels, train_size=TRAINING, test_size=TESTING, random_state=0, stratify=labels
    )
    scaler = StandardScaler()
    known = scaler.fit_transform(extractor(x))
    classifier = LogisticRegression(C=0.1, max_iter=500).fit(known, y)

    # The scaling is linear, so it goes into the classifier's weights: w·(x - mean)/scale + b.
    weight = classifier.coef_ / scaler.scale_
    bias = classifier.intercept_ - weight @ scaler.mean_
    whole = with_head(model, features, weight.astype(np.float32), bias.astype(np.float32))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.onnx"
        onnx.save(whole, path)
        net = optgraph.compile(path, input_shape=shape, strict=True)
        net.save(path.with_suffix(".optgraph"))
        net = optgraph.load(path.with_suffix(".optgraph"))
        found = net(x_test).argmax(axis=1)
        expected = classifier.predict(scaler.transform(extractor(x_test)))
        accuracy, agreement = (found == y_test).mean(), (found == expected).mean()
        print(f"{len(net.simplified)} operators, fused to {len(net.fused)}")
        print(f"right on {accuracy:.0%} of {TESTING} unseen digits; chance is 10%")
        print(f"agrees with scikit-learn on {agreement:.1%}")
        assert accuracy > 0.5 and agreement > 0.99


if __name__ == "__main__":
    main()
