"""Step profile: where a network's time goes, launch by launch, beside the CUDA graph of all: Inception V3 in fp16."""

from __future__ import annotations

from collections.abc import Iterator

import optgraph
from benchmarks import record
from benchmarks.cost import fused
from benchmarks.gpu.device import WrongError, about, identity, settle
from benchmarks.gpu.worker import Record, Task
from optgraph.api.profile import profile
from optgraph.base.devices import Target
from optgraph.kernels.frame.launch import Launch
from optgraph.plan.buffers import dry_launches
from optgraph.plan.plans import Plans
from optgraph.report.profiles import profile_dict

__all__ = ["about", "identity", "launches", "settle", "tasks"]

NETWORK, DTYPE, BATCHES = "inception_v3", "fp16", (1, 128)
REPEATS = 21
SECONDS = 60.0


def launches(target: Target) -> Iterator[Launch]:
    plans = Plans(fused(NETWORK), DTYPE)
    for batch in BATCHES:
        found = dry_launches(plans.get(batch, target), plans.shapes)
        yield from (launch for launch in found if launch is not None)


def tasks() -> Iterator[Task]:
    for batch in BATCHES:
        yield Task(f"{NETWORK} {batch}", lambda batch=batch: measure(batch), SECONDS)


def measure(batch: int) -> Record:
    """A `profile_dict`, and the graph's time over the sum of its launches'. Raises WrongError where the host's time is
    in it."""
    net = optgraph.compile(record.model(NETWORK), "triton", DTYPE)
    found = profile_dict(net, profile(net, batch, REPEATS))
    if found["host_bound"]:
        raise WrongError("the GPU waited for the host between launches")
    return found | {"network": NETWORK, "dtype": DTYPE, "whole_over_parts": found["whole_ms"] / found["ms"]}
