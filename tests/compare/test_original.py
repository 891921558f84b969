"""What a network is compared with: the model it came from, and no other."""

import pytest

from optgraph.api import compiling
from optgraph.base.errors import InputError
from optgraph.compare.verify import verify
from optgraph.onnx.write import save_onnx
from tests.support.networks import inception_a, xception


def saved(graph, folder):
    path = folder / "model.onnx"
    save_onnx(graph, path)
    return path


def test_an_artifact_is_held_against_its_original(tmp_path):
    path = saved(xception(), tmp_path)
    artifact = tmp_path / "compiled.optgraph"
    compiling.compile(path, "torch").save(artifact)
    assert verify(artifact, "torch") == verify(path, "torch")
    moved = path.rename(tmp_path / "elsewhere.onnx")
    with pytest.raises(InputError, match=r"model\.onnx: no such file: give the \.onnx"):
        verify(artifact, "torch")
    assert verify(artifact, "torch", original=moved).ok
    other = saved(inception_a(), tmp_path)
    with pytest.raises(InputError, match="SHA-256 differs"):
        verify(artifact, "torch", original=other)


def test_an_onnx_file_has_no_other_original(tmp_path):
    path = saved(xception(), tmp_path)
    with pytest.raises(InputError, match="its own original"):
        verify(path, "torch", original=path)
