"""Inception V3, Inception-ResNet-v2 and Xception, written in torch as one would by hand."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Kernel = int | tuple[int, int]


class Conv(nn.Sequential):
    """A convolution, a batchnorm and a ReLU; `pad` keeps height and width at stride 1."""

    def __init__(self, inputs: int, outputs: int, kernel: Kernel = 1, stride: int = 1, pad: bool = True) -> None:
        kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
        pads = (kh // 2, kw // 2) if pad else (0, 0)
        conv = nn.Conv2d(inputs, outputs, (kh, kw), stride, pads, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs, eps=1e-3), nn.ReLU(inplace=True))


def convs(inputs: int, *layers: tuple[int, Kernel], last_stride: int = 1) -> nn.Sequential:
    """Convolutions one after the other, each (outputs, kernel); the last may be strided, and is not padded then."""
    made: list[nn.Module] = []
    for i, (outputs, kernel) in enumerate(layers):
        stride = last_stride if i == len(layers) - 1 else 1
        made.append(Conv(inputs, outputs, kernel, stride, pad=stride == 1))
        inputs = outputs
    return nn.Sequential(*made)


def average(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), Conv(inputs, outputs))


class Join(nn.Module):
    """Branches side by side, their channels joined."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Classifier(nn.Module):
    def __init__(self, features: nn.Module, channels: int) -> None:
        super().__init__()
        self.features, self.classify = features, nn.Linear(channels, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(torch.flatten(F.adaptive_avg_pool2d(self.features(x), 1), 1))


def stem() -> nn.Sequential:
    first = (Conv(3, 32, 3, 2, pad=False), Conv(32, 32, 3, pad=False), Conv(32, 64, 3), nn.MaxPool2d(3, 2))
    return nn.Sequential(*first, Conv(64, 80), Conv(80, 192, 3, pad=False), nn.MaxPool2d(3, 2))


def inception_v3() -> nn.Module:
    def a(inputs: int, pooled: int) -> Join:
        long = convs(inputs, (64, 1), (96, 3), (96, 3))
        return Join(Conv(inputs, 64), convs(inputs, (48, 1), (64, 5)), long, average(inputs, pooled))

    def c(n: int) -> Join:
        long = convs(768, (n, 1), (n, (7, 1)), (n, (1, 7)), (n, (7, 1)), (192, (1, 7)))
        return Join(Conv(768, 192), convs(768, (n, 1), (n, (1, 7)), (192, (7, 1))), long, average(768, 192))

    def e(inputs: int) -> Join:
        def split() -> Join:
            return Join(Conv(384, 384, (1, 3)), Conv(384, 384, (3, 1)))

        short = nn.Sequential(Conv(inputs, 384), split())
        return Join(
            Conv(inputs, 320), short, nn.Sequential(*convs(inputs, (448, 1), (384, 3)), split()), average(inputs, 192)
        )

    b = Join(Conv(288, 384, 3, 2, pad=False), convs(288, (64, 1), (96, 3), (96, 3), last_stride=2), nn.MaxPool2d(3, 2))
    d = Join(
        convs(768, (192, 1), (320, 3), last_stride=2),
        convs(768, (192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3), last_stride=2),
        nn.MaxPool2d(3, 2),
    )
    blocks = (a(192, 32), a(256, 64), a(288, 64), b, c(128), c(160), c(160), c(192), d, e(1280), e(2048))
    return Classifier(nn.Sequential(stem(), *blocks), 2048)


class Scaled(nn.Module):
    """Branches joined, brought back to the channels of the input, scaled and added to it."""

    def __init__(self, channels: int, joined: int, scale: float, *branches: nn.Module, relu: bool = True) -> None:
        super().__init__()
        self.join, self.back = Join(*branches), nn.Conv2d(joined, channels, 1)
        self.scale, self.relu = scale, relu

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale * self.back(self.join(x))
        return F.relu(x) if self.relu else x


def inception_resnet_v2() -> nn.Module:
    def b35() -> Scaled:
        return Scaled(
            *(320, 128, 0.17), Conv(320, 32), convs(320, (32, 1), (32, 3)), convs(320, (32, 1), (48, 3), (64, 3))
        )

    def b17() -> Scaled:
        return Scaled(1088, 384, 0.1, Conv(1088, 192), convs(1088, (128, 1), (160, (1, 7)), (192, (7, 1))))

    def b8(scale: float = 0.2, relu: bool = True) -> Scaled:
        long = convs(2080, (192, 1), (224, (1, 3)), (256, (3, 1)))
        return Scaled(2080, 448, scale, Conv(2080, 192), long, relu=relu)

    long = convs(192, (64, 1), (96, 3), (96, 3))
    a = Join(Conv(192, 96), convs(192, (48, 1), (64, 5)), long, average(192, 64))
    long = convs(320, (256, 1), (256, 3), (384, 3), last_stride=2)
    b = Join(Conv(320, 384, 3, 2, pad=False), long, nn.MaxPool2d(3, 2))
    c = Join(
        convs(1088, (256, 1), (384, 3), last_stride=2),
        convs(1088, (256, 1), (288, 3), last_stride=2),
        convs(1088, (256, 1), (288, 3), (320, 3), last_stride=2),
        nn.MaxPool2d(3, 2),
    )
    blocks = (*(b35() for _ in range(10)), b, *(b17() for _ in range(20)), c, *(b8() for _ in range(9)))
    return Classifier(nn.Sequential(stem(), a, *blocks, b8(1.0, relu=False), Conv(2080, 1536)), 1536)


def separable(inputs: int, outputs: int) -> nn.Sequential:
    depthwise = nn.Conv2d(inputs, inputs, 3, 1, 1, groups=inputs, bias=False)
    return nn.Sequential(depthwise, nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


class Skipped(nn.Module):
    """Separable convolutions, with the input added: strided, by a 1×1 convolution, where a pool is."""

    def __init__(self, *channels: int, pool: bool = True, first: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, (inputs, outputs) in enumerate(pairwise(channels)):
            layers += [nn.ReLU()] if i or first else []
            layers.append(separable(inputs, outputs))
        self.layers = nn.Sequential(*layers, *([nn.MaxPool2d(3, 2, 1)] if pool else []))
        skip = nn.Conv2d(channels[0], channels[-1], 1, 2, bias=False)
        self.skip = nn.Sequential(skip, nn.BatchNorm2d(channels[-1])) if pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) + self.skip(x)


def xception() -> nn.Module:
    entry = (Skipped(64, 128, 128, first=False), Skipped(128, 256, 256), Skipped(256, 728, 728))
    middle = (Skipped(728, 728, 728, 728, pool=False) for _ in range(8))
    last = (Skipped(728, 728, 1024), separable(1024, 1536), nn.ReLU(), separable(1536, 2048), nn.ReLU())
    begin = (Conv(3, 32, 3, 2, pad=False), Conv(32, 64, 3, pad=False))
    return Classifier(nn.Sequential(*begin, *entry, *middle, *last), 2048)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "inception_v3": inception_v3,
    "inception_resnet_v2": inception_resnet_v2,
    "xception": xception,
}
