"""One net, several sizes: each equals ONNX Runtime, compiled, on demand and from a file."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from safetensors import safe_open
from safetensors.numpy import save_file

import optgraph
from optgraph import ArtifactError, Budget, InputError, ModelError
from optgraph.ahead.build import find_all_uses, find_uses
from optgraph.api import sizes as by_size
from optgraph.base.devices import SM_90
from optgraph.passes import pipeline
from optgraph.run.engine import Engine
from tests.support.open_sizes import answer, detector, image, made

SIZES = [(16, 16), (12, 20)]
ODD = (13, 17)  # SAME_UPPER pads otherwise


@pytest.fixture
def net() -> optgraph.Net:
    return optgraph.compile(detector(), "torch", sizes=SIZES)


def close(net: optgraph.Net, size: tuple[int, int], batch: int = 1) -> None:
    x = image(batch, 3, *size)
    np.testing.assert_allclose(net(x), answer(detector(), x=x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "interpret"])
def test_every_size_is_right_on_every_backend(backend: str) -> None:
    net = optgraph.compile(detector(), backend, sizes=SIZES)
    assert net.sizes == ((16, 16), (12, 20)) and net.size == (16, 16)
    for size in [*SIZES, ODD, SIZES[0]]:
        close(net, size, batch=2)


def test_it_says_its_sizes(net: optgraph.Net) -> None:
    assert repr(net) == "<Net open: x: float32 [N, 3, 16, 16], sizes 16x16, 12x20 or any other; fp32 on torch>"
    assert net.inputs["x"].shape == ("N", 3, 16, 16) and net.at(12, 20).inputs["x"].shape == ("N", 3, 12, 20)
    assert net.at(12, 20).outputs["y"].shape == ("N", 2, 6, 10)
    assert net.at(12, 20).plan(2).inputs["x"].shape[2:] == (12, 20)


def test_nets_of_all_sizes_are_one(net: optgraph.Net) -> None:
    other = net.at(12, 20)
    assert net.at(12, 20) is other and other.at(16, 16) is net and other.sizes == net.sizes
    assert torch.equal(other(torch.from_numpy(image(1, 3, 16, 16))), net(torch.from_numpy(image(1, 3, 16, 16))))
    shared = [a is other.fused.constants[name] for name, a in net.fused.constants.items()]
    assert shared and all(shared)
    on_demand = net.at(*ODD)
    assert all(a is on_demand.fused.constants[name] for name, a in net.fused.constants.items())


def test_kernels_pack_equal_weights_once() -> None:
    net = optgraph.compile(detector(), "interpret", sizes=SIZES)
    runs = [net.runtime, net.at(12, 20).runtime]
    for size in SIZES:
        close(net, size)
    packed = []
    for run in runs:
        assert isinstance(run, Engine)
        packed.append({key: tensor for key, tensor in run._weights._packed.items() if "resize._table" not in key})
    assert packed[0] and packed[0].keys() == packed[1].keys()
    assert all(packed[0][key] is packed[1][key] for key in packed[0])


def test_a_few_sizes_made_on_demand_are_kept(net: optgraph.Net, monkeypatch) -> None:
    monkeypatch.setattr(by_size, "KEPT", 2)
    first, second = net.at(8, 8), net.at(8, 10)
    assert net.at(8, 8) is first  # used last now
    net.at(8, 12)
    assert net.at(8, 8) is first and net.at(8, 10) is not second
    assert net.at(12, 20) is net.at(12, 20)  # compiled for: it stays


def test_threads_make_a_size_once(net: optgraph.Net) -> None:
    found: list[optgraph.Net] = []
    threads = [threading.Thread(target=lambda: found.append(net.at(8, 14))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(map(id, found))) == 1


def test_the_model_may_change_afterwards() -> None:
    model = detector()
    net = optgraph.compile(model, "torch", sizes=SIZES)
    del model.graph.node[:]
    close(net, ODD)


def test_what_does_not_fit_is_said_before_anything_is_made(net: optgraph.Net, monkeypatch) -> None:
    monkeypatch.setattr(net._by_size, "get", None)
    for bad in (image(1, 3, 9), image(1, 4, 9, 9), image(1, 3, 9, 9).astype(np.float64), [1.0], image(1, 3, 0, 9)):
        with pytest.raises(InputError, match=r"input 'x' expects float32 of shape \[N, 3, H, W\], got"):
            net(bad)


def test_a_size_that_the_network_cannot_have() -> None:
    nodes = [
        helper.make_node("AveragePool", ["x"], ["p"], "pool", kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Reshape", ["p", "to"], ["y"], "flat"),
    ]
    model = made(nodes, {"x": ("n", 3, "h", "w")}, to=np.array([-1, 12]))
    net = optgraph.compile(model, "torch", sizes=[(16, 16)])
    with pytest.raises(InputError, match=r"cannot be had at 24x24: node 'flat'.*; it was compiled at 16x16$"):
        net(image(1, 3, 24, 24))
    with pytest.raises(ModelError, match=r"^at 24x24: node 'flat'"):
        optgraph.compile(model, "torch", sizes=[(16, 16), (24, 24)])
    pool = helper.make_node("AveragePool", ["x"], ["y"], "pool", kernel_shape=[8, 8], strides=[2, 2])
    with pytest.raises(InputError, match=r"cannot be had at 4x4: .*pool"):
        optgraph.compile(made([pool], {"x": ("n", 3, "h", "w")}), "torch", sizes=[(16, 16)])(image(1, 3, 4, 4))


def test_hostile_sizes() -> None:
    for size in [(0, 16), (-1, 16), (16, 2.5)]:
        with pytest.raises(InputError, match="is no size"):
            optgraph.compile(detector(), "torch", sizes=[size])
    with pytest.raises(ModelError, match=r"over the budget.*--budget arena_bytes="):
        optgraph.compile(detector(), "torch", sizes=[(10**9, 10**9)])
    small = optgraph.compile(detector(), "torch", sizes=SIZES, budget=Budget(arena_bytes=10**5))
    with pytest.raises(InputError, match=r"cannot be had at 400x400: .*over the budget"):
        small(image(1, 3, 400, 400))
    with pytest.raises(InputError, match="is no size"):
        small.at(0, -5)


def test_one_size_has_no_others() -> None:
    net = optgraph.compile(detector(("n", 3, 16, 16)), "torch")
    assert net.sizes == () and net.size is None and "sizes" not in repr(net)
    with pytest.raises(InputError, match="the network has the one size of its inputs"):
        net.at(8, 8)
    with pytest.raises(InputError, match="sizes are for a model that leaves"):
        optgraph.compile(detector(("n", 3, 16, 16)), "torch", sizes=[(16, 16)])
    fixed = optgraph.compile(detector(), "torch", input_shape=(None, 3, 16, 16))
    with pytest.raises(InputError, match=r"expects float32 of shape \[N, 3, 16, 16\]"):
        fixed(image(1, 3, *ODD))


def test_two_images_of_one_size() -> None:
    nodes = [helper.make_node("Sub", ["a", "b"], ["d"], "sub"), helper.make_node("Relu", ["d"], ["y"], "relu")]
    model = made(nodes, {"a": ("n", 3, "h", "w"), "b": ("n", 3, "h", "w")})
    net = optgraph.compile(model, "torch", sizes=[(8, 8)])
    a, b = image(1, 3, 9, 5), image(1, 3, 9, 5, seed=1)
    assert np.array_equal(net({"a": a, "b": b}), np.maximum(a - b, 0))
    with pytest.raises(InputError, match=r"input 'b' expects float32 of shape \[N, 3, 9, 5\], got \[1, 3, 8, 8\]"):
        net({"a": a, "b": image(1, 3, 8, 8)})


def test_strict_holds_on_demand() -> None:
    nodes = [helper.make_node("Atan", ["x"], ["y"], "atan")]
    model = made(nodes, {"x": ("n", 3, "h", "w")})
    with pytest.raises(ModelError, match="have no kernel"):
        optgraph.compile(model, "torch", sizes=[(8, 8)], strict=True)


def test_kernels_are_compiled_ahead_for_all_sizes_and_once(net: optgraph.Net) -> None:
    plans = [net.plans, net.at(12, 20).plans]
    each = [{use.key for use in find_uses(one, [1], [SM_90])} for one in plans]
    both = [use.key for use in find_all_uses(plans, [1], [SM_90])]
    assert set(both) == each[0] | each[1] and len(both) == len(set(both)) < len(each[0]) + len(each[1])


# ---- files


def test_a_file_has_the_sizes_it_was_compiled_at(net: optgraph.Net, tmp_path: Path) -> None:
    net.at(*ODD)
    net.at(12, 20).save(tmp_path / "net.optgraph")  # whichever of them
    back = optgraph.load(tmp_path / "net.optgraph", "torch")
    assert back.sizes == ((16, 16), (12, 20)) and back.size == (16, 16)
    assert repr(back).startswith("<Net open: x: float32 [N, 3, 16, 16], sizes 16x16, 12x20;")
    for size in SIZES:
        close(back, size)
    refused = r"of 13x17: .* at 16x16, 12x20 and no other: add 13x17 to --sizes .*--any-size"
    with pytest.raises(InputError, match=refused):
        back(image(1, 3, *ODD))
    with pytest.raises(InputError, match="needs the ONNX model"):
        back.save(tmp_path / "more.optgraph", any_size=True)
    for size in SIZES:
        assert back.at(*size).source == net.at(*size).source


def test_equal_weights_are_in_a_file_once(net: optgraph.Net, tmp_path: Path) -> None:
    one = optgraph.compile(detector(), "torch", input_shape=(None, 3, 16, 16))
    one.save(tmp_path / "one.optgraph")
    net.save(tmp_path / "two.optgraph")
    count = []
    for name in ("one", "two"):
        with safe_open(tmp_path / f"{name}.optgraph", framework="numpy") as file:
            count.append(len(list(file.keys())))
            assert file.metadata()["format"] == {"one": "2", "two": "3"}[name]  # older programs read what they can
    assert count[1] <= count[0]
    back = optgraph.load(tmp_path / "two.optgraph", "torch")
    other = back.at(12, 20).fused.constants
    assert all(array is other[name] for name, array in back.fused.constants.items())


def test_a_file_of_any_size(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(detector(("n", "c", "h", "w")), path)
    net = optgraph.compile(path, "torch", input_shape=(None, 3, None, None), sizes=SIZES)
    net.save(tmp_path / "net.optgraph", any_size=True)
    path.write_bytes(b"")  # it is not needed
    for _ in range(2):
        back = optgraph.load(tmp_path / "net.optgraph", "torch")
        assert repr(back) == repr(net)
        for size in [*SIZES, ODD]:
            close(back, size)
        assert back.at(*ODD).source == net.at(*ODD).source
        back.save(tmp_path / "net.optgraph", any_size=True)


def test_any_size_of_a_network_that_was_cut_off(tmp_path: Path) -> None:
    net = optgraph.compile(detector(), "torch", sizes=SIZES, outputs=["sum"])
    net.save(tmp_path / "net.optgraph", any_size=True)
    x = image(1, 3, *ODD)
    assert np.array_equal(optgraph.load(tmp_path / "net.optgraph", "torch")(x), net(x))


def test_any_size_is_for_what_a_file_can_say(tmp_path: Path) -> None:
    own = optgraph.compile(detector(), "torch", sizes=SIZES, fuse_passes=pipeline.FUSE[:1])
    with pytest.raises(InputError, match="by the standard passes"):
        own.save(tmp_path / "net.optgraph", any_size=True)
    with pytest.raises(InputError, match="any_size is for a net that was compiled with sizes"):
        optgraph.compile(detector(("n", 3, 9, 9)), "torch").save(tmp_path / "net.optgraph", any_size=True)
    assert not list(tmp_path.iterdir())


def change(key: str, value: object):
    return lambda sized: sized.__setitem__(key, value)


def test_random_damage_never_passes_for_a_network(net: optgraph.Net, tmp_path: Path) -> None:
    path = tmp_path / "net.optgraph"
    net.save(path, any_size=True)
    good, rng = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(150):
        data = bytearray(good)
        for _ in range(rng.choice((1, 3, 50))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            optgraph.load(path, "torch").at(*ODD)
        except (ArtifactError, InputError):
            refused += 1
    assert refused > 120  # the rest changed a name, a count or nothing


DAMAGE = {
    "axes that are none": change("axes", [0, 3]),
    "axes that are text": change("axes", "12"),
    "an input that is not there": change("input", "z"),
    "an input that is a list": change("input", ["x"]),
    "another size": change("size", [16, 17]),
    "no size": change("size", [0, 16]),
    "one size too many": change("size", [12, 20]),
    "another network": lambda sized: sized["others"][0].update(size=[20, 12]),
    "others that are none": change("others", {"a": 1}),
    "an array too far": lambda sized: sized["others"][0]["weights"].update(w=999),
    "an array before the first": lambda sized: sized["others"][0]["weights"].update(w=-1),
    "a weight of another shape": lambda sized: sized["others"][0]["weights"].update(
        dict.fromkeys(sized["others"][0]["weights"], 0)
    ),
    "a model that is a weight": lambda sized: sized["original"].update(model=0),
    "a model that is not there": lambda sized: sized["original"].update(model=True),
    "shapes that are none": lambda sized: sized["original"].update(input_shape={"x": ["many"]}),
    "nothing": lambda sized: sized.clear(),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_line_of_error(name: str, net: optgraph.Net, tmp_path: Path) -> None:
    path = tmp_path / "net.optgraph"
    net.save(path, any_size=True)
    with safe_open(path, framework="numpy") as file:
        metadata, tensors = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    sized = json.loads(metadata["sized"])
    DAMAGE[name](sized)
    save_file(tensors, path, metadata | {"sized": json.dumps(sized)})
    with pytest.raises(ArtifactError) as caught:
        optgraph.load(path, "torch")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
