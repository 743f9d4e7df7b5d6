"""Beam search against an exhaustive search and against plain Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.decoding import beam_search, greedy_search
from tests.decoding.toy import Toy, strip

MAX_LENGTH = 4
ALL_SEQUENCES = 121  # 1 + 3 + 9 + 27 that end, and 81 that are cut


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0, 2.0])
def test_with_enough_beams_it_is_exhaustive(penalty):
    toy = Toy(seed=1)
    output = toy.run(beam_search, max_length=MAX_LENGTH, num_beams=ALL_SEQUENCES, length_penalty=penalty)
    for example in range(3):
        expected = toy.exhaustive(example, MAX_LENGTH, penalty)
        assert len(expected) == ALL_SEQUENCES
        assert strip(output.tokens[example]) == expected[0].tokens
        assert int(output.lengths[example]) == len(expected[0].tokens)
        np.testing.assert_allclose(output.log_probabilities[example], expected[0].log_probability, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(output.scores[example], [found.score for found in expected], rtol=1e-5, atol=1e-6)
        assert {strip(beam) for beam in output.beams[example]} == {found.tokens for found in expected}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("num_beams", "penalty"), [(2, 1.0), (3, 0.0), (5, 1.3)])
def test_it_equals_a_plain_beam_search(seed, num_beams, penalty):
    toy = Toy(seed=seed)
    output = toy.run(beam_search, max_length=7, num_beams=num_beams, length_penalty=penalty)
    for example in range(3):
        expected = toy.slow_beam_search(example, 7, num_beams, penalty)
        assert [strip(beam) for beam in output.beams[example]] == [found.tokens for found in expected]
        np.testing.assert_allclose(output.scores[example], [found.score for found in expected], rtol=1e-5, atol=1e-6)


def test_one_beam_is_greedy_search():
    toy = Toy(batch=7, seed=2)
    beam = toy.run(beam_search, max_length=7, num_beams=1)
    greedy = toy.run(greedy_search, max_length=7)
    np.testing.assert_array_equal(beam.tokens, greedy.tokens)
    np.testing.assert_array_equal(beam.lengths, greedy.lengths)
    np.testing.assert_allclose(beam.log_probabilities, greedy.log_probabilities, rtol=1e-6)


def test_more_beams_never_score_worse_than_all_of_them_and_beat_greedy_somewhere():
    best = []
    for seed in range(4):
        toy = Toy(seed=seed, sharpness=1.0)
        settings = {"max_length": MAX_LENGTH, "length_penalty": 0.0}
        best.append(
            [toy.run(beam_search, num_beams=number, **settings).scores[:, 0] for number in (1, 3, ALL_SEQUENCES)]
        )
    greedy, some, all_of_them = np.moveaxis(np.array(best), 1, 0)
    assert (all_of_them >= some - 1e-6).all() and (all_of_them >= greedy - 1e-6).all()
    assert (some > greedy + 1e-3).any()


def test_the_carry_follows_its_beam():
    toy = Toy(seed=5)

    def step(carry, tokens):
        # each row writes what it is told, and its score depends on all that it wrote
        position, written = carry
        written = written.at[:, position].set(tokens)
        _, logits = toy.step({"before": tokens, "said": jnp.zeros((tokens.size, 5)), "position": position}, tokens)
        return (position + 1, written), logits + 0.1 * jnp.sin(written.sum(1, keepdims=True) * jnp.arange(7))

    output = beam_search(step, (jnp.int32(0), jnp.zeros((3, 5), jnp.int32)), batch=3, max_length=5, num_beams=3)
    replay = jax.jit(step)
    for example in range(3):
        total, written = 0.0, [1]
        for token in strip(output.tokens[example]):
            tokens = jnp.full(3, written[-1])
            carry = (jnp.int32(len(written) - 1), jnp.array([[*written[:-1], *[0] * (6 - len(written))]] * 3)[:, :5])
            _, logits = replay(carry, tokens)
            logits = jnp.where(jnp.isin(jnp.arange(7), jnp.array([0, 1, 3])), -jnp.inf, logits)
            total += float(jax.nn.log_softmax(logits[example])[token])
            written.append(token)
        np.testing.assert_allclose(output.log_probabilities[example], total, rtol=1e-5, atol=1e-6)


def test_fewer_sequences_than_beams_leave_the_rest_at_minus_infinity():
    step = lambda carry, tokens: (carry, jnp.tile(jnp.array([0.0, 0, 1, 0, 2]), (tokens.size, 1)))  # noqa: E731
    output = beam_search(step, (), batch=2, max_length=2, num_beams=5)
    # "end", "4 end", "4 4"
    assert np.isfinite(output.scores).sum(1).tolist() == [3, 3]
    assert np.isneginf(output.scores[:, 3:]).all()
    assert not np.isnan(output.scores).any()


def test_the_length_penalty_prefers_short_or_long_captions():
    toy = Toy()
    short, long = (toy.run(beam_search, max_length=7, num_beams=3, length_penalty=penalty) for penalty in (0.0, 3.0))
    assert (long.lengths >= short.lengths).all() and (long.lengths > short.lengths).any()


def test_num_beams_must_be_positive():
    with pytest.raises(ValueError, match=r"num_beams must be at least 1; got 0. 1 is greedy search"):
        beam_search(Toy().step, Toy().carry(), batch=3, max_length=5, num_beams=0)
