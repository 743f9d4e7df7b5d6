"""Fusion by cross-attention."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.encoders import Features, PoolingKind, TokenPooling
from fusionjax.fusion.checks import check_modalities
from fusionjax.fusion.tokens import TokenProjection, joined_mask
from fusionjax.layers import TransformerBlock


class CrossAttention(nn.Module):
    """Lets the tokens of one modality look at the tokens of all others.

    Queries: the tokens of `query`, projected to `features`. Memory: the tokens of every other modality, each projected
    to `features` and marked as by `TokenProjection`, one after the other. Each layer is a pre-norm block of
    self-attention, cross-attention and MLP, and a norm ends them. Masked tokens of either side never change the result.
    With one modality alone only self-attention is left.

    Cost: beside the projections K (16 F^2 + 19 F) + 2 F parameters; 2 K (14 l F^2 + 2 m F^2 + 2 l^2 F + 2 l m F)
    operations an example, for a query of l tokens, m others, F features and K layers; alone K (12 F^2 + 13 F) + 2 F and
    2 K (12 l F^2 + 2 l^2 F).

    Attributes:
        query: the modality that looks.
        features: width; divisible by `num_heads`.
        num_heads: of the attention.
        num_layers: blocks.
        pooling: of the query's tokens to one vector, as in `TokenPooling`.
        dropout_rate: in the blocks.
        dtype: of the computation.
        param_dtype: of the parameters.

    Raises:
        ValueError: the query's modality is missing, or batch sizes differ.

    Example:
        >>> text = Features(jnp.ones((2, 3, 5)), jnp.ones((2, 3), bool), jnp.ones((2, 5)), (3,))
        >>> image = Features(jnp.ones((2, 4, 7)), None, jnp.zeros((2, 7)), (2, 2))
        >>> fusion, features = CrossAttention(features=8, num_heads=2), {"image": image, "text": text}
        >>> fused, _ = jax.eval_shape(fusion.init_with_output, jax.random.key(0), features)
        >>> fused.tokens.shape, fused.pooled.shape, fused.grid
        ((2, 3, 8), (2, 8), (3,))

    References:
        Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, section 3.2.3.
        Tsai et al., "Multimodal Transformer for Unaligned Multimodal Language Sequences", 2019, arXiv:1906.00295,
        equation 1.
    """

    query: str = "text"
    features: int = 256
    num_heads: int = 8
    num_layers: int = 1
    pooling: PoolingKind = "mean"
    dropout_rate: float = 0.0
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Mapping[str, Features], *, deterministic: bool = True) -> Features:
        """Fuses the modalities.

        Args:
            features: of each modality, by name; one is `query`.
            deterministic: switches dropout off.

        Returns:
            tokens `[batch, length of the query, features]`, zero where masked; their mask and grid are the query's.
        """
        check_modalities(features, needed=self.query)
        query, others = features[self.query], [name for name in sorted(features) if name != self.query]
        projected = {
            name: TokenProjection(self.features, self.dtype, self.param_dtype, name=f"tokens_{name}")(features[name])
            for name in (self.query, *others)
        }
        tokens, memory, memory_mask = projected[self.query], None, None
        if others:
            # [batch, sum of lengths, features] and [batch, sum of lengths]
            memory = jnp.concatenate([projected[name] for name in others], axis=1)
            memory_mask = joined_mask([features[name] for name in others])
        for layer in range(self.num_layers):
            block = TransformerBlock(
                self.num_heads,
                use_cross_attention=bool(others),
                dropout_rate=self.dropout_rate,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=f"block_{layer}",
            )
            output = block(tokens, memory, mask=query.mask, memory_mask=memory_mask, deterministic=deterministic)
            tokens = output.tokens
        tokens = nn.LayerNorm(dtype=self.dtype, param_dtype=self.param_dtype, name="norm")(tokens)
        if query.mask is not None:
            tokens = jnp.where(query.mask[..., None], tokens, 0)
        pool = TokenPooling(self.pooling, dtype=self.dtype, param_dtype=self.param_dtype, name="pool")
        return Features(tokens=tokens, mask=query.mask, pooled=pool(tokens, query.mask), grid=query.grid)
