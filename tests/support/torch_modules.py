"""Small torch modules, each with one thing that a compiled one is to get right."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def settled(module: nn.Module, seed: int = 0) -> nn.Module:
    """In eval mode, with statistics and weights under which the answer depends on the input."""
    torch.manual_seed(seed)
    for inner in module.modules():
        if isinstance(inner, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(inner.weight, nonlinearity="relu")
            if inner.bias is not None:
                nn.init.normal_(inner.bias, std=0.1)
        if isinstance(inner, nn.BatchNorm2d):
            assert inner.running_mean is not None and inner.running_var is not None
            nn.init.normal_(inner.running_mean, std=0.1)
            nn.init.uniform_(inner.running_var, 0.5, 1.5)
            nn.init.uniform_(inner.weight, 0.5, 1.5)
            nn.init.normal_(inner.bias, std=0.1)
    return module.eval()


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class ConvBnRelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv_bn(3, 8, stride=2), conv_bn(8, 12)
        self.classify = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.second(self.first(x)).mean((2, 3)))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv_bn(3, 3), conv_bn(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + x)


class DepthwiseSeparable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.depthwise, self.pointwise = conv_bn(8, 8, groups=8), conv_bn(8, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(self.stem(x)))


class Branches(nn.Module):
    """Inception's: convolutions and a pool, side by side, joined."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.three, self.pooled = conv_bn(3, 4, 1), conv_bn(3, 6), conv_bn(3, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.pooled(F.avg_pool2d(x, 3, 1, 1))], 1)


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x * torch.sigmoid(self.excite(F.silu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))


class Upsampling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = conv_bn(3, 8, stride=2), conv_bn(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.interpolate(self.down(x), scale_factor=2, mode="bilinear", align_corners=False))


class SeveralOutputs(nn.Module):
    """A dict of tensors, a pair in it, one of them twice, the input as it came, and None."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv_bn(3, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> dict[str, object]:
        features = self.stem(x)
        logits = self.head(features.flatten(2).mean(2))
        return {"features": features, "logits": (logits, logits.softmax(1)), "again": logits, "x": x, "mask": None}


class Broken(nn.Module):
    """Something between that Dynamo cannot follow: a graph before it, one after it."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = conv_bn(3, 8), conv_bn(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        torch._dynamo.graph_break()
        return self.after(x).reshape(x.shape[0], -1)


MODULES: dict[str, Callable[[], nn.Module]] = {
    "conv-bn-relu": ConvBnRelu,
    "residual": Residual,
    "depthwise separable": DepthwiseSeparable,
    "inception-like concat": Branches,
    "squeeze and excite": SqueezeExcite,
    "upsampling": Upsampling,
    "several outputs": SeveralOutputs,
    "graph break": Broken,
}
