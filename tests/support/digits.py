"""A small network trained on scikit-learn's handwritten digits, in a few seconds and the same each time."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from optgraph.onnx.sessions import session

TRAINED = 1300  # of 1,797 digits; the others are to be recognised
EPOCHS = 12


@dataclass(frozen=True)
class Digits:
    """seen: pictures that it was trained on, N×1×8×8. unseen, answers: others, and what they are."""

    model: onnx.ModelProto
    seen: np.ndarray
    unseen: np.ndarray
    answers: np.ndarray

    def right(self, logits: np.ndarray) -> float:
        """Which share of the unseen is recognised."""
        return float((logits.argmax(1) == self.answers).mean())


def trained() -> Digits:
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x, y = (data.images[order, None] / 8 - 1).astype(np.float32), data.target[order]
    torch.manual_seed(0)
    net = _Network()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2, weight_decay=1e-3)
    steps = EPOCHS * (-(-TRAINED // 64))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(TRAINED).split(64):
            loss = nn.functional.cross_entropy(net(torch.from_numpy(x[batch])), torch.from_numpy(y[batch.numpy()]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return Digits(_exported(net.eval(), torch.from_numpy(x[:2])), x[:TRAINED], x[TRAINED:], y[TRAINED:])


def uneven(model: onnx.ModelProto, channel: int, times: float) -> onnx.ModelProto:
    """The same function, but for rounding: one channel of the first convolution is divided by `times`, and the weights
    of the depthwise one behind it are multiplied by it there, as folding a batchnorm of a narrow channel does."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    first, depthwise = [node for node in model.graph.node if node.op_type == "Conv"][:2]
    for node, slots, by in ((first, (1, 2), 1 / times), (depthwise, (1,), times)):
        for slot in slots:
            tensor = next(each for each in model.graph.initializer if each.name == node.input[slot])
            array = numpy_helper.to_array(tensor).copy()
            array[channel] *= by
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


class _Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = _block(1, 16, 3)
        self.depthwise = _block(16, 16, 3, groups=16)
        self.pointwise = _block(16, 32, 1)
        self.second = nn.Sequential(_block(32, 32, 3, groups=32), _block(32, 32, 1))
        self.classifier = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pointwise(self.depthwise(self.stem(x)))
        x = nn.functional.max_pool2d(x, 2)
        x = x + self.second(x)
        return self.classifier(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def _block(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def _exported(net: nn.Module, x: torch.Tensor) -> onnx.ModelProto:
    file = io.BytesIO()
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "N"}, "y": {0: "N"}}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (x,), file, dynamo=False, **names)
    return onnx.load_from_string(file.getvalue())


def quietest(digits: Digits) -> int:
    """The channel of the first convolution, after its activation, that adds least to what the depthwise one gives."""
    convolutions = [node for node in digits.model.graph.node if node.op_type == "Conv"]
    model = onnx.ModelProto.FromString(digits.model.SerializeToString())
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name=convolutions[1].output[0]))
    (y,) = session(model.SerializeToString()).run(None, {"x": digits.seen[:64]})
    return int(y.std((0, 2, 3)).argmin())
