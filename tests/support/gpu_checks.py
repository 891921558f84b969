"""What the GPU tests check, for any device: `tests/tune/test_layers.py` and `tests/run/test_gpu_tests.py` run it in the
interpreter on small graphs."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import torch

from optgraph.api.net import Net
from optgraph.compare.oracle import allowed, coarseness
from optgraph.kernels.frame.kernel import Kernel
from optgraph.run.engine import Engine
from optgraph.run.reference import Executor
from optgraph.tune.layers import Bind, Layer, binder


def wrong_layers(layers: Iterable[Layer], device: torch.device, bind: Bind = lambda launch: launch) -> list[str]:
    """The layers whose kernel is off from its reference in float64, or leaves NaN, or writes elsewhere: one line each.

    A kernel that cannot be launched is among them. bind: makes of a Launch what enqueues it.
    """
    lines = []
    for layer in layers:
        operands = layer.operands(device)
        try:
            error = operands.error(bind(operands.launch()))
        except Exception as reason:  # a broken kernel must not hide the others
            lines.append(f"{layer}: {type(reason).__name__}: {str(reason).splitlines()[:1]}")
            continue
        if not error <= layer.bound:
            lines.append(f"{layer}: off by {error:.1e}, bound {layer.bound:.1e}")
    return lines


def wrong_samples(kernel: Kernel, dtype: str, device: torch.device, every: int = 1) -> tuple[int, list[str]]:
    """How many of the kernel's samples were tried in a dtype, one of `every` so many, and those that are wrong, as
    `wrong_layers` says it. tf32 is a dtype only of what multiplies."""
    samples = [sample for _, sample in kernel.samples() if dtype != "tf32" or "precision" in sample.arguments]
    found = [Layer(kernel, sample.typed(dtype)) for sample in samples[::every]]
    launches = []
    for layer in found:
        with suppress(Exception):  # `wrong_layers` says which, and why
            launches.append(layer.operands(device).launch())
    return len(found), wrong_layers(found, device, binder(launches, device))


def predicted(net: Net, images: torch.Tensor) -> float:
    """How far apart, in relative L2, two answers of a net to the images may be that differ in the order of their sums
    only: `verify`'s bound, of what rounding to the net's dtype does by our own arithmetic."""
    feeds = {next(iter(net.inputs)): images.cpu().numpy()}
    exact = {name: tensor.numpy() for name, tensor in Executor(net.fused, torch.float64)(feeds).items()}
    return allowed(net.dtype, coarseness(net, net.dtype, [feeds], [exact], dict.fromkeys(exact, 0.0)))


def replay_differs(engine: Engine, first: torch.Tensor, second: torch.Tensor) -> list[str]:
    """Outputs that differ, in any bit, between launches one by one and what a run after the first does: a replay.

    The replay gets another image than the run that recorded it, so that it must have computed something.
    """
    (name,) = engine.plan(len(first)).inputs
    with engine.context(len(first)) as context:
        context.load({name: second})
        for _ in context.steps():
            pass
        stepped = context.results()
        context.load({name: first})
        context.run()
        recorded = context.results()
        context.load({name: second})
        context.run()
        replayed = context.results()
    same = [name for name in stepped if torch.equal(recorded[name], replayed[name])]
    return [f"{name}: the same for both images" for name in same] + [
        name for name in stepped if not torch.equal(stepped[name], replayed[name])
    ]


def bound_differs(net: Net, first: torch.Tensor, second: torch.Tensor) -> list[str]:
    """How runs on bound buffers differ, in any bit, from calls: launch by launch, replayed, on another stream, and in
    a graph of the caller's."""
    bound = net.bind(len(first))
    (held,) = bound.inputs.values()
    graph = torch.cuda.CUDAGraph()

    def on_another_stream() -> None:
        here, other = torch.cuda.current_stream(), torch.cuda.Stream()
        other.wait_stream(here)
        with torch.cuda.stream(other):
            bound()
        here.wait_stream(other)

    def in_a_graph() -> None:
        with torch.cuda.graph(graph):
            bound()
        graph.replay()

    ways = {"first run": bound, "replay": bound, "other stream": on_another_stream, "caller's graph": in_a_graph}
    found = [net(image) for image in (first, second)]
    answers: list[Any] = [a if isinstance(a, dict) else dict.fromkeys(bound.outputs, a) for a in found]
    wrong = [f"{name}: the same for both images" for name in bound.outputs if torch.equal(*(a[name] for a in answers))]
    for number, (way, run) in enumerate(ways.items()):
        held.copy_((first, second)[number % 2])
        run()
        for name, expected in answers[number % 2].items():
            if not torch.equal(bound.outputs[name].to(expected.dtype), expected):
                wrong.append(f"{way}: {name}")
    return wrong


def threads_differ(engine: Engine, images: Sequence[torch.Tensor], threads: int = 2, rounds: int = 3) -> list[str]:
    """Which images get another answer, in any bit, or none, when several threads run the engine at a time."""
    (name,) = engine.plan(len(images[0])).inputs
    expected = [engine({name: image}, len(image)) for image in images]
    wrong: list[str] = []

    def work(start: int) -> None:
        for i in list(range(start, len(images), threads)) * rounds:
            try:
                found = engine({name: images[i]}, len(images[i]))
            except Exception as reason:  # a thread that ends with it would end in silence
                wrong.append(f"image {i}: {type(reason).__name__}: {reason}")
                continue
            wrong.extend(f"image {i}: {o}" for o in found if not torch.equal(found[o], expected[i][o]))

    running = [threading.Thread(target=work, args=(start,)) for start in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return wrong
