"""Sampling: distributions, exact cuts, reproducibility."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.decoding import greedy_search, sample
from fusionjax.decoding.sampling import draw_tokens
from tests.decoding.toy import Toy

DRAWS = 20_011


def frequencies(logits, seed=0, **settings):
    rows = jnp.tile(jnp.asarray(logits, jnp.float32), (DRAWS, 1))
    drawn = jax.jit(draw_tokens, static_argnames="top_k")(jax.random.key(seed), rows, **settings)
    assert drawn.dtype == jnp.int32
    return np.bincount(drawn, minlength=len(logits)) / DRAWS


def assert_frequencies(found, expected):
    """Within five standard deviations, and exactly zero where nothing may be drawn."""
    assert (found[expected == 0] == 0).all()
    assert (np.abs(found - expected) <= 5 * np.sqrt(expected * (1 - expected) / DRAWS) + 1e-12).all()


@pytest.mark.parametrize("vocab_size", [2, 16, 101])
def test_draws_follow_the_softmax(vocab_size):
    logits = np.random.default_rng(vocab_size).normal(size=vocab_size) * 2
    logits[1::3] = -np.inf
    expected = np.exp(logits) / np.exp(logits).sum()
    assert_frequencies(frequencies(logits), expected)


@pytest.mark.parametrize("temperature", [0.3, 2.5])
def test_temperature_divides_the_logits(temperature):
    logits = np.array([-np.inf, -np.inf, 0.3, -np.inf, 1.0, -0.7, 0.1])
    step = lambda carry, tokens: (carry, jnp.tile(jnp.asarray(logits, jnp.float32), (tokens.size, 1)))  # noqa: E731
    output = sample(step, (), jax.random.key(3), batch=DRAWS, max_length=1, temperature=temperature)
    expected = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    assert_frequencies(np.bincount(output.tokens[:, 0], minlength=7) / DRAWS, expected)
    # whatever the temperature, the model's own log-probability
    own = logits - np.log(np.exp(logits).sum())
    np.testing.assert_allclose(output.log_probabilities, own[output.tokens[:, 0]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("top_k", [1, 3, 99])
def test_top_k_keeps_exactly_k(top_k):
    logits = np.random.default_rng(8).permutation(11) * 0.2
    kept = np.argsort(-logits)[:top_k]
    expected = np.zeros(11)
    expected[kept] = np.exp(logits[kept]) / np.exp(logits[kept]).sum()
    found = frequencies(logits, top_k=top_k)
    assert_frequencies(found, expected)
    assert (found[kept] > 0).all()


@pytest.mark.parametrize("top_p", [0.01, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("top_k", [None, 7])
def test_top_p_keeps_the_fewest_likeliest(top_p, top_k):
    logits = np.random.default_rng(9).normal(size=13)
    order = np.argsort(-logits)[:top_k]
    probabilities = np.exp(logits[order]) / np.exp(logits[order]).sum()
    count = int(np.searchsorted(np.cumsum(probabilities), min(top_p, 1 - 1e-6))) + 1
    expected = np.zeros(13)
    expected[order[:count]] = probabilities[:count] / probabilities[:count].sum()
    found = frequencies(logits, top_p=top_p, top_k=top_k)
    assert_frequencies(found, expected)
    assert (found[order[:count]] > 0).all()


def test_top_k_of_one_is_greedy_search():
    toy = Toy(batch=5)
    drawn = toy.run(sample, jax.random.key(0), max_length=7, top_k=1)
    greedy = toy.run(greedy_search, max_length=7)
    for one, other in zip(drawn, greedy, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_key_decides():
    toy = Toy(batch=13, sharpness=0.1)
    first, again, other = (toy.run(sample, jax.random.key(seed), max_length=7).tokens for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (np.asarray(first) != np.asarray(other)).any()


def test_steps_and_rows_are_independent():
    step = lambda carry, tokens: (carry, jnp.tile(jnp.array([0.0, 0, -50, 0, 1, 1]), (tokens.size, 1)))  # noqa: E731
    output = sample(step, (), jax.random.key(4), batch=997, max_length=11)
    is_four = np.asarray(output.tokens) == 4
    # between neighbouring steps, and between neighbouring rows, agreement is a coin's
    assert abs((is_four[:, 1:] == is_four[:, :-1]).mean() - 0.5) < 0.03
    assert abs((is_four[1:] == is_four[:-1]).mean() - 0.5) < 0.03


def test_temperature_goes_from_greedy_to_anything_and_may_be_traced():
    toy = Toy(batch=7)
    cold, hot = (
        toy.run(sample, jax.random.key(0), max_length=7, temperature=temperature, top_p=1.0).tokens
        for temperature in (1e-3, 50.0)
    )
    greedy = toy.run(greedy_search, max_length=7).tokens
    np.testing.assert_array_equal(cold, greedy)
    assert (np.asarray(hot) != np.asarray(greedy)).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0; got 0.0. For the likeliest words use greedy_search"),
        ({"temperature": -1.0}, "temperature must be above 0; got -1.0"),
        ({"top_k": 0}, "top_k must be at least 1; got 0. Pass None"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\]; got 0.0. Pass None"),
        ({"top_p": 1.5}, r"top_p must lie in \(0, 1\]; got 1.5"),
    ],
)
def test_settings_out_of_range(settings, message):
    toy = Toy()
    with pytest.raises(ValueError, match=message):
        sample(toy.step, toy.carry(), jax.random.key(0), batch=3, max_length=2, **settings)
