"""Multi-head attention, its caches, and the Transformer block that is made of it."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import layers
from tests.contracts.parameters import draw_variables, run


def random(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), jnp.float32)


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunks", [(1, 1, 1, 1, 1), (2, 3), (5,)])
def test_decoding_in_chunks_equals_the_causal_whole(chunks):
    block = layers.TransformerBlock(2, features=6, is_causal=True, use_cross_attention=True)
    tokens, memory = random(3, 5, 6), random(3, 7, 11)
    variables = draw_variables(block, tokens, memory)
    projected = run(block, variables, memory, method="project_memory")
    cache, parts, start = block.init_cache(3, 7), [], 0
    for chunk in chunks:
        output = run(block, variables, tokens[:, start : start + chunk], memory_projected=projected, cache=cache)
        cache, start = output.cache, start + chunk
        parts.append(output.tokens)
    assert_close(jnp.concatenate(parts, 1), run(block, variables, tokens, memory).tokens)
    np.testing.assert_array_equal(cache.index, [5, 5, 5])


@pytest.mark.slow
def test_rows_of_a_cache_may_stand_at_different_places():
    model, tokens = layers.MultiHeadAttention(2, 6), random(2, 5, 6)
    variables = draw_variables(model, tokens)
    whole = run(model, variables, tokens, is_causal=True).values
    caches = [
        run(model, variables, tokens[row : row + 1, :held], cache=model.init_cache(1, 5)).cache
        for row, held in enumerate((1, 3))
    ]
    cache = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *caches)
    following = jnp.stack([tokens[0, 1:2], tokens[1, 3:4]])
    values = run(model, variables, following, cache=cache).values
    assert_close(values[:, 0], jnp.stack([whole[0, 1], whole[1, 3]]))


def test_a_mask_holds_with_a_cache_too():
    model, tokens = layers.MultiHeadAttention(2, 6), random(2, 5, 6)
    variables = draw_variables(model, tokens)
    mask = jnp.array([[True, True, False, True, True], [False, True, True, True, True]])
    whole = run(model, variables, tokens, mask=mask, is_causal=True).values
    assert_close(run(model, variables, tokens, mask=mask, cache=model.init_cache(2, 5)).values, whole)


@pytest.mark.parametrize("per_query", [False, True])
@pytest.mark.slow
def test_projected_memory_serves_several_rows_each(per_query):
    model, queries, memory = layers.MultiHeadAttention(2, 6), random(6, 3, 6), random(2, 7, 11)
    variables = draw_variables(model, queries[:2], memory)
    mask = jnp.asarray(np.random.default_rng(0).random((6, 1, 3, 7) if per_query else (2, 7)) > 0.3)
    projected = run(model, variables, memory, method="project")
    options = {"mask": mask, "return_weights": True}
    shared = run(model, variables, queries, keys_values_projected=projected, **options)
    options["mask"] = mask if per_query else jnp.repeat(mask, 3, axis=0)
    repeated = run(model, variables, queries, jnp.repeat(memory, 3, axis=0), **options)
    assert_close(shared.values, repeated.values)
    assert_close(shared.weights, repeated.weights)


@pytest.mark.parametrize("is_uniform", [False, True])
@pytest.mark.slow
def test_beams_that_share_a_cache_read_what_moved_caches_hold(is_uniform):
    model, tokens = layers.MultiHeadAttention(2, 6), random(5, 6, 3, 6)
    variables = draw_variables(model, tokens[0])
    mask = jnp.asarray(np.random.default_rng(0).random((6, 11)) > 0.3)
    step = functools.partial(run, model, variables, mask=mask, return_weights=True)
    # Two examples with a token each, then three beams of each; two more tokens a step.
    cache = model.init_cache(2, 11, is_uniform=is_uniform)
    cache = run(model, variables, tokens[0, :2, :1], cache=cache).cache
    shared, moved = cache.repeat_rows(3), jax.tree.map(lambda leaf: jnp.repeat(leaf, 3, axis=0), cache)
    for parents, following in zip(
        [[[0, 1, 2], [2, 2, 0]], [[1, 1, 0], [2, 0, 1]], [[2, 2, 1], [0, 0, 0]]], tokens[1:4], strict=True
    ):
        shared, moved = step(following[:, :2], cache=shared), step(following[:, :2], cache=moved)
        assert_close(shared.values, moved.values)
        assert_close(shared.weights, moved.weights)
        rows = (jnp.array([[0], [3]]) + jnp.array(parents)).reshape(-1)
        shared = shared.cache.follow_rows(jnp.array(parents))
        moved = jax.tree.map(lambda leaf, rows=rows: leaf[rows], moved.cache)
    assert shared.key.shape == (2, 2, 33, 3) and moved.key.shape == (6, 2, 11, 3)
    np.testing.assert_array_equal(shared.index, moved.index)


def test_causal_attention_ignores_what_follows():
    model, tokens = layers.MultiHeadAttention(2), random(2, 5, 6)
    variables = draw_variables(model, tokens)
    values = run(model, variables, tokens, is_causal=True).values
    changed = run(model, variables, tokens.at[:, 3:].add(1.0), is_causal=True).values
    assert_close(values[:, :3], changed[:, :3])
    assert float(jnp.abs(values[:, 3:] - changed[:, 3:]).min()) > 0


def test_weights_of_the_block_are_of_the_cross_attention_if_there_is_one():
    tokens, memory = random(3, 5, 6), random(3, 7, 11)
    for use_cross_attention, keys in ((False, 5), (True, 7)):
        block = layers.TransformerBlock(2, use_cross_attention=use_cross_attention)
        given = (tokens, memory) if use_cross_attention else (tokens,)
        output = run(block, draw_variables(block, *given), *given, return_weights=True)
        assert output.weights.shape == (3, 2, 5, keys)
        assert_close(output.weights.sum(-1), jnp.ones((3, 2, 5)))


@pytest.mark.parametrize("make", [layers.MultiHeadAttention, layers.TransformerBlock])
def test_dropout_needs_a_key_and_changes_values(make):
    model, tokens = make(2, dropout_rate=0.5), random(2, 5, 6)
    variables = draw_variables(model, tokens)
    dropped = [
        run(model, variables, tokens, deterministic=False, rngs={"dropout": jax.random.key(seed)})[0]
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert bool(jnp.any(dropped[0] != dropped[2]))


def test_additive_attention_with_keys_projected_once():
    model, query, memory = layers.AdditiveAttention(5), random(3, 2, 3), random(3, 7, 11)
    variables = draw_variables(model, query, memory)
    keys = run(model, variables, memory, method="project")
    assert_close(run(model, variables, query, memory, keys=keys).values, run(model, variables, query, memory).values)


def test_key_value_cache_holds_the_dtype_asked_for():
    cache = layers.MultiHeadAttention(2, head_dim=5).init_cache(3, 7, jnp.bfloat16)
    assert (cache.key.shape, cache.key.dtype, cache.index.dtype) == ((3, 2, 7, 5), jnp.bfloat16, jnp.int32)


TOKENS, MEMORY = random(2, 5, 6), random(2, 7, 6)
KNOWN = layers.MultiHeadAttention(2, 6)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: draw_variables(layers.MultiHeadAttention(5), TOKENS), "divisible by num_heads = 5; got 6"),
        (lambda: layers.MultiHeadAttention(2).init_cache(2, 7), "init_cache needs the size of the heads; got neither"),
        (lambda: draw_variables(KNOWN, TOKENS, MEMORY, cache=KNOWN.init_cache(2, 7)), "got keys_values and cache"),
        (
            lambda: draw_variables(layers.TransformerBlock(2), TOKENS, MEMORY),
            "got use_cross_attention=False and a memory",
        ),
        (lambda: draw_variables(layers.TransformerBlock(2, use_cross_attention=True), TOKENS), "=True and no memory"),
        (lambda: KNOWN.init_cache(2, 7).repeat_rows(3).repeat_rows(2), "repeated once; got 3 copies of each"),
        (
            lambda: draw_variables(KNOWN, random(3, 5, 6), MEMORY),
            "of the 2 rows of keys, without is_causal; got 3",
        ),
    ],
)
def test_errors_say_what_is_wrong(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_a_step_does_not_copy_the_cache():
    model, tokens = layers.MultiHeadAttention(2, 6), random(3, 1, 6)
    variables = draw_variables(model, tokens)

    def step(carry, _):
        output = model.apply(variables, carry[0], cache=carry[1])
        return (output.values, output.cache), None

    cache = model.init_cache(3, 11, is_uniform=True)
    program = jax.jit(lambda carry: jax.lax.scan(step, carry, length=5)[0]).lower((tokens, cache)).compile().as_text()
    *inner, entry = program.split("ENTRY")
    assert "f32[3,2,11,3]" in inner[0] and "while(" in entry
    # XLA copies what it writes and still reads; of arrays this small, by fusions.
    assert not re.search(r"f32\[(3,2|6),11,3\]\S* copy\(", inner[0])
    assert len(re.findall(r"f32\[(?:3,2|6),11,3\]\S* fusion\(", inner[0])) <= 2
