"""What the host does in a call of a network on a GPU, without one: steps counted, and their time on this processor.

    python -m benchmarks.host

The GPU is `tests/support/fake_gpu.py`: it launches nothing, and a function of torch.cuda is one step. The network is
small, so that no copy takes long. The same is done with the package as it was at commit BEFORE, in turns.
Writes benchmarks/results/host.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import record

BEFORE = "1501f92"
ROUNDS, BLOCKS, CALLS = 5, 500, 20


class _Ops(TorchDispatchMode):
    """Counts the torch operators inside."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def steps(call: Callable[[], object]) -> dict[str, int]:
    """Calls of Python functions and of functions in C, and torch operators, in one call after three."""
    for _ in range(3):
        call()
    events = {"call": 0, "c_call": 0}

    def see(frame: FrameType, event: str, argument: object) -> None:
        caller = frame if event == "c_call" else frame.f_back
        if event in events and not (caller and caller.f_code.co_filename.endswith("fake_gpu.py")):
            events[event] += 1

    gc.collect()
    gc.disable()  # what it lets go may have steps of its own
    sys.setprofile(see)
    call()
    sys.setprofile(None)
    gc.enable()
    with _Ops() as ops:
        call()
    # Those of `call` itself and of the second setprofile are not the network's.
    return {"python": events["call"] - 1, "c": events["c_call"] - 1, "torch": ops.count}


def microseconds(call: Callable[[], object]) -> float:
    """The least mean of some blocks of calls: what else the machine does only adds."""
    means = []
    for _ in range(BLOCKS):
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        means.append((time.perf_counter() - start) / CALLS * 1e6)
    return min(means)


def calls(patch: pytest.MonkeyPatch) -> dict[str, Callable[[], object]]:
    """Ways to call a network on a GPU that is not there."""
    import optgraph
    from optgraph.onnx.write import to_onnx

    if find_spec("optgraph.run.context") is None:  # at BEFORE it was part of this one
        sys.modules["optgraph.run.context"] = import_module("optgraph.run.engine")
    from optgraph.run import context
    from tests.support.fake_gpu import FakeGpu
    from tests.support.networks import inception_a

    FakeGpu(patch, compute=lambda launch: None)
    patch.setattr(context, "recorded", lambda *given: [lambda: None])  # a replay is one step
    graph = inception_a()
    net = optgraph.compile(to_onnx(graph), "triton", "fp16")
    x = torch.randn(1, *(int(d) for d in graph.shape("x")[1:]))
    array = x.numpy()
    found: dict[str, Callable[[], object]] = {"a tensor": lambda: net(x), "an array": lambda: net(array)}
    if hasattr(net, "bind"):
        bound = net.bind(batch=1)
        found["bound buffers"] = lambda: bound()
    return found


def measure() -> dict[str, dict[str, float]]:
    with pytest.MonkeyPatch.context() as patch:
        return {name: steps(call) | {"us": microseconds(call)} for name, call in calls(patch).items()}


def _in_process(package: Path) -> dict[str, dict[str, float]]:
    """`measure` of the package in a folder, with this file and its GPU."""
    environment = os.environ | {"PYTHONPATH": f"{package}{os.pathsep}{record.ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.host", "--one"]
    ran = subprocess.run(command, cwd=package, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, dict[str, float]] = json.loads(ran.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", action="store_true", help="only print what this package does")
    if parser.parse_args().one:
        print(json.dumps(measure()))
        return
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", BEFORE], cwd=record.ROOT, capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        sides = {"before": Path(folder), "now": record.ROOT}
        rounds = [{side: _in_process(package) for side, package in sides.items()} for _ in range(ROUNDS)]
    rows = []
    for name in rounds[0]["now"]:
        row: dict[str, Any] = {"graph": name}
        for side in sides:
            runs = [round_[side][name] for round_ in rounds if name in round_[side]]
            if runs:
                counts = {key: runs[0][key] for key in ("python", "c", "torch")}
                row[side] = counts | {"us": min(run["us"] for run in runs)}
        rows.append(row)
        print(row, flush=True)
    print(record.write("host", rows, before=BEFORE))


if __name__ == "__main__":
    main()
