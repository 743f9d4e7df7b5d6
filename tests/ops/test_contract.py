"""Every implementation of every operation keeps the same contract."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.ops.cases import CASES

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def close(actual, expected, tolerance=2e-5):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), actual, expected)


def weighted_sum(outputs):
    """A number whose derivative differs for every entry of every output."""
    return sum(jnp.sum(leaf * jnp.cos(jnp.arange(leaf.size).reshape(leaf.shape))) for leaf in jax.tree.leaves(outputs))


def gradients(function, arguments):
    return jax.jit(jax.grad(lambda *given: weighted_sum(function(*given)), tuple(range(len(arguments)))))(*arguments)


@every_case
def test_values_equal_the_reference(case):
    arguments = case.arguments()
    close(case.call(*arguments), case.reference(*arguments))


@every_case
def test_gradients_equal_the_reference(case):
    arguments = case.arguments()
    close(gradients(case.call, arguments), gradients(case.reference, arguments), 5e-5)


@every_case
def test_jit_equals_eager(case):
    arguments = case.arguments()
    close(jax.jit(case.call)(*arguments), case.call(*arguments), 1e-6)


@every_case
def test_vmap_equals_a_loop_with_gradients(case):
    arguments = case.arguments()
    pairs = tuple(jnp.stack([argument, 0.5 * argument[::-1]]) for argument in arguments)

    def call_and_differentiate(*given):
        return case.call(*given), jax.grad(lambda *inner: weighted_sum(case.call(*inner)), len(given) - 1)(*given)

    mapped = jax.jit(jax.vmap(call_and_differentiate))(*pairs)
    for index in range(2):
        alone = jax.jit(call_and_differentiate)(*(pair[index] for pair in pairs))
        close(jax.tree.map(lambda leaf, index=index: leaf[index], mapped), alone)


@every_case
def test_bfloat16_stays_bfloat16_and_close(case):
    arguments = [argument.astype(jnp.bfloat16) for argument in case.arguments()]
    precise = [argument.astype(jnp.float32) for argument in arguments]
    values, derivatives = case.call(*arguments), gradients(case.call, arguments)
    assert jax.tree.leaves(values)[0].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in derivatives} == {jnp.dtype(jnp.bfloat16)}
    for actual, expected in zip(
        jax.tree.leaves((values, derivatives)),
        jax.tree.leaves((case.call(*precise), gradients(case.call, precise))),
        strict=True,
    ):
        scale = float(jnp.abs(expected).max())
        assert float(jnp.abs(actual.astype(jnp.float32) - expected).max()) < 0.05 * scale


@every_case
def test_sharded_jit_equals_one_device(case):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    arguments = case.arguments()
    placed = [
        jax.device_put(argument, NamedSharding(mesh, PartitionSpec("data") if index < case.batched else PartitionSpec()))
        for index, argument in enumerate(arguments)
    ]
    assert len(placed[0].sharding.device_set) == 8
    for _ in range(2):  # the second use meets the compiled program
        close((jax.jit(case.call)(*placed), gradients(case.call, placed)), (case.call(*arguments), gradients(case.call, arguments)))
