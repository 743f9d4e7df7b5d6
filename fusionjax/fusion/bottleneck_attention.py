"""Fusion by attention through a few shared tokens."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.encoders import Features, PoolingKind
from fusionjax.fusion.checks import check_modalities
from fusionjax.fusion.streams import end_streams, project_streams
from fusionjax.layers import TransformerBlock


class BottleneckAttention(nn.Module):
    """Lets the modalities exchange what they know through a few bottleneck tokens alone.

    In every layer each modality's block transforms [its tokens; the bottleneck tokens]; the bottleneck tokens of the
    next layer are the mean of what the modalities that are there made of them. So a layer costs no product of two
    modalities' lengths.

    Cost: beside the projections B F + M K (12 F^2 + 13 F) + 2 F parameters; 2 K (sum over modalities of 12 (l + B) F^2
    + 2 (l + B)^2 F) operations an example, for modalities of length l, M of them, B bottleneck tokens, F features and K
    layers.

    Attributes:
        features: width; divisible by `num_heads`.
        num_heads: of the attention.
        num_layers: of each modality.
        num_bottlenecks: tokens through which the modalities speak.
        pooling: of all tokens to one vector, as in `TokenPooling`.
        dropout_rate: in the blocks.
        dtype: of the computation.
        param_dtype: of the parameters.

    Raises:
        ValueError: fewer than two modalities, or their batch sizes differ; `num_heads` does not divide `features`.

    Example:
        >>> text = Features(jnp.ones((2, 3, 5)), jnp.ones((2, 3), bool), jnp.ones((2, 5)), (3,))
        >>> image = Features(jnp.ones((2, 4, 7)), None, jnp.zeros((2, 7)), (2, 2))
        >>> fusion, features = BottleneckAttention(features=8, num_heads=2), {"image": image, "text": text}
        >>> fused, _ = jax.eval_shape(fusion.init_with_output, jax.random.key(0), features)
        >>> fused.tokens.shape, fused.pooled.shape, fused.grid
        ((2, 7, 8), (2, 8), (7,))

    References:
        Nagrani et al., "Attention Bottlenecks for Multimodal Fusion", 2021, arXiv:2107.00135, equations 8 and 9.
    """

    features: int = 256
    num_heads: int = 8
    num_layers: int = 2
    num_bottlenecks: int = 4
    pooling: PoolingKind = "mean"
    dropout_rate: float = 0.0
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Mapping[str, Features], *, deterministic: bool = True) -> Features:
        """Fuses the modalities.

        Args:
            features: of each modality, by name.
            deterministic: switches dropout off.

        Returns:
            tokens `[batch, sum of lengths, features]` of all modalities in sorted order, zero where masked.
        """
        check_modalities(features, least=2)
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        streams = project_streams(features, self.features, kwargs)
        shape = self.num_bottlenecks, self.features
        shared = self.param("bottlenecks", nn.initializers.normal(0.02), shape, self.param_dtype)
        batch = len(next(iter(streams.values())))
        shared = jnp.broadcast_to(shared.astype(next(iter(streams.values())).dtype), (batch, *shape))
        for layer in range(self.num_layers):
            total, count = jnp.zeros((), shared.dtype), jnp.zeros((), shared.dtype)
            for name, tokens in streams.items():
                keep = features[name].mask
                if keep is not None:
                    keep = jnp.concatenate([keep, jnp.ones((batch, self.num_bottlenecks), bool)], axis=1)
                block = TransformerBlock(
                    self.num_heads, dropout_rate=self.dropout_rate, name=f"block_{name}_{layer}", **kwargs
                )
                joined = jnp.concatenate([tokens, shared], axis=1)
                joined = block(joined, mask=keep, deterministic=deterministic).tokens
                present = features[name].present[:, None, None]
                streams[name] = joined[:, : -self.num_bottlenecks]
                total = total + jnp.where(present, joined[:, -self.num_bottlenecks :], 0)
                count = count + present.astype(shared.dtype)
            shared = jnp.where(count > 0, total / jnp.maximum(count, 1), shared)
        return end_streams(features, jnp.concatenate(list(streams.values()), axis=1), self.pooling, kwargs)
