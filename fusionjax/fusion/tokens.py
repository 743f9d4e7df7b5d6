"""The tokens of a modality, ready to be joined with those of others."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.encoders import Features


class TokenProjection(nn.Module):
    """Projects the tokens of one modality to a common width and marks them.

    Tokens of a sequence, whose encoders know positions, are marked with one vector; the cells of a grid of two or more
    axes, whose encoders (such as convolutional networks) tell no positions, with one vector each, which fixes the
    grid's size. Masked tokens count as zeros.

    Cost: (O + 1) F + G F parameters, 2 L O F operations an example, for L tokens of size O, F features and G marks: L
    for a grid of two or more axes, otherwise one.

    Attributes:
        features: width.
        dtype: of the computation.
        param_dtype: of the parameters.

    Raises:
        ValueError: a grid has another number of tokens than at the initialisation.

    Example:
        >>> image = Features(jnp.ones((2, 4, 7)), None, jnp.zeros((2, 7)), (2, 2))
        >>> tokens, _ = jax.eval_shape(TokenProjection(5).init_with_output, jax.random.key(0), image)
        >>> tokens.shape
        (2, 4, 5)
    """

    features: int
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features) -> jax.Array:
        """Projects.

        Args:
            features: of one modality.

        Returns:
            `[batch, length, features]`.
        """
        dense = nn.Dense(self.features, dtype=self.dtype, param_dtype=self.param_dtype, name="dense")
        tokens = dense(features.kept_tokens)
        shape = (tokens.shape[1], self.features) if len(features.grid) > 1 else (1, self.features)
        known = self.get_variable("params", "positions") if self.has_variable("params", "positions") else None
        if known is not None and known.shape != shape:
            raise ValueError(
                f"a grid must have as many tokens as at the initialisation, {known.shape[0]}; got {features.grid}, "
                f"{tokens.shape[1]}. Bring the images to one size."
            )
        marks = self.param("positions", nn.initializers.normal(0.1), shape, self.param_dtype)
        return tokens + marks.astype(tokens.dtype)


def joined_mask(features: list[Features]) -> jax.Array | None:
    """The masks of several modalities, one after the other.

    Args:
        features: of each modality.

    Returns:
        `[batch, sum of lengths]`; None if none of them has a mask.
    """
    if all(one.mask is None for one in features):
        return None
    masks = [jnp.ones(one.tokens.shape[:2], bool) if one.mask is None else one.mask for one in features]
    return jnp.concatenate(masks, axis=1)
