"""Policy gradient: on a vocabulary so small that every sentence can be listed."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.losses import leave_one_out, policy_gradient

VOCAB, LENGTH = 3, 2
SENTENCES = jnp.array(list(itertools.product(range(VOCAB), repeat=LENGTH)), jnp.int32)
REWARDS = jax.random.normal(jax.random.key(5), (len(SENTENCES),))
PARAMS = jax.random.normal(jax.random.key(7), (LENGTH, VOCAB))


def probabilities(params: jax.Array) -> jax.Array:
    chosen = jax.nn.log_softmax(params)[jnp.arange(LENGTH), SENTENCES]
    return jnp.exp(chosen.sum(1))


@pytest.mark.parametrize("baseline", [0.0, 2.7])
def test_expected_gradient_is_that_of_the_expected_reward(baseline: float) -> None:
    """Each sentence as often as it is probable: the sum is exact, and no baseline changes it."""
    exact = jax.grad(lambda params: probabilities(params) @ REWARDS)(PARAMS)
    weights = probabilities(PARAMS) * (REWARDS - baseline)

    def loss(params: jax.Array) -> jax.Array:
        logits = jnp.broadcast_to(params, (len(SENTENCES), LENGTH, VOCAB))
        return policy_gradient(logits, SENTENCES, weights, mask=jnp.ones(SENTENCES.shape, bool)).total

    np.testing.assert_allclose(jax.grad(loss)(PARAMS), -exact, rtol=1e-5, atol=1e-6)
    assert float(jnp.abs(exact).max()) > 0.01


def test_masked_words_have_no_part() -> None:
    logits = jax.random.normal(jax.random.key(2), (5, LENGTH, VOCAB), jnp.bfloat16)
    tokens, advantages = SENTENCES[:5], jnp.array([0.3, -1.0, 2.0, 0.0, 0.7])
    mask = jnp.array([[True, True], [True, False], [False, False], [True, True], [True, False]])

    def total(logits: jax.Array) -> jax.Array:
        return policy_gradient(logits, tokens, advantages, mask=mask).total

    loss = policy_gradient(logits, tokens, advantages, mask=mask)
    scores = np.asarray(jax.nn.log_softmax(logits.astype(jnp.float32)))
    expected = -sum(
        float(advantages[row]) * scores[row, place, int(tokens[row, place])] for row, place in np.argwhere(mask)
    )
    assert (loss.total.dtype, float(loss.weight)) == (jnp.float32, 6.0)
    np.testing.assert_allclose(loss.total, expected, rtol=1e-5)
    gradient = np.asarray(jax.grad(total)(logits), np.float32)
    assert not gradient[~np.asarray(mask)].any()
    assert not gradient[3].any()
    assert gradient[0].any()


def test_advantages_are_constants() -> None:
    def total(advantages: jax.Array) -> jax.Array:
        logits = jnp.broadcast_to(PARAMS, (len(SENTENCES), LENGTH, VOCAB))
        return policy_gradient(logits, SENTENCES, advantages, mask=jnp.ones(SENTENCES.shape, bool)).total

    assert not np.asarray(jax.grad(total)(REWARDS)).any()


def test_leave_one_out_by_hand() -> None:
    rewards = jnp.array([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0]])
    np.testing.assert_allclose(leave_one_out(rewards), [[1 - 4, 2 - 3.5, 6 - 1.5], [0, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(leave_one_out(jnp.array([[4.0, 1.0]])), [[3.0, -3.0]])


def test_leave_one_out_needs_another() -> None:
    with pytest.raises(ValueError, match=r"needs two samples of each example or more; got 1\. Draw more"):
        leave_one_out(jnp.ones((3, 1)))
