"""What one launch fuses, as several of our own that compute the same: the other side of a comparison."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from optgraph.ir.values import IDENTITY
from optgraph.kernels.conv2d import CONV2D
from optgraph.kernels.depthwise import DEPTHWISE
from optgraph.kernels.elementwise import ELEMENTWISE
from optgraph.kernels.frame.ends import Epilogue, Prologue
from optgraph.kernels.frame.kernel import Kernel
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.sample import Operands
from optgraph.kernels.frame.tile import Tile
from optgraph.kernels.pointwise import POINTWISE
from optgraph.kernels.pool import POOL
from optgraph.run.capture import enqueue_in_turn
from optgraph.tune.layers import Bind
from optgraph.tune.timing import Run

TileOf = Callable[[Launch], Tile | None]  # the tile that a launch is to have instead of its own


@dataclass(frozen=True)
class InTurn:
    """Launches one after another, as a network has them: each may begin before the one before it ends."""

    runs: tuple[Run, ...]

    def __call__(self) -> None:
        enqueue_in_turn(self.runs)


def separate(
    operands: Operands, bind: Bind, tile_of: TileOf = lambda launch: None, copied: bool = False
) -> InTurn | None:
    """What one launch fuses, as calls of our own kernels: a merged 1×1 segment by segment, a separable convolution, a
    bottleneck or a pooled 1×1 as its two. None if nothing is fused.

    copied: what a bottleneck reads beside is brought to the convolution's result by a launch more.
    """
    found = _Apart(operands, tile_of).launches(copied)
    return InTurn(tuple(bind(launch) for launch in found)) if found else None


@dataclass(frozen=True)
class _Apart:
    operands: Operands
    tile_of: TileOf

    def launches(self, copied: bool) -> list[Launch]:
        match self.operands.kernel.name:
            case "pointwise" if len(self.operands.arguments["outs"]) > 1:
                return self._segments()
            case "separable":
                return self._separable()
            case "pooled_pointwise":
                return self._pooled()
            case "bottleneck":
                return self._bottleneck(copied)
            case _:
                return []

    def _segments(self) -> list[Launch]:
        t = self.operands.arguments
        columns = [out.shape[-1] for out in t["outs"]]
        weights = [w.contiguous() for w in t["weight"].split(columns, 1)]
        bias = t["after"].bias
        biases = [None] * len(columns) if bias is None else [b.contiguous() for b in bias.split(columns)]
        common = {key: t[key] for key in ("stride", "before", "precision") if key in t}
        return [
            self._launch(POINTWISE, x=t["x"], weight=w, outs=[out], after=Epilogue(b, act), **common)
            for w, b, out, act in zip(weights, biases, t["outs"], t["acts"], strict=True)
        ]

    def _separable(self) -> list[Launch]:
        t = self.operands.arguments
        d = self._nan(t["depthwise"].shape[-1])
        options = self._first() | {"after": self._middle("depthwise_bias")}
        return [self._launch(DEPTHWISE, weight=t["depthwise"], out=d, **options), self._second(d)]

    def _pooled(self) -> list[Launch]:
        pooled = self._nan(self.operands.arguments["x"].shape[-1])
        return [self._launch(POOL, out=pooled, kind="max", **self._first()), self._second(pooled)]

    def _bottleneck(self, copied: bool) -> list[Launch]:
        t = self.operands.arguments
        joined, hidden = self._nan(t["weight"].shape[0]), t["conv_weight"].shape[-1]
        found, h, rest = [], joined, t.get("rest")
        if rest is not None:
            others, rest_first = rest.shape[-1], t.get("rest_first", False)
            parts = torch.split(joined, [others, hidden] if rest_first else [hidden, others], -1)
            beside, h = parts if rest_first else parts[::-1]
            if copied:
                found = [self._launch(ELEMENTWISE, x=rest, out=beside)]
            else:
                beside.copy_(rest)
        options = self._first() | {"after": self._middle("conv_bias"), "precision": t["precision"]}
        return [*found, self._launch(CONV2D, weight=t["conv_weight"], out=h, **options), self._second(joined)]

    def _first(self) -> dict[str, Any]:
        t = self.operands.arguments
        return {"x": t["x"], "window": t["window"], "before": t.get("before", Prologue())}

    def _middle(self, bias: str) -> Epilogue:
        t = self.operands.arguments
        return Epilogue(t[bias], t.get("mid", IDENTITY), slope=t.get("mid_slope"))

    def _second(self, x: torch.Tensor) -> Launch:
        """The 1×1 that ends a fused kernel."""
        t = self.operands.arguments
        options = {"after": t["after"], "precision": t["precision"]}
        return self._launch(POINTWISE, x=x, weight=t["weight"], outs=[t["out"]], **options)

    def _launch(self, kernel: Kernel, **arguments: Any) -> Launch:
        launch: Launch = kernel.launcher(**arguments)
        if tile := self.tile_of(launch):
            launch = kernel.launcher(**arguments, tile=tile)
        if not launch.workspace:
            return launch
        device = self.operands.arguments["x"].device
        return launch.with_workspace(torch.zeros(launch.workspace, dtype=torch.uint8, device=device))

    def _nan(self, channels: int) -> torch.Tensor:
        """A tensor as large as the output, of so many channels: what is not written there shows."""
        out, weight = self.operands.arguments["out"], self.operands.arguments["weight"]
        return torch.full((*out.shape[:-1], channels), math.nan, dtype=weight.dtype, device=out.device)
