"""`Features`: what every encoder gives, every fusion maps and every head reads."""

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Features:
    """One modality of a batch, as tokens and as one vector.

    A pytree: it passes through `jit`, `grad`, `vmap` and `scan`; `grid` is static.

    Attributes:
        tokens: a grid cell, a word, a frame or a video patch each; `[batch, length, features]`.
        mask: True where a token is to be kept, `[batch, length]`; None where all are. An example without a kept token
            misses the modality.
        pooled: one vector for each example, `[batch, pooled_features]`.
        grid: how the tokens lie: `(height, width)` for an image, `(time,)` for text and audio, `(time, height, width)`
            for video. Its product is `length`.

    Example:
        >>> features = Features(tokens=jnp.ones((2, 6, 5)), mask=None, pooled=jnp.ones((2, 5)), grid=(2, 3))
        >>> features.tokens.shape, features.grid
        ((2, 6, 5), (2, 3))
    """

    tokens: jax.Array
    mask: jax.Array | None
    pooled: jax.Array
    grid: tuple[int, ...] = flax.struct.field(pytree_node=False)

    @property
    def kept_tokens(self) -> jax.Array:
        """The tokens with zeros where masked, so that nothing under the mask, not even NaN, passes on."""
        return self.tokens if self.mask is None else jnp.where(self.mask[..., None], self.tokens, 0)

    @property
    def present(self) -> jax.Array:
        """Which examples have this modality at all: those with a kept token, `[batch]`."""
        if self.mask is None:
            return jnp.ones(self.tokens.shape[:1], bool)
        return self.mask.any(axis=1)

    @property
    def kept_pooled(self) -> jax.Array:
        """The pooled vectors with zeros where the modality is missing, so that nothing that stands there passes on."""
        return self.pooled if self.mask is None else jnp.where(self.present[:, None], self.pooled, 0)
