"""The table of an architecture, both ways, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.errors import InputError
from fusionjax.pretrained import layouts
from fusionjax.pretrained.rows import Row, batch_norm_rows, conv_rows, dense_rows, tensors_from, variables_from
from tests.pretrained.tables import shapes_of

RNG = np.random.default_rng(0)
ROWS = [
    *conv_rows("stem", "conv1", has_bias=True),
    *batch_norm_rows("norm", "bn1"),
    *dense_rows("head", "fc", layout=layouts.after_flatten(5, 2, 3)),
    Row(tuple(f"params/{one}/kernel" for one in "qkv"), "attn.in_proj", layouts.split(3, layouts.DENSE)),
    Row(("params/class_token",), "cls", layouts.reshaped((7,), (1, 1, 7))),
]
SHAPES = {
    "conv1.weight": (5, 2, 3, 4),
    "conv1.bias": (5,),
    **{f"bn1.{name}": (5,) for name in ("weight", "bias", "running_mean", "running_var")},
    "fc.weight": (11, 30),
    "fc.bias": (11,),
    "attn.in_proj": (21, 13),
    "cls": (1, 1, 7),
}
TENSORS = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
STRUCT = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731
EXPECTED = {
    "params": {
        "stem": {"kernel": STRUCT(3, 4, 2, 5), "bias": STRUCT(5)},
        "norm": {"scale": STRUCT(5), "bias": STRUCT(5)},
        "head": {"kernel": STRUCT(30, 11), "bias": STRUCT(11)},
        **{one: {"kernel": STRUCT(13, 7)} for one in "qkv"},
        "class_token": STRUCT(7),
    },
    "batch_stats": {"norm": {"mean": STRUCT(5), "var": STRUCT(5)}},
}


def convert(tensors: dict[str, np.ndarray], **options) -> dict:
    return variables_from(ROWS, shapes_of(tensors), tensors.__getitem__, EXPECTED, source="w", **options)


def test_every_layout_against_what_it_means() -> None:
    variables = convert(TENSORS)
    params = variables["params"]
    assert params["stem"]["kernel"][2, 3, 1, 4] == TENSORS["conv1.weight"][4, 1, 2, 3]
    np.testing.assert_array_equal(variables["batch_stats"]["norm"]["var"], TENSORS["bn1.running_var"])
    # PyTorch flattens [channels, height, width]; ours is [height, width, channels].
    grid = RNG.normal(size=(2, 3, 5)).astype(np.float32)
    theirs = TENSORS["fc.weight"] @ grid.transpose(2, 0, 1).ravel()
    np.testing.assert_allclose(grid.ravel() @ params["head"]["kernel"], theirs, rtol=1e-5)
    inputs = RNG.normal(size=13).astype(np.float32)
    joined = np.concatenate([inputs @ params[one]["kernel"] for one in "qkv"])
    np.testing.assert_allclose(joined, TENSORS["attn.in_proj"] @ inputs, rtol=1e-5)
    assert params["class_token"].shape == (7,)


def test_the_way_back_is_exact_and_contiguous() -> None:
    back = dict(tensors_from(ROWS, convert(TENSORS)))
    assert list(back) == [row.theirs for row in ROWS]
    for name, tensor in back.items():
        np.testing.assert_array_equal(tensor, TENSORS[name])
        assert tensor.flags.c_contiguous


def test_dtypes_are_those_expected_and_places_are_used() -> None:
    expected = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), EXPECTED)
    seen: dict[str, tuple[int, ...]] = {}

    def place(path: str, value: np.ndarray) -> np.ndarray:
        seen[path] = value.shape
        return value

    doubles = {name: tensor.astype(np.float64) for name, tensor in TENSORS.items()}
    variables = variables_from(ROWS, shapes_of(doubles), doubles.__getitem__, expected, place=place)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.bfloat16)}
    assert seen["params/head/kernel"] == (30, 11) and len(seen) == 12


def test_names_that_do_not_fit_are_told() -> None:
    fewer = {name: tensor for name, tensor in TENSORS.items() if name not in ("cls", "fc.bias")}
    message = r"w must have the 10 tensors of the architecture; missing: cls, fc.bias; unexpected: mean. Name another"
    with pytest.raises(InputError, match=message):
        convert({**fewer, "mean": TENSORS["cls"]})
    many = {f"x{place}": TENSORS["cls"] for place in range(7)}
    with pytest.raises(InputError, match=r"missing: none; unexpected: x0, x1, x2, x3, x4 and 2 more. Name another"):
        convert({**TENSORS, **many})
    ignored = convert({**TENSORS, "bn1.num_batches_tracked": np.array(3)}, is_ignored=lambda name: "num_" in name)
    assert ignored["params"]["class_token"].shape == (7,)


@pytest.mark.parametrize("name", ["attn.in_proj", "fc.weight", "conv1.weight", "cls"])
def test_shapes_that_do_not_fit_are_told_in_the_terms_of_the_file(name: str) -> None:
    shape = SHAPES[name]
    other = np.zeros((shape[0] + 1, *shape[1:]), np.float32)
    message = rf"w: {name} must have shape \[{', '.join(map(str, shape))}\]; got \[{shape[0] + 1}.*Name another arch"
    with pytest.raises(InputError, match=message):
        variables_from(ROWS, shapes_of({**TENSORS, name: other}), lambda name: pytest.fail(name), EXPECTED, source="w")


def test_whole_numbers_are_refused() -> None:
    message = r"w: fc.bias must hold floating-point numbers; got int8. Give the weights as they were trained"
    with pytest.raises(InputError, match=message):
        convert({**TENSORS, "fc.bias": np.zeros(11, np.int8)})


def test_variables_of_another_model_are_refused() -> None:
    variables = convert(TENSORS)
    del variables["params"]["stem"]["bias"]
    with pytest.raises(
        InputError, match=r"the variables must have the 12 .*missing: params/stem/bias; unexpected: none"
    ):
        list(tensors_from(ROWS, variables))


def test_a_table_that_does_not_name_everything_is_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"the rows must name every variable .*differ in params/class_token. Mend the"):
        variables_from(ROWS[:-1], shapes_of(TENSORS), TENSORS.__getitem__, EXPECTED)
