"""Attention: numbers by hand, weights, and queries that see nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import ops


def random(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), jnp.float32)


def test_numbers_by_hand():
    # products 0 and log 3, so weights 1/4 and 3/4
    query, key = jnp.ones((1, 1, 1)), jnp.log(jnp.array([1.0, 3.0])).reshape(2, 1, 1)
    output = ops.attention(query, key, jnp.array([4.0, 8.0]).reshape(2, 1, 1), return_weights=True)
    np.testing.assert_allclose(output.weights.ravel(), [0.25, 0.75], rtol=1e-6)
    np.testing.assert_allclose(output.values.ravel(), [7.0], rtol=1e-6)


def test_scale_defaults_to_the_root_of_head_dim():
    query, key, value = random(2, 3, 1, 5), random(2, 7, 1, 5), random(2, 7, 1, 5)
    np.testing.assert_array_equal(
        ops.attention(query, key, value).values, ops.attention(query, key, value, scale=5**-0.5).values
    )
    doubled = ops.attention(2 * query, key, value, scale=0.5 * 5**-0.5).values
    np.testing.assert_allclose(doubled, ops.attention(query, key, value).values, rtol=1e-5)


@pytest.mark.parametrize("implementation", ["xla", "fused"])
def test_a_query_that_sees_nothing_reads_zeros_and_passes_no_gradient(implementation):
    query, key, value = random(1, 2, 1, 3), random(1, 5, 1, 3), random(1, 5, 1, 3)
    mask = jnp.array([True, False])[:, None] & jnp.ones((2, 5), bool)

    def attend(query, key, value):
        return ops.attention(query, key, value, mask=mask, implementation=implementation).values

    values, pull_back = jax.vjp(attend, query, key, value)
    np.testing.assert_array_equal(values[:, 1], jnp.zeros((1, 1, 3)))
    for gradient in pull_back(jnp.zeros_like(values).at[:, 1].set(1.0)):
        np.testing.assert_array_equal(gradient, jnp.zeros_like(gradient))
    assert np.isfinite(values).all()


def test_weights_sum_to_one_or_zero_and_stay_float32():
    query, key = random(2, 3, 1, 5).astype(jnp.bfloat16), random(2, 7, 1, 5).astype(jnp.bfloat16)
    mask = jnp.arange(7) < jnp.array([7, 0])[:, None]
    output = ops.attention(query, key, key, mask=mask[:, None, None], return_weights=True)
    assert (output.values.dtype, output.weights.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(output.weights.sum(-1)[:, 0], [[1, 1, 1], [0, 0, 0]], rtol=1e-6)


def test_any_batch_axes_and_values_of_another_width():
    query, key, value = random(2, 3, 5, 2, 7), random(2, 3, 11, 2, 7), random(2, 3, 11, 2, 13)
    output = ops.attention(query, key, value, return_weights=True)
    assert (output.values.shape, output.weights.shape) == ((2, 3, 5, 2, 13), (2, 3, 2, 5, 11))
    np.testing.assert_allclose(output.values[1], ops.attention(query[1], key[1], value[1]).values, rtol=1e-5, atol=1e-6)


def test_additive_numbers_by_hand():
    # energies atanh-free: tanh(0) = 0 and tanh(1) * log(3) / tanh(1) = log 3
    keys, energy = jnp.array([[0.0], [1.0]]), jnp.log(jnp.array([3.0])) / jnp.tanh(1.0)
    output = ops.additive_attention(jnp.zeros((1, 1)), keys, jnp.array([[4.0], [8.0]]), energy)
    np.testing.assert_allclose(output.weights, [[0.25, 0.75]], rtol=1e-6)
    np.testing.assert_allclose(output.values, [[7.0]], rtol=1e-6)
