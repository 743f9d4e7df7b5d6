"""A fused vector as `Features`."""

import jax

from fusionjax.encoders import Features


def as_features(pooled: jax.Array) -> Features:
    """Makes features of one vector for each example, which is also their one token.

    Args:
        pooled: `[batch, features]`.

    Returns:
        Features without a mask, of grid `(1,)`.

    Example:
        >>> import jax.numpy as jnp
        >>> as_features(jnp.ones((2, 3))).tokens.shape
        (2, 1, 3)
    """
    return Features(tokens=pooled[:, None], mask=None, pooled=pooled, grid=(1,))
