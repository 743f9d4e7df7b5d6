"""A Transformer block gives the same whether its batch is split or not."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.layers import TransformerBlock, transformer
from tests.contracts.parameters import draw_variables, fast_jit

LENGTHS = jnp.array([5, 3, 2, 0, 5, 4, 1, 2, 5, 3, 5])
MASKS = {
    "none": None,
    "padding": jnp.arange(5) < LENGTHS[:, None],
    "shared": (jnp.arange(5) < 3)[None, None, None],
    "heads": (jnp.arange(5) < LENGTHS[:, None])[:, None, None],
}


def lower(mask, hidden_per_step, monkeypatch):
    """The program of values and gradients, not compiled yet, and its arguments."""
    monkeypatch.setattr(transformer, "_HIDDEN_PER_STEP", hidden_per_step)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    block = TransformerBlock(num_heads=2, mlp_features=13, is_causal=True)
    tokens = jnp.asarray(np.random.default_rng(0).normal(size=(11, 5, 6)), jnp.float32)
    variables = draw_variables(block, tokens)

    def total(variables, tokens):
        moved = block.apply(variables, tokens, mask=mask).tokens
        return jnp.sum(jnp.sin(moved)), moved

    lowered = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True)).lower(variables, tokens)
    return lowered, (variables, tokens)


@pytest.mark.slow
@pytest.mark.parametrize("name", MASKS)
def test_split_or_not_values_and_gradients_are_equal(name, monkeypatch):
    split, arguments = lower(MASKS[name], 2 * 5 * 13, monkeypatch)
    whole, _ = lower(MASKS[name], 2**20, monkeypatch)
    assert "while" in split.as_text() and "while" not in whole.as_text()
    found, expected = (program.compile()(*arguments) for program in (split, whole))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5), found, expected)


def test_few_steps_are_not_worth_it(monkeypatch):
    assert "while" not in lower(None, 3 * 5 * 13, monkeypatch)[0].as_text()


def test_what_is_captured_is_whole(monkeypatch):
    monkeypatch.setattr(transformer, "_HIDDEN_PER_STEP", 1)
    block, tokens = TransformerBlock(num_heads=2), jnp.ones((37, 2, 6))
    variables = draw_variables(block, tokens)
    _, state = fast_jit(partial(block.apply, capture_intermediates=True))(variables, tokens)
    assert state["intermediates"]["mlp_in"]["__call__"][0].shape == (37, 2, 24)
