"""The normalisation after bilinear pooling."""

import jax
import jax.numpy as jnp

# Where the square root is replaced by a line, whose slope is finite, and what the norm is at least.
_SMALL = 1e-6


def normalise_power(vectors: jax.Array) -> jax.Array:
    """Takes the signed square root and divides by the Euclidean norm.

    Below 1e-6 a line through zero stands for the root, so that the gradient is finite.

    Args:
        vectors: `[batch, features]`.

    Returns:
        `[batch, features]`; zeros stay zeros.

    Example:
        >>> normalise_power(jnp.array([[9.0, -16.0]]))
        Array([[ 0.6, -0.8]], dtype=float32)
    """
    size = jnp.abs(vectors)
    # sign(x) sqrt(|x|) as x / sqrt(|x|)
    rooted = vectors * jax.lax.rsqrt(jnp.maximum(size, _SMALL))
    norm = jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(rooted), axis=-1, keepdims=True), _SMALL))
    return rooted / norm
