"""Greedy search against plain Python."""

import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.decoding import greedy_search
from tests.decoding.toy import END, Toy, strip


@pytest.mark.parametrize("seed", range(5))
def test_it_takes_the_likeliest_token_of_each_step(seed):
    toy = Toy(batch=5, seed=seed)
    output = toy.run(greedy_search, max_length=7)
    assert output.tokens.shape == (5, 7) and output.tokens.dtype == jnp.int32
    for example in range(5):
        tokens = ()
        while len(tokens) < 7 and tokens[-1:] != (END,):
            gains = toy.next_log_probabilities(example, tokens)
            tokens = (*tokens, max(gains, key=gains.get))
        assert strip(output.tokens[example]) == tokens
        assert int(output.lengths[example]) == len(tokens)
        np.testing.assert_allclose(
            output.log_probabilities[example], toy.log_probability(example, tokens), rtol=1e-5, atol=1e-6
        )


def test_of_equal_logits_the_lowest_allowed_token_is_taken():
    output = greedy_search(lambda carry, tokens: (carry, jnp.zeros((1, 7))), (), batch=1, max_length=3)
    assert output.tokens.tolist() == [[2, 0, 0]]
    np.testing.assert_allclose(output.log_probabilities, [-np.log(4)], rtol=1e-6)
