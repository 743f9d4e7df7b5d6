"""The published sizes: parameters and multiply-adds equal what is published; how they are counted."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from fusionjax.errors import InputError
from fusionjax.ops.implementations import only_references
from fusionjax.pretrained import PUBLISHED, Published, count_multiply_adds, count_parameters, find_published
from fusionjax.pretrained.counting import count_operations
from fusionjax.pretrained.published_sizes import table_row
from tests.pretrained.tables import expected_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "weights.md"


def count_normalised(published: Published) -> int:
    """The numbers that convolutions give, each of which batch normalisation takes, and of the last grid."""
    model, example = published.architecture.build(published.sizes), published.example()
    with only_references():
        program = jax.make_jaxpr(model.apply)(expected_of(published.architecture, published.sizes), *example)
    equations = [one for one in program.jaxpr.eqns if one.primitive.name == "conv_general_dilated"]
    sizes = [math.prod(one.outvars[0].aval.shape) for one in equations]
    return 2 * sum(sizes) + sizes[-1]


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda one: one.name)
def test_counts_are_those_published(published: Published) -> None:
    assert table_row(published) in DOCUMENT.read_text("utf-8")
    assert count_parameters(published) == published.parameters
    if published.giga is None:
        return
    count = published.per_multiply_add * count_multiply_adds(published)
    # timm's profiler counts a product and a sum for each number that is normalised, and one that is averaged as a sum.
    count += count_normalised(published) if published.source == "timm" else 0
    digits = len(published.giga.partition(".")[2])
    assert abs(count / 1e9 - float(published.giga)) <= 0.5001 * 10**-digits


def test_names_are_distinct_and_others_are_refused() -> None:
    assert len({one.name for one in PUBLISHED}) == len(PUBLISHED)
    message = r"the published size must be one of alexnet, .*; got 'resnet51'. Choose one."
    with pytest.raises(InputError, match=message):
        find_published("resnet51")


def test_operations_are_counted_in_all_that_a_program_calls() -> None:
    def compute(left: jax.Array, right: jax.Array, images: jax.Array, kernel: jax.Array) -> jax.Array:
        def step(carry: jax.Array, row: jax.Array) -> tuple[jax.Array, jax.Array]:
            return carry, row @ right

        # 5 steps of 2 x 3 x 7, then the larger of nothing and 5 x 3 x 7, then 2 x 4 x 6 outputs of 3 x 3 x 2 inputs.
        _, products = jax.lax.scan(step, jnp.zeros(()), jnp.stack([left[:2]] * 5))
        chosen = jax.lax.cond(left[0, 0] > 0, jax.jit(lambda: left @ right), lambda: jnp.zeros((5, 7)))
        dimensions = ("NHWC", "HWIO", "NHWC")
        convolved = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=dimensions)
        return products.sum() + chosen.sum() + convolved.sum()

    shapes = [(5, 3), (3, 7), (1, 2, 4, 2), (3, 3, 2, 6)]
    program = jax.make_jaxpr(compute)(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
    assert count_operations(program.jaxpr) == 2 * (5 * 2 * 3 * 7 + 5 * 3 * 7 + 2 * 4 * 6 * 3 * 3 * 2)


def test_a_loop_of_unknown_length_cannot_be_counted() -> None:
    def compute(square: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda one: one[0, 0] < 9, lambda one: one @ one, square)

    program = jax.make_jaxpr(compute)(jax.ShapeDtypeStruct((3, 3), jnp.float32))
    with pytest.raises(ValueError, match="the operations of a while loop cannot be counted, since the number of its"):
        count_operations(program.jaxpr)
