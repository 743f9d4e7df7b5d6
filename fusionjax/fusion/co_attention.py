"""Fusion by streams that look at each other."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.encoders import Features
from fusionjax.encoders.pooling import mean_token
from fusionjax.fusion.checks import check_modalities
from fusionjax.fusion.streams import end_streams, project_streams
from fusionjax.fusion.tokens import joined_mask
from fusionjax.layers import TransformerBlock


class CoAttention(nn.Module):
    """Keeps a stream of tokens for each modality, and lets each look at itself and at all others in every layer.

    Each layer of a stream is a pre-norm block of self-attention, cross-attention to the other streams' tokens before
    this layer, and MLP. The pooled vector is the product of the streams' means, as ViLBERT has it for questions about
    images; a missing modality's factor is one. Masked tokens are seen by none.

    Cost: beside the projections M K (16 F^2 + 19 F) + 2 F parameters; 2 K (sum over streams of 14 l F^2 + 2 (L - l) F^2
    + 2 l^2 F + 2 l (L - l) F) operations an example, for streams of length l, L together, M of them, F features, K
    layers.

    Attributes:
        features: width; divisible by `num_heads`.
        num_heads: of the attention.
        num_layers: of each stream.
        dropout_rate: in the blocks.
        dtype: of the computation.
        param_dtype: of the parameters.

    Raises:
        ValueError: fewer than two modalities, or their batch sizes differ; `num_heads` does not divide `features`.

    Example:
        >>> text = Features(jnp.ones((2, 3, 5)), jnp.ones((2, 3), bool), jnp.ones((2, 5)), (3,))
        >>> image = Features(jnp.ones((2, 4, 7)), None, jnp.zeros((2, 7)), (2, 2))
        >>> fusion, features = CoAttention(features=8, num_heads=2), {"image": image, "text": text}
        >>> fused, _ = jax.eval_shape(fusion.init_with_output, jax.random.key(0), features)
        >>> fused.tokens.shape, fused.pooled.shape, fused.grid
        ((2, 7, 8), (2, 8), (7,))

    References:
        Lu et al., "ViLBERT: Pretraining Task-Agnostic Visiolinguistic Representations for Vision-and-Language Tasks",
        2019, arXiv:1908.02265, sections 2.2 and 3.2, figure 2b.
    """

    features: int = 256
    num_heads: int = 8
    num_layers: int = 1
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
            tokens `[batch, sum of lengths, features]` of all modalities in sorted order, zero where masked; pooled is
            the product of the streams.
        """
        check_modalities(features, least=2)
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        streams = project_streams(features, self.features, kwargs)
        for layer in range(self.num_layers):
            before = dict(streams)
            for name, tokens in before.items():
                others = [other for other in before if other != name]
                block = TransformerBlock(
                    self.num_heads,
                    use_cross_attention=True,
                    dropout_rate=self.dropout_rate,
                    name=f"block_{name}_{layer}",
                    **kwargs,
                )
                streams[name] = block(
                    tokens,
                    jnp.concatenate([before[other] for other in others], axis=1),
                    mask=features[name].mask,
                    memory_mask=joined_mask([features[other] for other in others]),
                    deterministic=deterministic,
                ).tokens
        fused = end_streams(features, jnp.concatenate(list(streams.values()), axis=1), "mean", kwargs)
        product, start = jnp.ones((), fused.tokens.dtype), 0
        for name, tokens in streams.items():
            length = tokens.shape[1]
            mean = mean_token(fused.tokens[:, start : start + length], features[name].mask)
            product, start = product * jnp.where(features[name].present[:, None], mean, 1), start + length
        return dataclasses.replace(fused, pooled=product)
