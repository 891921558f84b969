"""Whole networks on a machine: what they need, a context that runs them there, and the orders that streams allow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from optgraph.ahead.cubins import Cubin
from optgraph.base.devices import Target
from optgraph.kernels.frame.launch import Launch
from optgraph.kernels.frame.variant import Block
from optgraph.plan.buffers import dry_launches
from optgraph.plan.plan import Schedule
from optgraph.plan.plans import Plans
from optgraph.run.capture import enqueue
from optgraph.run.context import Context
from optgraph.run.engine import Engine
from tests.emulator.compiler import compile_all
from tests.emulator.machine import Machine
from tests.support.streams import Around, Device, Stream


def launches(plans: Plans, batch: int, target: Target) -> list[Launch]:
    """Those of the plan, on memory that does not exist."""
    return [launch for launch in dry_launches(plans.get(batch, target), plans.shapes) if launch is not None]


def kernels(plans: Plans, batch: int, target: Target) -> list[Cubin]:
    """What the plan launches, compiled to PTX."""
    variants = dict.fromkeys(launch.variant for launch in launches(plans, batch, target))
    return compile_all((variant, target) for variant in variants)


def counts(plans: Plans, batch: int, target: Target) -> dict[str, int]:
    """How many launches the plan has, how many of them the copy engine fetches for, and how many of split sums."""
    found = launches(plans, batch, target)
    fetched = sum(any(isinstance(value, Block) for value in launch.arguments.values()) for launch in found)
    return {"launches": len(found), "tma": fetched, "split": sum(launch.tile.splits > 1 for launch in found)}


@contextmanager
def prepared(plans: Plans, batch: int, machine: Machine) -> Iterator[Context]:
    """A context for `batch` images, each of whose launches the machine runs."""
    engine = Engine(plans, torch.device("cpu"), target=machine.target)
    engine._prepare = lambda launches: list(map(machine.bind, launches))
    with engine.context(batch) as context:
        yield context


def reordered(
    context: Context, device: Device, seed: int, schedule: Schedule | None = None
) -> tuple[list[int], list[torch.Tensor]]:
    """The launches in one of the orders that the streams and waits of a schedule allow, by default the plan's, on
    memory full of NaN: the order, and the outputs."""
    order: list[int] = []

    def noted(i: int, launch: Callable[[], None]) -> Callable[[], None]:
        def run(enqueue: Callable[[], None]) -> None:
            order.append(i)
            enqueue()

        return device.enqueued(Around(launch, run))

    context._buffers._arena.fill_(0xFF)
    schedule = schedule or context.plan.schedule
    streams: list[Any] = [Stream() for _ in range(schedule.streams)]
    enqueue([noted(i, launch) for i, launch in enumerate(context._launches)], schedule, streams)
    device.run(streams, seed)
    return order, list(context.results().values())
