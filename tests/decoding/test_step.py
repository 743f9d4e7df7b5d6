"""What all searches share: checks of the step function, compilation, scalars in the carry, early stop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.decoding import beam_search, greedy_search, sample
from tests.decoding.toy import Toy

SEARCHES = {
    "greedy": greedy_search,
    "sample": lambda step, carry, **settings: sample(step, carry, jax.random.key(5), **settings),
    "beam": lambda step, carry, **settings: beam_search(step, carry, num_beams=3, **settings),
}
each_search = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)


@each_search
def test_jit_equals_eager_and_compiles_once_per_shape(search):
    toy = Toy()
    jitted = jax.jit(lambda carry: search(toy.step, carry, batch=toy.batch, max_length=5))
    first = jitted(toy.carry())
    traces = toy.traces
    for _ in range(3):
        again = jitted(toy.carry())
    assert toy.traces == traces and jitted._cache_size() == 1
    eager = search(toy.step, toy.carry(), batch=toy.batch, max_length=5)
    for one, other, third in zip(first, again, eager, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_allclose(one, third, rtol=1e-6)


@each_search
def test_it_stops_when_all_have_ended(search):
    steps = []

    def step(carry, tokens):
        jax.debug.callback(lambda: steps.append(1))
        # says 4, then the end, whatever happens
        wanted = jnp.where(carry == 0, 4, 2)
        return carry + 1, jnp.where(jnp.arange(5) == wanted[:, None], 0.0, -1e9)

    output = search(step, jnp.zeros(2, jnp.int32), batch=2, max_length=50)
    jax.effects_barrier()
    assert output.tokens[:, :3].tolist() == [[4, 2, 0]] * 2
    assert output.lengths.tolist() == [2, 2]
    # beam search also has to see its worse beams end
    assert len(steps) <= (2 if search is not SEARCHES["beam"] else 4)


@each_search
def test_a_row_that_has_ended_stays_as_it_is(search):
    def step(carry, tokens):
        rows = jnp.arange(tokens.size) // (tokens.size // 2)
        wanted = jnp.where(carry >= jnp.array([0, 3])[rows], 2, 4)
        return carry + 1, jnp.where(jnp.arange(5) == wanted[:, None], 3.0, 0.0)

    # temperature and beams may differ, so compare with what the rows themselves say
    output = search(step, jnp.zeros(2, jnp.int32), batch=2, max_length=7)
    for tokens, length in zip(np.asarray(output.tokens), np.asarray(output.lengths), strict=True):
        assert (tokens[:length] != 0).all() and (tokens[length:] == 0).all()
        assert 2 not in tokens[: length - 1] and (length == 7 or tokens[length - 1] == 2)


@each_search
def test_log_probabilities_equal_rescoring(search):
    toy = Toy(seed=3)
    output = toy.run(search, max_length=5)
    for example in range(toy.batch):
        tokens = tuple(output.tokens[example].tolist()[: int(output.lengths[example])])
        assert float(output.log_probabilities[example]) == pytest.approx(toy.log_probability(example, tokens), abs=1e-5)


@each_search
def test_bfloat16_logits_are_summed_in_float32(search):
    toy = Toy(seed=4)

    def step(carry, tokens):
        carry, logits = toy.step(carry, tokens)
        return carry, logits.astype(jnp.bfloat16)

    output = search(step, toy.carry(), batch=toy.batch, max_length=5)
    toy.table = toy.table.astype(jnp.bfloat16).astype(np.float32)
    expected = toy.run(search, max_length=5)
    assert output.log_probabilities.dtype == jnp.float32
    np.testing.assert_array_equal(output.tokens, expected.tokens)
    np.testing.assert_allclose(output.log_probabilities, expected.log_probabilities, rtol=1e-6)


@each_search
def test_banned_tokens_and_others_for_start_and_end(search):
    logits = jnp.array([9.0, 8.0, 1.0, 7.0, 2.0, 6.0])
    output = search(
        lambda carry, tokens: (carry, jnp.tile(logits, (tokens.size, 1))),
        (),
        batch=2,
        max_length=11,
        start_token=3,
        end_token=4,
        banned_tokens=(0, 1, 5),
    )
    assert set(np.unique(output.tokens)) <= {0, 2, 3, 4}
    assert not set(np.unique(output.tokens[0][: output.lengths[0]])) & {0, 1, 5}


@each_search
def test_the_first_step_receives_the_start_token(search):
    def step(carry, tokens):
        return carry, jnp.where(tokens[:, None] == 6, jnp.eye(7)[4], jnp.eye(7)[2]) * 1e4

    output = search(step, (), batch=1, max_length=3, start_token=6)
    assert output.tokens.tolist() == [[4, 2, 0]]


def broken(**changes):
    toy = Toy()
    settings = {"batch": 3, "max_length": 5, "step": toy.step, "carry": toy.carry()} | changes
    return settings.pop("step"), settings.pop("carry"), settings


BROKEN = {
    "batch": (broken(batch=0), ValueError, "batch must be at least 1; got 0"),
    "max_length": (broken(max_length=0), ValueError, "max_length must be at least 1; got 0"),
    "rows": (broken(batch=4), ValueError, r"leading axis of batch = 4; got \(3,\) at carry\['before'\]"),
    "logits": (
        broken(step=lambda carry, tokens: (carry, jnp.zeros((3, 2, 7)))),
        ValueError,
        r"logits \[rows, vocab_size\] with 3 rows; got \(3, 2, 7\)",
    ),
    "start": (broken(start_token=7), ValueError, r"start_token must lie in \[0, vocab_size\) = \[0, 7\); got 7"),
    "end": (broken(end_token=-1), ValueError, r"end_token must lie in \[0, vocab_size\) = \[0, 7\); got -1"),
    "banned": (broken(banned_tokens=(0, 9)), ValueError, "banned token must lie .*; got 9"),
    "banned end": (broken(banned_tokens=(0, 2)), ValueError, r"end_token 2 must not be banned; got .*\(0, 2\)"),
    "structure": (
        broken(step=lambda carry, tokens: ((), jnp.zeros((3, 7)))),
        TypeError,
        "carry of the structure it received, .*; got .*Return the new state",
    ),
    "dtype": (
        broken(carry=jnp.zeros(3), step=lambda carry, tokens: (carry.astype(jnp.int32), jnp.zeros((3, 7)))),
        TypeError,
        r"keep the shape and dtype of carry, \(3,\) float32; got \(3,\) int32",
    ),
}


@each_search
@pytest.mark.parametrize(("arguments", "error", "message"), BROKEN.values(), ids=BROKEN)
def test_errors_name_the_value_and_the_fix(search, arguments, error, message):
    step, carry, settings = arguments
    with pytest.raises(error, match=message):
        search(step, carry, **settings)
