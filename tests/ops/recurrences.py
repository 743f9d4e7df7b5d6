"""What the tests of recurrences share: random weights, inputs and states, calls with gradients, and masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import ops

GATES = {"lstm": 4, "gru": 3, "elman": 1}
every_cell = pytest.mark.parametrize("name", GATES)


def draw(name, batch, length, inputs, features, seed=0):
    """Returns the weights, the inputs and the initial state, and cotangents of the outputs and the final state."""
    generator, width = np.random.default_rng(seed), GATES[name] * features

    def array(*shape):
        return jnp.asarray(generator.normal(size=shape), jnp.float32)

    biases = [array(width) for _ in range(2 if name == "gru" else 1)]
    weights = (array(inputs, width) / inputs**0.5, array(features, width) / features**0.5, *biases)
    states, cotangents = ([array(batch, features) for _ in range(2 if name == "lstm" else 1)] for _ in range(2))
    state, of_state = (ops.LSTMState(*pair) if name == "lstm" else pair[0] for pair in (states, cotangents))
    return (weights, array(batch, length, inputs), state), (array(batch, length, features), of_state)


def run(name, weights, inputs, initial_state, *, time_major=False, **options):
    inputs = inputs.swapaxes(0, 1) if time_major else inputs
    output = getattr(ops, name)(inputs, *weights, initial_state=initial_state, time_major=time_major, **options)
    return output.outputs.swapaxes(0, 1) if time_major else output.outputs, output.final_state


def values_and_gradients(name, arguments, cotangents, **options):
    @jax.jit
    def differentiate(arguments, cotangents):
        values, pull_back = jax.vjp(lambda arguments: run(name, *arguments, **options), arguments)
        return values, pull_back(cotangents)

    return differentiate(arguments, cotangents)


def assert_close(actual, expected, tolerance=1e-5):
    """Compares array by array, by the length of the difference."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for left, right in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert left.shape == right.shape
        error = jnp.linalg.norm((left.astype(jnp.float32) - right).ravel())
        assert float(error) <= tolerance * float(jnp.linalg.norm(right.ravel())) + 1e-12


def make_mask(kind, batch, length):
    if kind is None:
        return None
    if kind == "trailing":
        return jnp.arange(length) < jnp.arange(batch)[:, None] % (length + 1)
    mask = np.random.default_rng(5).random((batch, length)) < 0.6
    mask[0] = False  # a row that keeps nothing
    return jnp.asarray(mask)
