"""Exponential moving average of the parameters."""

from typing import Any

import jax
import jax.numpy as jnp


def start_average(params: Any) -> Any:
    """Copies the parameters as the start of their moving average, in float32 or wider.

    In bfloat16 an average with a decay near 1 would not move: the change is below the last bit.

    Args:
        params: tree of floating-point arrays.

    Returns:
        A copy of the tree, each leaf promoted to at least float32.

    Example:
        >>> start_average({"kernel": jnp.ones(2, jnp.bfloat16)})["kernel"].dtype
        dtype('float32')
    """
    return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.promote_types(leaf.dtype, jnp.float32)), params)


def update_average(average: Any, params: Any, *, decay: float, step: jax.Array) -> Any:
    """Moves the average towards the parameters: `average = d * average + (1 - d) * params`.

    `d = min(decay, (1 + step) / (10 + step))`, so that the first steps, when the parameters still change
    quickly, are forgotten soon; without this a short run would average in its random initial values.

    Args:
        average: tree of float32 arrays, from `start_average`.
        params: the new parameters, of the same shapes.
        decay: the weight of the past, in [0, 1).
        step: steps done before this one; int32 scalar.

    Returns:
        The new average.

    Example:
        >>> average, params = {"bias": jnp.zeros(1)}, {"bias": jnp.ones(1)}
        >>> float(update_average(average, params, decay=0.5, step=jnp.int32(100))["bias"][0])
        0.5

    References:
        Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992 (the idea; there with
        equal weights).
    """
    steps = step.astype(jnp.float32)
    current = jnp.minimum(decay, (1.0 + steps) / (10.0 + steps))
    return jax.tree.map(lambda old, new: current * old + (1.0 - current) * new.astype(old.dtype), average, params)
