"""Every implementation of every operation keeps the same contract."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.ops.cases import CASES

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def assert_close(actual, expected, tolerance=5e-5):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), actual, expected)


def with_gradients(function):
    """Makes a function of the outputs and the gradients for all arguments; each output entry weighs another."""

    def differentiate(*arguments):
        outputs, pull_back = jax.vjp(function, *arguments)
        return outputs, pull_back(jax.tree.map(cotangent, outputs))

    def cotangent(leaf):
        return jnp.cos(jnp.arange(leaf.size).reshape(leaf.shape)).astype(jnp.bfloat16).astype(leaf.dtype)

    return differentiate


@cache
def compiled(case):
    """Outputs and gradients, traced and compiled once for all tests."""
    return jax.jit(with_gradients(case.call))


@cache
def results(case):
    return compiled(case)(*case.arguments())


@every_case
def test_values_and_gradients_equal_the_reference(case):
    assert_close(results(case), jax.jit(with_gradients(case.reference))(*case.arguments()))


@pytest.mark.slow
@every_case
def test_eager_equals_jit(case):
    assert_close(case.call(*case.arguments()), results(case)[0], 2e-6)


@pytest.mark.slow
@every_case
def test_vmap_equals_single_calls(case):
    pairs = tuple(jnp.stack([argument, argument]) for argument in case.arguments())
    scales = jnp.array([1.0, 0.5])
    mapped = jax.jit(jax.vmap(with_gradients(lambda scale, *given: case.call(scale * given[0], *given[1:]))))(
        scales, *pairs
    )
    assert_close(jax.tree.map(lambda leaf: leaf[0], mapped[0]), results(case)[0])
    assert_close(jax.tree.map(lambda leaf: leaf[0], mapped[1][1:]), results(case)[1])
    first, *rest = case.arguments()
    assert_close(jax.tree.map(lambda leaf: leaf[1], mapped[0]), compiled(case)(0.5 * first, *rest)[0])


@pytest.mark.parametrize("case", [case for case in CASES if case.takes_bfloat16], ids=lambda case: case.name)
@pytest.mark.slow
def test_bfloat16_stays_bfloat16_and_close(case):
    arguments = [argument.astype(jnp.bfloat16) for argument in case.arguments()]
    values, derivatives = compiled(case)(*arguments)
    assert jax.tree.leaves(values)[0].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in derivatives} == {jnp.dtype(jnp.bfloat16)}
    for actual, expected in zip(jax.tree.leaves((values, derivatives)), jax.tree.leaves(results(case)), strict=True):
        error = jnp.abs(actual.astype(jnp.float32) - expected).max()
        assert float(error) < 0.05 * float(jnp.abs(expected).max())


@every_case
def test_sharded_jit_equals_one_device(case):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    specs = [PartitionSpec("data") if index < case.batched else PartitionSpec() for index in range(len(case.shapes))]
    placed = jax.device_put(case.arguments(), tuple(NamedSharding(mesh, spec) for spec in specs))
    assert len(placed[0].sharding.device_set) == 8
    for _ in range(2):  # the second use meets the compiled program
        assert_close(compiled(case)(*placed), results(case))
