"""Open height and width: which input is the image, and what shapes a size gives all inputs."""

from __future__ import annotations

import pytest
from onnx import helper

from optgraph.base.errors import InputError, ModelError
from optgraph.onnx.read import read
from optgraph.onnx.sizes import OpenImage, checked_sizes, open_image, shapes_at
from tests.support.open_sizes import made

N = None


def model(**inputs):
    first = next(iter(inputs))
    return made([helper.make_node("Relu", [first], ["y"], "relu")], inputs)


@pytest.mark.parametrize(
    ("shape", "axes", "at"),
    [
        (("n", 3, "h", "w"), (2, 3), [N, 3, 20, 30]),
        ((1, 3, "h", "w"), (2, 3), [1, 3, 20, 30]),
        (("n", 64, "h", "w"), (2, 3), [N, 64, 20, 30]),
        (("n", "h", "w", 3), (1, 2), [N, 20, 30, 3]),
        (("n", "h", "w", 64), (1, 2), [N, 20, 30, 64]),
        (("n", 20, "w", 3), (1, 2), [N, 20, 30, 3]),
        (("n", 3, 20, "w"), (2, 3), [N, 3, 20, 30]),
        (("?", 3, "?", "?"), (2, 3), [N, 3, 20, 30]),  # as some exporters write what has no name
        ((-1, 3, -1, -1), (2, 3), [N, 3, 20, 30]),
        (("n", 3, "size", "size"), (2, 3), [N, 3, 20, 30]),
    ],
)
def test_the_image_is_the_input_of_rank_4_with_open_sizes(shape, axes, at) -> None:
    found = open_image(model(x=shape))
    assert found == OpenImage("x", axes)
    assert shapes_at(model(x=shape), None, found, (20, 30)) == {"x": at}
    assert found.size([2 if d is N else d for d in at]) == (20, 30)


def test_the_first_open_image_counts_not_the_first_input() -> None:
    both = model(scale=("n", 2), thumb=("n", 3, 8, 8), x=("n", 3, "h", "w"))
    assert open_image(both) == OpenImage("x", (2, 3))
    shapes = shapes_at(both, None, open_image(both), (20, 30))
    assert shapes == {"scale": [N, 2], "thumb": [N, 3, 8, 8], "x": [N, 3, 20, 30]}


def test_inputs_share_a_size_by_its_names() -> None:
    several = model(
        x=("n", 3, "h", "w"), other=("n", 3, "h", "w"), mask=("n", "h", "w"), grid=("n", "w", "h", 2), row=("n", "w")
    )
    assert shapes_at(several, None, open_image(several), (20, 30)) == {
        "x": [N, 3, 20, 30],
        "other": [N, 3, 20, 30],
        "mask": [N, 20, 30],
        "grid": [N, 30, 20, 2],
        "row": [N, 30],
    }


def test_an_image_of_a_size_of_its_own_is_refused() -> None:
    for other in (("n", 3, "h2", "w2"), ("n", 3, "h", "w2"), ("n", 3, "?", "?")):
        two = model(x=("n", 3, "h", "w"), b=other)
        option = r"--input-shape b=N,3,(20|H),W, with numbers for (H and )?W$"
        with pytest.raises(InputError, match=r"input 'b' .* too.*" + option):
            shapes_at(two, None, open_image(two), (20, 30))
    unnamed = model(x=("n", 3, "?", "?"), b=("n", 3, "?", "?"))
    with pytest.raises(InputError, match="input 'b'"):
        shapes_at(unnamed, None, open_image(unnamed), (20, 30))
    given = {"b": [N, 3, 9, 9]}
    shapes = shapes_at(unnamed, given, open_image(unnamed, given), (20, 30))
    assert shapes == {"x": [N, 3, 20, 30], "b": [N, 3, 9, 9]}


def test_what_is_given_stays_and_the_rest_is_open() -> None:
    dynamic = model(x=("n", "c", "h", "w"))
    given = [4, 3, N, N]
    assert shapes_at(dynamic, given, open_image(dynamic, given), (20, 30)) == {"x": [4, 3, 20, 30]}
    shapeless = made([helper.make_node("Relu", ["x"], ["y"], "relu")], {"x": ()})
    shapeless.graph.input[0].type.tensor_type.ClearField("shape")
    given = [N, 3, N, N]
    assert shapes_at(shapeless, given, open_image(shapeless, given), (20, 30)) == {"x": [N, 3, 20, 30]}


def test_models_without_an_open_image_are_refused() -> None:
    for shape, given in [(("n", 3, 8, 8), N), (("n", 100), N), (("n", "t"), N), (("n", 3, "h", "w"), [N, 3, 8, 8])]:
        with pytest.raises(InputError, match=r"sizes are for a model that leaves .* open.*'x' is N,"):
            open_image(model(x=shape), given)


def test_sizes_that_are_none() -> None:
    assert checked_sizes([(4, 5), (5, 4), (4, 5)]) == ((4, 5), (5, 4))
    for bad in [(0, 5), (5, -1), (5,), (1, 2, 3), (2.0, 3)]:
        with pytest.raises(InputError, match="is no size"):
            checked_sizes([bad])
    half = model(x=("n", 3, 48, "w"))
    with pytest.raises(InputError, match="32x320 does not fit input 'x', which has a height of 48"):
        shapes_at(half, None, open_image(half), (32, 320))


def test_open_channels_are_to_be_given() -> None:
    for shape, example in [(("n", "c", "h", "w"), r"N,3,\?,\?"), ((1, "c", "h", "w"), r"1,3,\?,\?")]:
        dynamic = model(x=shape)
        with pytest.raises(InputError, match=rf"leaves its channels open: .* --input-shape {example}$"):
            shapes_at(dynamic, None, open_image(dynamic), (20, 30))


def test_an_open_image_is_told_of_sizes() -> None:
    for shape in (("n", 3, "h", "w"), ("n", 3, 48, "w"), ("n", "h", "w", 3)):
        with pytest.raises(ModelError, match=r"--input-shape N,.*, or with --sizes$"):
            read(model(x=shape))
    for shape in (("n", "c", "h", "w"), ("n", "c", 8, 8), ("n", 3, "t")):
        with pytest.raises(ModelError, match=r"--input-shape N,[\w,]*, with numbers for [^-]*$"):
            read(model(x=shape))
