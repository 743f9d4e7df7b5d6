"""What fusions by Transformers share: streams of tokens, one for each modality, and what they give in the end."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fusionjax.encoders import Features, PoolingKind, TokenPooling
from fusionjax.fusion.tokens import TokenProjection, joined_mask

Streams = dict[str, jax.Array]


def project_streams(features: Mapping[str, Features], width: int, kwargs: dict[str, Any]) -> Streams:
    """Projects the tokens of every modality by a `TokenProjection` named `tokens_NAME`, in sorted order.

    Args:
        features: of each modality, by name.
        width: of the projected tokens.
        kwargs: dtypes of the projections.

    Returns:
        By name `[batch, length, width]`.
    """
    return {name: TokenProjection(width, name=f"tokens_{name}", **kwargs)(features[name]) for name in sorted(features)}


def end_streams(
    features: Mapping[str, Features], tokens: jax.Array, pooling: PoolingKind, kwargs: dict[str, Any]
) -> Features:
    """Makes features of the tokens of all streams, normalised.

    Args:
        features: of each modality, by name.
        tokens: of all modalities, one after the other in sorted order, `[batch, sum of lengths, width]`.
        pooling: of all kept tokens to one vector.
        kwargs: dtypes of the norm and the pooling.

    Returns:
        tokens `[batch, sum of lengths, width]`, zero where masked, of grid `(sum of lengths,)`.
    """
    tokens = nn.LayerNorm(name="norm", **kwargs)(tokens)
    mask = joined_mask([features[name] for name in sorted(features)])
    if mask is not None:
        tokens = jnp.where(mask[..., None], tokens, 0)
    pooled = TokenPooling(pooling, name="pool", **kwargs)(tokens, mask)
    return Features(tokens, mask, pooled, (tokens.shape[1],))
