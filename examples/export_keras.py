"""From Keras 3 to kernels: define a small network, export it, compile the file, compare with Keras's own answer.

    pip install '.[examples]'
    python examples/export_keras.py

On its torch backend, Keras writes each batchnorm as a subtraction, a product and a sum, puts a transpose before and
after each convolution, and computes paddings with shape arithmetic. None of it is left in the fused graph.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"  # before Keras is imported

import keras
import numpy as np
from keras import layers

import optgraph


def network() -> keras.Model:
    """A small Xception: a strided convolution, then separable ones with a residual connection."""
    inputs = keras.Input((48, 48, 3))
    x = layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    skip = layers.BatchNormalization()(layers.Conv2D(32, 1, strides=2, use_bias=False)(x))
    for _ in range(2):
        x = layers.ReLU()(x)
        x = layers.BatchNormalization()(layers.SeparableConv2D(32, 3, padding="same", use_bias=False)(x))
    x = layers.add([layers.MaxPooling2D(2)(x), skip])
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    return keras.Model(inputs, layers.Dense(10)(x))


def main() -> None:
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    model = network()
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):  # as if trained: the initial ones do nothing
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    x = rng.standard_normal((5, 48, 48, 3)).astype(np.float32)
    expected = np.asarray(model.predict(x, verbose=0))  # Keras wants a model called before it exports it

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        model.export(path, format="onnx", verbose=False)
        net = optgraph.compile(path)

    plan = net.plan()
    print(f"{net.source.nodes} ONNX nodes become {len(plan.calls)} launches: {plan.launches_by_kernel()}")
    assert not plan.fallbacks
    difference = np.linalg.norm(net(x) - expected) / np.linalg.norm(expected)
    print(f"relative difference to Keras: {difference:.1e}")
    assert difference < 1e-5


if __name__ == "__main__":
    main()
