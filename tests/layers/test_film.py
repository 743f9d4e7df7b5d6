"""Feature-wise linear modulation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import layers

# Two conditions of size 2 for three features: gamma, then beta.
KERNEL = np.array([[1, 0, -1, 10, 0, 0], [0, 2, 0, 0, 20, 30]], np.float32)
BIAS = np.array([0, 0.5, 0, 0, 0, -1], np.float32)
PARAMS = {"params": {"dense": {"kernel": KERNEL, "bias": BIAS}}}
CONDITION = jnp.array([[1.0, 0.0], [0.0, 1.0]])


def test_hand_computed() -> None:
    values = jnp.array([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]])
    modulated = layers.FiLM().apply(PARAMS, values, CONDITION)
    # gamma = (1, 0.5, -1) and beta = (10, 0, -1) for the first, (0, 2.5, 0) and (0, 20, 29) for the second
    expected = [[[12, 3, -1], [18, 7.5, -1]], [[1, 27, 32], [0, 20, 29]]]
    np.testing.assert_allclose(modulated, expected, rtol=1e-6)


def test_all_places_of_an_example_are_modulated_alike() -> None:
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 7, 3)), jnp.float32)
    modulated = layers.FiLM().apply(PARAMS, images, CONDITION)
    flat = layers.FiLM().apply(PARAMS, images.reshape(2, 35, 3), CONDITION)
    np.testing.assert_array_equal(modulated.reshape(2, 35, 3), flat)
    np.testing.assert_array_equal(layers.FiLM().apply(PARAMS, images[:, 3, 2], CONDITION), modulated[:, 3, 2])


def test_no_condition_and_no_bias_change_nothing() -> None:
    values, layer = jnp.arange(12.0).reshape(2, 2, 3), layers.FiLM()
    variables = jax.jit(layer.init)(jax.random.key(0), values, CONDITION)
    np.testing.assert_array_equal(layer.apply(variables, values, jnp.zeros((2, 2))), values)


def test_gradients_by_hand() -> None:
    values = jnp.array([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [[7.0, 8.0, 9.0], [0.0, 1.0, 0.0]]])

    def total(variables, values, condition):
        return layers.FiLM().apply(variables, values, condition).sum()

    params, scales, condition = jax.grad(total, argnums=(0, 1, 2))(PARAMS, values, CONDITION)
    np.testing.assert_allclose(scales[:, 0], [[2, 1.5, 0], [1, 3.5, 1]], rtol=1e-6)
    # of gamma the sum of the values over the places, of beta the number of places
    sums = [[5, 7, 9, 2, 2, 2], [7, 9, 9, 2, 2, 2]]
    np.testing.assert_allclose(params["params"]["dense"]["kernel"], sums, rtol=1e-6)
    np.testing.assert_allclose(params["params"]["dense"]["bias"], np.sum(sums, axis=0), rtol=1e-6)
    np.testing.assert_allclose(condition, sums @ KERNEL.T, rtol=1e-6)


def test_batches_that_differ_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^values and condition must have the same batch size; got 4 and 2\. Repeat the condition for"
    ):
        layers.FiLM().init(jax.random.key(0), jnp.ones((4, 5, 3)), CONDITION)
