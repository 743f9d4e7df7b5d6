"""A Transformer block gives the same whether its batch is split or not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.layers import TransformerBlock, transformer

LENGTHS = jnp.array([5, 3, 2, 0, 5, 4, 1, 2, 5, 3, 5])
MASKS = {
    "none": None,
    "padding": jnp.arange(5) < LENGTHS[:, None],
    "shared": (jnp.arange(5) < 3)[None, None, None],
    "heads": (jnp.arange(5) < LENGTHS[:, None])[:, None, None],
}


def outcome(mask, hidden_per_step, monkeypatch, **options):
    monkeypatch.setattr(transformer, "_HIDDEN_PER_STEP", hidden_per_step)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    block = TransformerBlock(num_heads=2, mlp_features=13, is_causal=True)
    tokens = jnp.asarray(np.random.default_rng(0).normal(size=(11, 5, 6)), jnp.float32)
    variables = block.init(jax.random.key(0), tokens)

    def total(variables, tokens):
        moved = block.apply(variables, tokens, mask=mask, **options).tokens
        return jnp.sum(jnp.sin(moved)), moved

    compiled = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))
    return compiled(variables, tokens), "while" in compiled.lower(variables, tokens).as_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", MASKS)
def test_split_or_not_values_and_gradients_are_equal(name, monkeypatch):
    split, has_loop = outcome(MASKS[name], 2 * 5 * 13, monkeypatch)
    whole, has_none = outcome(MASKS[name], 2**20, monkeypatch)
    assert has_loop and not has_none
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5), split, whole)


def test_few_steps_are_not_worth_it(monkeypatch):
    assert not outcome(None, 3 * 5 * 13, monkeypatch)[1]


def test_what_is_captured_is_whole(monkeypatch):
    monkeypatch.setattr(transformer, "_HIDDEN_PER_STEP", 1)
    block, tokens = TransformerBlock(num_heads=2), jnp.ones((37, 2, 6))
    variables = block.init(jax.random.key(0), tokens)
    _, state = block.apply(variables, tokens, capture_intermediates=True)
    assert state["intermediates"]["mlp_in"]["__call__"][0].shape == (37, 2, 24)
