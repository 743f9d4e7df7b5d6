"""Recurrent operations: padding, steps, states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import ops

GATES = {"lstm": 4, "gru": 3, "elman": 1}


def random(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), jnp.float32)


def parameters(name):
    width = GATES[name] * 5
    return (random(3, width), random(5, width), random(width), *[random(width + 1)[1:]] * (name == "gru"))


def run(name, inputs, **options):
    return getattr(ops, name)(inputs, *parameters(name), **options)


def assert_close(actual, expected):
    jax.tree.map(lambda left, right: np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6), actual, expected)


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("reverse", [False, True])
def test_padding_changes_nothing(name, reverse):
    inputs = random(2, 7, 3)
    alone = run(name, inputs[:, :5], reverse=reverse)
    padded = run(name, inputs, mask=jnp.arange(7) < jnp.array([[5], [5]]), reverse=reverse)
    assert_close(padded.final_state, alone.final_state)
    assert_close(padded.outputs[:, :5], alone.outputs)
    assert_close(padded.outputs[:, 5:], jnp.zeros((2, 2, 5)))


@pytest.mark.parametrize("name", GATES)
def test_padding_has_no_gradient(name):
    mask = jnp.arange(7) < jnp.array([[5], [2]])
    gradient = jax.grad(lambda inputs: run(name, inputs, mask=mask).outputs.sum())(random(2, 7, 3))
    assert bool((jnp.abs(gradient).sum(-1) > 0).tolist() == mask.tolist())


@pytest.mark.parametrize("name", GATES)
def test_steps_give_the_scan(name):
    inputs = random(2, 7, 3)
    output = run(name, inputs)
    zeros = jnp.zeros((2, 5))
    state = ops.LSTMState(zeros, zeros) if name == "lstm" else zeros
    for index in range(7):
        state = getattr(ops, f"{name}_step")(state, inputs[:, index], *parameters(name))
        assert_close(output.outputs[:, index], state.hidden if name == "lstm" else state)
    assert_close(output.final_state, state)


@pytest.mark.parametrize("name", GATES)
def test_a_sequence_may_be_cut_in_two(name):
    inputs = random(2, 7, 3)
    first = run(name, inputs[:, :4])
    assert_close(run(name, inputs[:, 4:], initial_state=first.final_state).final_state, run(name, inputs).final_state)


@pytest.mark.parametrize("name", GATES)
def test_mixed_dtypes_compute_in_the_common_one(name):
    narrow = [array.astype(jnp.bfloat16) for array in (random(2, 7, 3), *parameters(name))]
    narrow[2] = narrow[2].astype(jnp.float32)  # the recurrent kernel alone
    assert getattr(ops, name)(*narrow).outputs.dtype == jnp.float32


def test_elman_by_hand_with_relu():
    # h = relu(x * 2 + h * 3 + 1): 3, then relu(-4 + 9 + 1) = 6, then relu(-40 + 18 + 1) = 0
    inputs = jnp.array([1.0, -2.0, -20.0]).reshape(1, 3, 1)
    output = ops.elman(inputs, jnp.array([[2.0]]), jnp.array([[3.0]]), jnp.array([1.0]), activation="relu")
    np.testing.assert_array_equal(output.outputs.ravel(), [3.0, 6.0, 0.0])
