"""The perceptron of a fusion's own blocks."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.layers import Dense


class Perceptron(nn.Module):
    """W_2 gelu(W_1 norm(x) + b_1) + b_2 with four times the features between, token by token.

    Attributes:
        dtype: of the computation.
        param_dtype: of the parameters.

    Example:
        >>> layer, tokens = Perceptron(), jnp.ones((2, 3, 5))
        >>> layer.apply(layer.init(jax.random.key(0), tokens), tokens).shape
        (2, 3, 5)
    """

    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Maps `[..., features]` to the same shape.

        Args:
            tokens: `[..., features]`.

        Returns:
            The same shape, to be added to the tokens.
        """
        normalised = nn.LayerNorm(dtype=self.dtype, param_dtype=self.param_dtype, name="norm")(tokens)
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        hidden = nn.gelu(Dense(4 * tokens.shape[-1], name="in", **kwargs)(normalised))
        return Dense(tokens.shape[-1], name="out", **kwargs)(hidden)
