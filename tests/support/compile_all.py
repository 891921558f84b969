"""Compiles every kernel with no GPU for the compute capability named (80, 90); prints one line of JSON a kernel.

A script of its own, because tests run with TRITON_INTERPRET=1, under which nothing can be compiled. The tensors are
empty CPU tensors with the shapes of real layers; launchers are told that they lie on the target, so the tiles are those
a GPU would get.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import triton

from optgraph.ahead import cubins
from optgraph.ir.values import IDENTITY, RELU
from optgraph.kernels import (
    bottleneck,
    conv2d,
    depthwise,
    elementwise,
    head,
    lrn,
    pad,
    pointwise,
    pool,
    pooled_pointwise,
    separable,
)
from optgraph.kernels.frame.launch import Launch, targeting

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


def half(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.float16)


def channel_slice(*shape: int) -> torch.Tensor:
    """A concat slice, where such kernels usually write."""
    return half(*shape[:-1], shape[-1] + 64)[..., 32 : 32 + shape[-1]]


def vector(channels: int) -> torch.Tensor:
    return torch.empty(channels)


MIDDLE = (8, 19, 19, 728)  # Xception's middle flow: 8 divides its channels, 16 does not

LAUNCHES: dict[str, Callable[[], Launch]] = {
    "pointwise": lambda: pointwise.pointwise(
        half(*MIDDLE), half(728, 728), vector(728), [half(*MIDDLE)], acts=[RELU], residual=half(*MIDDLE), post=RELU
    ),
    "pointwise_segments": lambda: pointwise.pointwise(
        half(8, 17, 17, 768),
        half(768, 512),
        vector(512),
        [channel_slice(8, 17, 17, 192), half(8, 17, 17, 128), half(8, 17, 17, 192)],
        acts=[RELU, RELU, IDENTITY],
    ),
    "conv2d": lambda: conv2d.conv2d(
        half(64, 17, 17, 192),
        half(1, 1, 7, 192, 192),
        vector(192),
        channel_slice(64, 17, 17, 192),
        pads=(0, 3, 0, 3),
        act=RELU,
    ),
    "pointwise_split": lambda: pointwise.pointwise(
        half(1, 8, 8, 2048), half(2048, 320), vector(320), [channel_slice(1, 8, 8, 320)], acts=[RELU]
    ),
    "conv2d_strided": lambda: conv2d.conv2d(
        half(8, 35, 35, 288), half(1, 3, 3, 288, 384), vector(384), half(8, 17, 17, 384), stride=(2, 2), act=RELU
    ),
    "conv2d_split": lambda: conv2d.conv2d(
        half(1, 8, 8, 448), half(1, 3, 3, 448, 384), vector(384), half(1, 8, 8, 384), pads=(1, 1, 1, 1), act=RELU
    ),
    "conv2d_stem": lambda: conv2d.conv2d(
        torch.empty(8, 3, 299, 299).permute(0, 2, 3, 1),
        half(1, 3, 3, 3, 32),
        vector(32),
        half(8, 149, 149, 32),
        stride=(2, 2),
        act=RELU,
    ),
    "bottleneck": lambda: bottleneck.bottleneck(
        half(64, 56, 56, 64),
        half(1, 3, 3, 64, 64),
        vector(64),
        half(64, 256),
        vector(256),
        half(64, 56, 56, 256),
        pads=(1, 1, 1, 1),
        mid=RELU,
        residual=half(64, 56, 56, 256),
        post=RELU,
    ),
    "bottleneck_rest": lambda: bottleneck.bottleneck(
        half(128, 17, 17, 160),
        half(1, 7, 1, 160, 192),
        vector(192),
        half(384, 1088),
        vector(1088),
        half(128, 17, 17, 1088),
        rest=half(128, 17, 17, 192),
        rest_first=True,
        pads=(3, 0, 3, 0),
        mid=RELU,
        residual=half(128, 17, 17, 1088),
        post=RELU,
    ),
    "separable": lambda: separable.separable(
        half(*MIDDLE),
        half(3, 3, 728),
        None,
        half(728, 728),
        vector(728),
        half(*MIDDLE),
        pads=(1, 1, 1, 1),
        pre_act=RELU,
    ),
    "pooled_pointwise": lambda: pooled_pointwise.pooled_pointwise(
        half(8, 147, 147, 64),
        half(64, 80),
        vector(80),
        half(8, 73, 73, 80),
        kernel=(3, 3),
        stride=(2, 2),
        act=RELU,
    ),
    "depthwise": lambda: depthwise.depthwise(
        half(*MIDDLE), half(3, 3, 728), vector(728), half(*MIDDLE), pads=(1, 1, 1, 1), pre_act=RELU
    ),
    "depthwise_5x5_affine": lambda: depthwise.depthwise(
        half(*MIDDLE),
        half(5, 5, 728),
        vector(728),
        half(*MIDDLE),
        pads=(2, 2, 2, 2),
        pre_scale=vector(728),
        pre_shift=vector(728),
        pre_act=RELU,
        residual=half(*MIDDLE),
    ),
    "pool_max": lambda: pool.pool(
        half(8, 35, 35, 288), channel_slice(8, 17, 17, 288), kind="max", kernel=(3, 3), stride=(2, 2)
    ),
    "pool_average": lambda: pool.pool(
        half(8, 17, 17, 192),
        channel_slice(8, 17, 17, 192),
        kind="average",
        kernel=(3, 3),
        pads=(1, 1, 1, 1),
        bias=vector(192),
        act=RELU,
    ),
    "global_pool": lambda: pool.global_pool(half(1, 8, 8, 2048), half(1, 1, 1, 2048), kind="average"),
    "global_pool_max": lambda: pool.global_pool(half(64, 10, 10, 2048), half(64, 1, 1, 2048), kind="max"),
    "global_pool_affine": lambda: pool.global_pool(
        half(8, 7, 7, 2048),
        half(8, 1, 1, 2048),
        kind="average",
        pre_scale=vector(2048),
        pre_shift=vector(2048),
        pre_act=RELU,
    ),
    "lrn": lambda: lrn.lrn(half(8, 55, 55, 96), half(8, 55, 55, 96), size=5, alpha=1e-4, beta=0.75, bias=1.0),
    "pad": lambda: pad.pad(half(8, 112, 112, 64), half(8, 114, 114, 64), begin=(1, 1)),
    "head": lambda: head.head(half(1, 2048), half(2048, 1000), vector(1000), half(1, 1000)),
    "head_batched": lambda: head.head(half(64, 2048), half(2048, 1000), vector(1000), half(64, 1000)),
    "softmax": lambda: head.softmax(half(8, 1000), half(8, 1000)),
    "softmax_long": lambda: head.softmax(half(8, 50000), half(8, 50000)),
    "elementwise": lambda: elementwise.elementwise(
        half(*MIDDLE),
        half(*MIDDLE),
        scale=vector(728),
        shift=vector(728),
        act=RELU,
        other=half(*MIDDLE),
        post=RELU,
    ),
}


def compile_one(name: str, capability: int, folder: Path) -> dict[str, str | int | bool]:
    target = f"sm_{capability}"
    with targeting(target):
        launch = LAUNCHES[name]()
    cubin = cubins.obtain(launch.variant, target)  # fails if its parameters are not as a launch would pass them
    file = folder / f"{name}_{capability}.cubin"
    file.write_bytes(cubin.code)
    sass = subprocess.run([CUOBJDUMP, "-sass", file], capture_output=True, text=True, check=True).stdout
    return {
        "name": name,
        "kernel": launch.kernel,
        "target": target,
        "block_m": launch.constants.get("BLOCK_M", 0),
        "registers": cubin.registers,
        "spills": cubin.spill_bytes,
        "shared": cubin.shared_bytes,
        "wgmma": cubin.wgmma,
        "tma": cubin.tma,
        "split": launch.workspace > 0,
        # 16-byte loads, into registers or shared memory
        "wide_loads": len(re.findall(r"\bLD(?:G|GSTS)\.E\S*\.128\b", sass)),
    }


def main(capability: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in LAUNCHES:
            try:
                result = compile_one(name, capability, Path(folder))
            except Exception as error:  # one broken kernel must not hide the others
                result = {"name": name, "target": f"sm_{capability}", "error": f"{type(error).__name__}: {error}"}
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
