"""From torch to kernels: define a small network, export it, compile the file, compare with torch's own answer.

    python examples/export_torch.py

It has what needs a compiler: batchnorms, a residual connection and a concat of three branches.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

import optgraph


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16, 3, stride=2)
        self.left = conv(16, 8)
        self.middle = nn.Sequential(conv(16, 8), conv(8, 16, 3))
        self.right = nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(16, 8))
        self.residual = nn.Sequential(conv(32, 16), conv(16, 16, 3), nn.Conv2d(16, 32, 1), nn.BatchNorm2d(32))
        self.classes = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.cat([self.left(x), self.middle(x), self.right(x)], dim=1)
        x = torch.relu(x + self.residual(x))
        return self.classes(x.mean((2, 3)))


def main() -> None:
    torch.manual_seed(0)
    network = Network()
    network(4 * torch.randn(8, 3, 48, 48))  # in training mode: gives the batchnorms statistics of their own
    network.eval()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        # The newer exporter (dynamo=True, torch's default) does as well; it needs the package onnxscript.
        torch.onnx.export(
            network,
            (torch.randn(1, 3, 48, 48),),
            path,
            dynamo=False,
            input_names=["x"],
            output_names=["logits"],
            dynamic_axes={"x": {0: "N"}, "logits": {0: "N"}},
        )
        net = optgraph.compile(path)

    plan = net.plan()
    print(f"{net.source.nodes} ONNX nodes become {len(plan.calls)} launches: {plan.launches_by_kernel()}")
    assert not plan.fallbacks
    x = torch.randn(5, 3, 48, 48)
    with torch.no_grad():
        expected = network(x)
    difference = (net(x) - expected).norm() / expected.norm()
    print(f"relative difference to torch: {difference:.1e}")
    assert difference < 1e-5


if __name__ == "__main__":
    main()
