"""`Features` that were computed before: how they lie in rows of numbers, and the encoder that reads them."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.encoders.checks import check_mask
from fusionjax.encoders.features import Features


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureLayout:
    """How the `Features` of one example lie in one row of numbers: the tokens, the pooled vector, the mask.

    Attributes:
        grid: of the tokens.
        features: of a token.
        pooled_features: of the pooled vector.
        has_mask: whether there is a mask, as 0 and 1.
        has_tokens: whether the tokens are kept; else the pooled vector is the one token of the features that are read.

    Example:
        >>> features = Features(jnp.ones((2, 6, 5)), None, jnp.ones((2, 7)), (2, 3))
        >>> layout = FeatureLayout.of(features)
        >>> layout.size, layout.pack(features).shape, layout.unpack(jnp.ones((4, 37))).grid
        (37, (2, 37), (2, 3))
    """

    grid: tuple[int, ...]
    features: int
    pooled_features: int
    has_mask: bool = False
    has_tokens: bool = True

    @classmethod
    def of(cls, features: Features, *, has_tokens: bool = True) -> "FeatureLayout":
        """Gives the layout of some features, arrays or shapes.

        Args:
            features: of an encoder.
            has_tokens: whether to keep the tokens.

        Returns:
            The layout.
        """
        return cls(
            grid=features.grid,
            features=features.tokens.shape[2],
            pooled_features=features.pooled.shape[1],
            has_mask=has_tokens and features.mask is not None,
            has_tokens=has_tokens,
        )

    @property
    def size(self) -> int:
        """Numbers of a row."""
        length = math.prod(self.grid)
        return self.has_tokens * length * self.features + self.pooled_features + self.has_mask * length

    def pack(self, features: Features) -> jax.Array:
        """Writes features into rows.

        Args:
            features: of this layout.

        Returns:
            `[batch, size]`, in the dtype of the tokens.
        """
        batch = features.tokens.shape[0]
        parts = [features.kept_tokens.reshape(batch, -1)] if self.has_tokens else []
        parts.append(features.kept_pooled.astype(features.tokens.dtype))
        if self.has_mask and features.mask is not None:
            parts.append(features.mask.astype(features.tokens.dtype))
        return jnp.concatenate(parts, axis=1)

    def unpack(self, rows: jax.Array, dtype: Dtype | None = None) -> Features:
        """Reads features from rows.

        Args:
            rows: `[batch, size]`, of any floating dtype.
            dtype: of the features; None makes float32 of what is narrower.

        Returns:
            The features; of pooled vectors alone, these are the tokens too, in a grid of one.

        Raises:
            ValueError: the rows have another length.
            TypeError: they are not floating point.
        """
        if rows.ndim != 2 or rows.shape[1] != self.size:
            raise ValueError(
                f"stored features must have shape [batch, {self.size}]; got {rows.shape}. Compute them anew."
            )
        if not jnp.issubdtype(rows.dtype, jnp.floating):
            raise TypeError(f"stored features must be floating point; got {rows.dtype}. Give what was stored.")
        rows = rows.astype(jnp.promote_types(rows.dtype, jnp.float32) if dtype is None else dtype)
        if not self.has_tokens:
            return Features(tokens=rows[:, None], mask=None, pooled=rows, grid=(1,) * len(self.grid))
        length = math.prod(self.grid)
        end = length * self.features
        pooled = rows[:, end : end + self.pooled_features]
        mask = rows[:, end + self.pooled_features :] > 0.5 if self.has_mask else None
        tokens = rows[:, :end].reshape(-1, length, self.features)
        return Features(tokens=tokens, mask=mask, pooled=pooled, grid=self.grid)


class StoredFeatures(nn.Module):
    """Reads the features that another encoder computed before, so that it need not run; it has no parameters.

    Attributes:
        layout: of a row.
        dtype: of the features; None makes float32 of what is narrower.

    Raises:
        ValueError: the rows have another length, or the mask has another shape.
        TypeError: the rows are not floating point, or the mask is not boolean.

    Example:
        >>> layout = FeatureLayout(grid=(2, 3), features=5, pooled_features=7)
        >>> features = StoredFeatures(layout).apply({}, jnp.ones((4, layout.size), jnp.float16))
        >>> features.tokens.shape, features.tokens.dtype.name, features.pooled.shape
        ((4, 6, 5), 'float32', (4, 7))
    """

    layout: FeatureLayout
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, rows: jax.Array, mask: jax.Array | None = None, *, deterministic: bool = True) -> Features:
        """Reads features.

        Args:
            rows: `[batch, layout.size]`, of any floating dtype.
            mask: True for the tokens to keep among those that are stored as kept, `[batch, length]`; the pooled vector
                stays as it was computed.
            deterministic: has no effect.

        Returns:
            tokens `[batch, length, layout.features]`, zero where masked; pooled `[batch, layout.pooled_features]`.
        """
        del deterministic
        features = self.layout.unpack(rows, self.dtype)
        if mask is None:
            return features
        check_mask(mask, features.tokens.shape[:2], "features")
        mask = jnp.asarray(mask) if features.mask is None else mask & features.mask
        return Features(jnp.where(mask[..., None], features.tokens, 0), mask, features.pooled, features.grid)
