"""The formulas of costs with three modalities, and how operations are counted; with two see tests/contracts."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from tests.contracts.costs import FORMULAS, count_operations, measure, sizes_of
from tests.contracts.parameters import draw_variables
from tests.fusion.test_references import MODULES, THREE, name_of


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_costs_of_three_modalities_equal_the_closed_formula(module: nn.Module) -> None:
    variables = draw_variables(module, THREE)
    assert measure(module, variables, THREE) == FORMULAS[type(module)](module, sizes_of(THREE))


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
