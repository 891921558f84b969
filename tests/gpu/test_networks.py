"""The three networks whole, at full size, on the GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import optgraph
from benchmarks import record
from optgraph.base.dtypes import STORAGE
from optgraph.base.images import images
from optgraph.compare.verify import verify_net
from optgraph.onnx.write import save_onnx
from optgraph.run.engine import Engine
from optgraph.tune.layers import target_of
from tests.support.gpu_checks import bound_differs, predicted, replay_differs, threads_differ

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")
BATCHES = (1, 3, 16, 17, 32)

# In a process of its own, in which nothing has been compiled or loaded before.
FROM_ARTIFACT = """
import sys, torch, optgraph
net = optgraph.load(sys.argv[1], backend="triton")
for batch in map(int, sys.argv[3:]):
    x = torch.load(sys.argv[2])[:batch]
    torch.save(net(x), f"{sys.argv[1]}.{batch}")
"""


@pytest.fixture(params=record.NETWORKS)
def network(request: pytest.FixtureRequest) -> Path:
    """With weights that all types hold exactly, so that what is off is the arithmetic: rounded to bf16, after all that
    could change them."""
    path = record.MODELS / f"{request.param}_exact.onnx"
    if not path.exists():
        graph = optgraph.simplify(optgraph.read(record.model(request.param)))
        for name, array in graph.constants.items():
            if array.ndim > 1:
                graph.constants[name] = torch.tensor(array).bfloat16().float().numpy()
        save_onnx(graph, path)
    return path


def random_images(count: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(images(seed, (count, 3, 299, 299), channels_last=False))


def engine(network: Path, dtype: str) -> Engine:
    run = optgraph.compile(network, "triton", dtype).runtime
    assert isinstance(run, Engine)
    return run


@pytest.mark.parametrize("dtype", STORAGE)
def test_agrees_with_onnx_runtime_region_by_region(network: Path, dtype: str) -> None:
    """Within twice what rounding alone does, by our own arithmetic: that is up to nine tenths of a dtype's own bound
    for Xception, and another order of sums rounds otherwise. What is further off is a wrong kernel."""
    net = optgraph.compile(network, "triton", dtype)
    found = verify_net(net, network, batch=2, seed=1)
    assert found.ok, found.reason
    assert net.plan(2).fallbacks == ()


@pytest.mark.parametrize("batch", [1, 8])
def test_a_replay_is_what_the_launches_are_one_by_one(network: Path, batch: int) -> None:
    first, second = (random_images(batch, seed).cuda() for seed in (1, 2))
    assert replay_differs(engine(network, "fp16"), first, second) == []


def test_bound_buffers_are_what_calls_give(network: Path) -> None:
    net = optgraph.compile(network, "triton", "fp16")
    assert bound_differs(net, random_images(2, seed=1).cuda(), random_images(2, seed=2).cuda()) == []


def test_two_threads_on_one_net(network: Path) -> None:
    assert threads_differ(engine(network, "fp16"), [random_images(2, seed).cuda() for seed in range(6)]) == []


def test_one_artifact_serves_every_batch_and_compiles_nothing(network: Path, tmp_path: Path) -> None:
    """Cold: a fresh process, an empty cache; what the artifact does not bring would be left in the cache."""
    artifact, feed, cache = tmp_path / "net.optgraph", tmp_path / "images.pt", tmp_path / "cache"
    command = [sys.executable, "-m", "optgraph", "compile", network, "-o", artifact, "--dtype", "fp16"]
    subprocess.run([*command, "--batch", "1,8,64", "--target", target_of(CUDA)], check=True, cwd=record.ROOT)
    x = random_images(max(BATCHES), 1)
    torch.save(x, feed)
    run = subprocess.run(
        [sys.executable, "-c", FROM_ARTIFACT, artifact, feed, *map(str, BATCHES)],
        cwd=record.ROOT,
        env=os.environ | {"TRITON_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert [path for path in cache.rglob("*") if path.suffix in (".cubin", ".safetensors")] == []
    net = optgraph.compile(network, "triton", "fp16")
    whole, bound = net(x), predicted(net, x[:2])
    assert isinstance(whole, torch.Tensor)
    for batch in BATCHES:
        found = torch.load(f"{artifact}.{batch}")
        apart = (found - whole[:batch]).norm() / whole[:batch].norm()
        assert apart <= bound, f"batch {batch}: {apart:.1e} of {bound:.1e}"
