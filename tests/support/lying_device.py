"""A device for the steps of `make gpu`: the CPU, whose answers and times may be told."""

from __future__ import annotations

import torch

from optgraph.base.devices import SM_90
from optgraph.kernels.frame.launch import Launch
from optgraph.tune.layers import Bind
from optgraph.tune.timing import Run
from optgraph.tune.tune import Bench

CPU = torch.device("cpu")


def right(launch: Launch) -> Run:
    return launch


def wrong(lie: str) -> Bind:
    """A device that computes nothing, or something else: by more than rounding, and not by much."""

    def bind(launch: Launch) -> Run:
        if lie == "nothing":
            return lambda: None

        def run() -> None:
            launch()
            for out in launch.work.writes:
                out.mul_(1.0 + 4e-3)

        return run

    return bind


def bench(bind: Bind, milliseconds: float = 1.0) -> Bench:
    return Bench(CPU, SM_90, lambda launches, device: bind, lambda run, times: run, lambda run, repeats: milliseconds)
