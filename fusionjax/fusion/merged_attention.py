"""Fusion by one Transformer over all tokens."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.encoders import Features, PoolingKind
from fusionjax.fusion.checks import check_modalities
from fusionjax.fusion.streams import end_streams, project_streams
from fusionjax.fusion.tokens import joined_mask
from fusionjax.layers import TransformerBlock


class MergedAttention(nn.Module):
    """Lets the tokens of all modalities look at each other as one sequence, in pre-norm Transformer blocks.

    The tokens of each modality are projected and marked as by `TokenProjection`, and joined one after the other: the
    "single stream". Masked tokens, and so missing modalities, are seen by none.

    Cost: beside the projections K (12 F^2 + 13 F) + 2 F parameters; 2 K (12 L F^2 + 2 L^2 F) operations an example, for
    L tokens of all modalities, F features and K blocks.

    Attributes:
        features: width; divisible by `num_heads`.
        num_heads: of the attention.
        num_layers: blocks.
        pooling: of all tokens to one vector, as in `TokenPooling`.
        dropout_rate: in the blocks.
        dtype: of the computation.
        param_dtype: of the parameters.

    Raises:
        ValueError: no modality, or their batch sizes differ; `num_heads` does not divide `features`.

    Example:
        >>> text = Features(jnp.ones((2, 3, 5)), jnp.ones((2, 3), bool), jnp.ones((2, 5)), (3,))
        >>> image = Features(jnp.ones((2, 4, 7)), None, jnp.zeros((2, 7)), (2, 2))
        >>> fusion, features = MergedAttention(features=8, num_heads=2), {"image": image, "text": text}
        >>> fused, _ = jax.eval_shape(fusion.init_with_output, jax.random.key(0), features)
        >>> fused.tokens.shape, fused.pooled.shape, fused.grid
        ((2, 7, 8), (2, 8), (7,))

    References:
        Chen et al., "UNITER: UNiversal Image-TExt Representation Learning", 2020, arXiv:1909.11740, section 3.1; the
        name is of Dou et al., "An Empirical Study of Training End-to-End Vision-and-Language Transformers", 2022,
        arXiv:2111.02387, section 3.
    """

    features: int = 256
    num_heads: int = 8
    num_layers: int = 2
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
        check_modalities(features)
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        streams = project_streams(features, self.features, kwargs)
        tokens = jnp.concatenate(list(streams.values()), axis=1)
        mask = joined_mask([features[name] for name in streams])
        for layer in range(self.num_layers):
            block = TransformerBlock(self.num_heads, dropout_rate=self.dropout_rate, name=f"block_{layer}", **kwargs)
            tokens = block(tokens, mask=mask, deterministic=deterministic).tokens
        return end_streams(features, tokens, self.pooling, kwargs)
