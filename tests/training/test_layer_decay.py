"""Smaller steps nearer to the input."""

import jax
import jax.numpy as jnp
import optax
import pytest

from fusionjax.training import scale_by_layer

PARAMS = {
    "encoder": {"stem": {"kernel": jnp.ones(2)}, "block_0": {"kernel": jnp.ones(3)}, "block_1": {"bias": jnp.ones(5)}},
    "head": {"kernel": jnp.ones(7)},
}


def test_steps_shrink_towards_the_input() -> None:
    optimizer = optax.chain(optax.sgd(2.0), scale_by_layer(0.5, ["stem", r"block_0/", r"block_\d"]))
    gradients = jax.tree.map(jnp.ones_like, PARAMS)
    updates, _ = jax.jit(optimizer.update)(gradients, optimizer.init(PARAMS), PARAMS)
    found = {name: float(layer.popitem()[1][0]) for name, layer in updates["encoder"].items()}
    assert found == {"stem": -2 * 0.125, "block_0": -2 * 0.25, "block_1": -2 * 0.5}
    assert updates["head"]["kernel"].tolist() == [-2.0] * 7


def test_bad_settings_are_refused() -> None:
    for decay in (0.0, 1.5):
        with pytest.raises(ValueError, match=rf"decay must be above 0 and at most 1; got {decay}. Try 0.75"):
            scale_by_layer(decay, ["stem"])
    with pytest.raises(ValueError, match=r"layers must name one layer or more; got none. Give them from the input"):
        scale_by_layer(0.5, [])
    scaled = scale_by_layer(0.5, ["stem", "blocks_7"])
    with pytest.raises(ValueError, match=r"every layer must name a parameter; blocks_7 names none. Look at the paths"):
        scaled.update(PARAMS, scaled.init(PARAMS), PARAMS)
