"""Initializers of recurrent kernels, whose gates are joined along the last axis."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer, Shape
from jaxtyping import Array


def per_gate(initializer: Initializer, gates: int) -> Initializer:
    """Makes an initializer that draws every gate's block on its own and joins them along the last axis.

    Args:
        initializer: draws one block.
        gates: number of blocks.

    Returns:
        An initializer of shapes whose last axis is divisible by `gates`.

    Example:
        >>> kernel = per_gate(nn.initializers.orthogonal(), 4)(jax.random.key(0), (3, 12))
        >>> bool(jnp.allclose(kernel[:, 3:6] @ kernel[:, 3:6].T, jnp.eye(3), atol=1e-5))
        True
    """

    def initialize(key: Array, shape: Shape, dtype: Dtype = jnp.float32) -> Array:
        block = (*shape[:-1], shape[-1] // gates)
        return jnp.concatenate([initializer(part, block, dtype) for part in jax.random.split(key, gates)], axis=-1)

    return initialize


input_kernel_init: Initializer = nn.initializers.lecun_normal()
recurrent_kernel_init: Initializer = nn.initializers.orthogonal()
