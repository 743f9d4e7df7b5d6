"""Fusion by learned queries that share a Transformer with the words and look at the rest."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.encoders import Features, PoolingKind, TokenPooling
from fusionjax.fusion.checks import check_modalities
from fusionjax.fusion.perceptron import Perceptron
from fusionjax.fusion.streams import project_streams
from fusionjax.fusion.tokens import joined_mask
from fusionjax.layers import MultiHeadAttention


class QFormer(nn.Module):
    """Lets learned queries speak with the words and look at the other modalities; the queries are the result.

    In every layer [z; words] += SelfAttention(norm [z; words]), then the queries alone z += CrossAttention(norm z, x),
    then each side its own MLP; x: the tokens of all other modalities. All tokens are projected and marked as by
    `TokenProjection`. Unlike in the paper every layer has cross-attention and the normalisation comes first. Masked
    tokens, and so missing modalities, are seen by none.

    Cost: beside the projections N F + K (16 F^2 + 19 F) + (K - 1) (8 F^2 + 7 F) + 2 F parameters; 2 K (4 S F^2 + 2 S^2
    F + 10 N F^2 + 2 L F^2 + 2 N L F) + 2 (K - 1) 8 W F^2 operations an example, for N queries, W words, S = N + W, L
    other tokens, F features and K layers. The terms of K - 1 are the words' MLP: the last layer, whose words are not
    read, has none, and without words there is none.

    Attributes:
        text: the modality that shares the self-attention with the queries; where it did not come, they are alone.
        features: width; divisible by `num_heads`.
        num_heads: of the attention.
        num_layers: of the queries and words.
        num_queries: learned queries.
        pooling: of the queries to one vector, as in `TokenPooling`.
        dropout_rate: in the blocks.
        dtype: of the computation.
        param_dtype: of the parameters.

    Raises:
        ValueError: no modality but `text`, or batch sizes differ; `num_heads` does not divide `features`.

    Example:
        >>> text = Features(jnp.ones((2, 3, 5)), jnp.ones((2, 3), bool), jnp.ones((2, 5)), (3,))
        >>> image = Features(jnp.ones((2, 4, 7)), None, jnp.zeros((2, 7)), (2, 2))
        >>> fusion, features = QFormer(features=8, num_heads=2, num_queries=5), {"image": image, "text": text}
        >>> fused, _ = jax.eval_shape(fusion.init_with_output, jax.random.key(0), features)
        >>> fused.tokens.shape, fused.pooled.shape, fused.grid
        ((2, 5, 8), (2, 8), (5,))

    References:
        Li et al., "BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders and Large Language
        Models", 2023, arXiv:2301.12597, section 3.1, figure 2.
    """

    text: str = "text"
    features: int = 256
    num_heads: int = 8
    num_layers: int = 2
    num_queries: int = 16
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
            tokens `[batch, num_queries, features]` without a mask.
        """
        check_modalities(features, least=2 if self.text in features else 1)
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        streams = project_streams(features, self.features, kwargs)
        words = streams.pop(self.text, None)
        memory, memory_mask = (
            jnp.concatenate(list(streams.values()), axis=1),
            joined_mask([features[name] for name in streams]),
        )
        batch, count = memory.shape[0], self.num_queries
        queries = self.param("queries", nn.initializers.normal(0.02), (count, self.features), self.param_dtype)
        tokens, mask = jnp.broadcast_to(queries.astype(memory.dtype), (batch, *queries.shape)), None
        if words is not None:
            tokens = jnp.concatenate([tokens, words], axis=1)
            keep = features[self.text].mask
            if keep is not None:
                mask = jnp.concatenate([jnp.ones((batch, count), bool), keep], axis=1)
        drop = nn.Dropout(self.dropout_rate, deterministic=deterministic)
        for layer in range(self.num_layers):
            attend = {
                part: MultiHeadAttention(self.num_heads, name=f"{part}_{layer}", **kwargs) for part in ("self", "cross")
            }
            normalised = nn.LayerNorm(name=f"self_norm_{layer}", **kwargs)(tokens)
            tokens = tokens + drop(attend["self"](normalised, mask=mask).values)
            asking, words = tokens[:, :count], tokens[:, count:]
            normalised = nn.LayerNorm(name=f"cross_norm_{layer}", **kwargs)(asking)
            asking = asking + drop(attend["cross"](normalised, memory, mask=memory_mask).values)
            tokens = asking + drop(Perceptron(name=f"query_mlp_{layer}", **kwargs)(asking))
            if words.shape[1] and layer < self.num_layers - 1:
                words = words + drop(Perceptron(name=f"text_mlp_{layer}", **kwargs)(words))
                tokens = jnp.concatenate([tokens, words], axis=1)
        queries = nn.LayerNorm(name="norm", **kwargs)(tokens)
        pooled = TokenPooling(self.pooling, name="pool", **kwargs)(queries)
        return Features(queries, None, pooled, (count,))
