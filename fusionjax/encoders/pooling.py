"""Pooling of tokens to one vector for each example."""

from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax import ops
from fusionjax.encoders.checks import check_mask

PoolingKind = Literal["flatten", "mean", "max", "last", "attention"]


def mean_token(tokens: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Averages the kept tokens, in float32 at least.

    Args:
        tokens: `[batch, length, features]`.
        mask: True = keep, `[batch, length]`; None keeps all.

    Returns:
        `[batch, features]`, in the dtype of the tokens; zero where none is kept.

    Example:
        >>> mean_token(jnp.array([[[1.0], [3.0], [5.0]]]), jnp.array([[True, True, False]])).tolist()
        [[2.0]]
    """
    keep = jnp.ones(tokens.shape[:2], bool) if mask is None else mask
    # [batch, features]
    total = jnp.where(keep[..., None], tokens, 0).sum(1, dtype=jnp.promote_types(tokens.dtype, jnp.float32))
    return (total / jnp.maximum(keep.sum(1, keepdims=True), 1)).astype(tokens.dtype)


class TokenPooling(nn.Module):
    """Pools `[batch, length, features]` to `[batch, pooled_features]`; a masked token never changes the result.

    `flatten`: all tokens joined in order, masked ones as zeros, so the length is fixed once the model is initialised.
    `mean`: sum of the kept tokens over their number (zero where none is kept). `max`: the largest of each feature among
    the kept tokens, likewise. `last`: the last kept token, likewise. `attention`: softmax(w . tanh(W x_i + b)) over the
    kept tokens, the tokens summed with these weights.

    Attributes:
        kind: one of `"flatten"`, `"mean"`, `"max"`, `"last"`, `"attention"`.
        dtype: of the computation; None takes that of the tokens and parameters.
        param_dtype: of the parameters.

    Raises:
        ValueError: `kind` is none of the five, or the mask has another shape than the tokens.
        TypeError: the mask is not boolean.

    Example:
        >>> tokens, mask = jnp.ones((1, 3, 2)), jnp.array([[True, True, False]])
        >>> TokenPooling("flatten").apply({}, tokens, mask).tolist()
        [[1.0, 1.0, 1.0, 1.0, 0.0, 0.0]]

    References:
        Attention: Lin et al., "A Structured Self-attentive Sentence Embedding", 2017, arXiv:1703.03130, eq. 5, one hop.
    """

    kind: PoolingKind = "mean"
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Pools the tokens.

        Args:
            tokens: `[batch, length, features]`.
            mask: True = keep, `[batch, length]`; None keeps all.

        Returns:
            `[batch, length * features]` for `flatten`, else `[batch, features]`.
        """
        if self.kind not in get_args(PoolingKind):
            raise ValueError(
                f"pooling must be one of {', '.join(get_args(PoolingKind))}; got {self.kind!r}. Choose one."
            )
        batch, length, features = tokens.shape
        check_mask(mask, (batch, length), "pooling")
        keep = jnp.ones((batch, length), bool) if mask is None else mask
        kept = jnp.where(keep[..., None], tokens, 0)
        if self.kind == "flatten":
            return kept.reshape(batch, length * features)
        if self.kind == "mean":
            return mean_token(tokens, keep)
        if self.kind == "max":
            # By index: the gradient of a maximum compares it with the tokens, which XLA may have computed again with
            # other roundings, so that none is equal.
            largest = jnp.argmax(jnp.where(keep[..., None], tokens, -jnp.inf), axis=1)
            return jnp.take_along_axis(kept, largest[:, None], axis=1)[:, 0]
        if self.kind == "last":
            last = jnp.max(jnp.where(keep, jnp.arange(length), 0), axis=1)
            return jnp.take_along_axis(kept, last[:, None, None], axis=1)[:, 0]
        hidden = nn.Dense(features, dtype=self.dtype, param_dtype=self.param_dtype, name="hidden")(kept)
        score = nn.Dense(1, use_bias=False, dtype=self.dtype, param_dtype=self.param_dtype, name="score")
        # [batch, length]
        scores = score(jnp.tanh(hidden))[..., 0].astype(jnp.float32)
        weights = ops.masked_softmax(scores, keep)
        return jnp.einsum("bl,blf->bf", weights.astype(kept.dtype), kept)
