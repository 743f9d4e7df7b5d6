"""Feature-wise linear modulation."""

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from fusionjax.layers.dense import Dense


class FiLM(nn.Module):
    """Scales and shifts every feature as a condition says: (1 + gamma) * x + beta, [gamma; beta] = W c + b.

    The same gamma and beta hold for all tokens, or all places of an image, of an example. Unlike in the paper gamma is
    what the scale differs from one by, as the authors' program has it.

    Attributes:
        dtype: of the computation.
        param_dtype: of the parameters.

    Example:
        >>> images, condition = jnp.ones((2, 5, 7, 3)), jnp.ones((2, 11))
        >>> layer = FiLM()
        >>> layer.apply(layer.init(jax.random.key(0), images, condition), images, condition).shape
        (2, 5, 7, 3)

    References:
        Perez et al., "FiLM: Visual Reasoning with a General Conditioning Layer", 2018, arXiv:1709.07871, equation 2.
    """

    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, values: Float[Array, "batch *places features"], condition: Float[Array, "conditions condition_features"]
    ) -> Float[Array, "batch *places features"]:
        """Modulates.

        Args:
            values: `[batch, ..., features]`.
            condition: `[batch, condition_features]`.

        Returns:
            The shape of the values.

        Raises:
            ValueError: the batch sizes differ.
        """
        if condition.shape[0] != values.shape[0]:
            raise ValueError(
                f"values and condition must have the same batch size; got {values.shape[0]} and {condition.shape[0]}. "
                "Repeat the condition for each example."
            )
        features = values.shape[-1]
        both = Dense(2 * features, dtype=self.dtype, param_dtype=self.param_dtype, name="dense")(condition)
        # [batch, 1, ..., 2 * features]
        both = both.reshape(len(both), *(1,) * (values.ndim - 2), 2 * features)
        scale, shift = jnp.split(both, 2, axis=-1)
        return (1 + scale) * values + shift
