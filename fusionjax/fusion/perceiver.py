"""Fusion by learned queries that read all tokens."""

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


class PerceiverResampler(nn.Module):
    """Reads the tokens of all modalities into a fixed number of latent tokens, which learned vectors begin.

    In every layer z += Attention(norm z, [x; norm z]) with queries from the latent tokens and keys and values from all
    tokens x (projected and marked as by `TokenProjection`, normalised) and the latent tokens themselves, then z +=
    MLP(norm z). What comes after costs the same however long the modalities are. Masked tokens, and so missing
    modalities, are read by none.

    Cost: beside the projections N F + K (12 F^2 + 15 F) + 2 F parameters; 2 K (2 N F^2 + 2 (L + N) F^2 + 2 N (L + N) F
    + 8 N F^2) operations an example, for L tokens of all modalities, N latent tokens, F features and K layers.

    Attributes:
        features: width; divisible by `num_heads`.
        num_heads: of the attention.
        num_layers: of the latent tokens.
        num_latents: latent tokens.
        pooling: of the latent tokens to one vector, as in `TokenPooling`.
        dropout_rate: in the blocks.
        dtype: of the computation.
        param_dtype: of the parameters.

    Raises:
        ValueError: no modality, or their batch sizes differ; `num_heads` does not divide `features`.

    Example:
        >>> text = Features(jnp.ones((2, 3, 5)), jnp.ones((2, 3), bool), jnp.ones((2, 5)), (3,))
        >>> image = Features(jnp.ones((2, 4, 7)), None, jnp.zeros((2, 7)), (2, 2))
        >>> fusion = PerceiverResampler(features=8, num_heads=2, num_latents=5)
        >>> features = {"image": image, "text": text}
        >>> fused, _ = jax.eval_shape(fusion.init_with_output, jax.random.key(0), features)
        >>> fused.tokens.shape, fused.pooled.shape, fused.grid
        ((2, 5, 8), (2, 8), (5,))

    References:
        Alayrac et al., "Flamingo: a Visual Language Model for Few-Shot Learning", 2022, arXiv:2204.14198, section 2.1
        and appendix A.1.1; Jaegle et al., "Perceiver: General Perception with Iterative Attention", 2021,
        arXiv:2103.03206.
    """

    features: int = 256
    num_heads: int = 8
    num_layers: int = 2
    num_latents: int = 16
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
            tokens `[batch, num_latents, features]` without a mask.
        """
        check_modalities(features)
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        streams = project_streams(features, self.features, kwargs)
        memory = jnp.concatenate(list(streams.values()), axis=1)
        mask = joined_mask([features[name] for name in streams])
        keep = jnp.ones(memory.shape[:2], bool) if mask is None else mask
        shape, batch = (self.num_latents, self.features), memory.shape[0]
        mask = jnp.concatenate([keep, jnp.ones((batch, self.num_latents), bool)], axis=1)
        latents = self.param("latents", nn.initializers.normal(0.02), shape, self.param_dtype)
        latents = jnp.broadcast_to(latents.astype(memory.dtype), (batch, *shape))
        drop = nn.Dropout(self.dropout_rate, deterministic=deterministic)
        for layer in range(self.num_layers):
            norms = [nn.LayerNorm(name=f"{part}_norm_{layer}", **kwargs) for part in ("memory", "latents")]
            read, asking = norms[0](memory), norms[1](latents)
            attention = MultiHeadAttention(self.num_heads, name=f"attention_{layer}", **kwargs)
            values = attention(asking, jnp.concatenate([read, asking], axis=1), mask=mask).values
            latents = latents + drop(values)
            latents = latents + drop(Perceptron(name=f"mlp_{layer}", **kwargs)(latents))
        latents = nn.LayerNorm(name="norm", **kwargs)(latents)
        pooled = TokenPooling(self.pooling, name="pool", **kwargs)(latents)
        return Features(latents, None, pooled, (self.num_latents,))
