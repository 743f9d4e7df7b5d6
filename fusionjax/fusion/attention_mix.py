"""Fusion by attention over the modalities."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax import ops
from fusionjax.encoders import Features
from fusionjax.fusion.checks import check_modalities
from fusionjax.fusion.vector import as_features


class AttentionMix(nn.Module):
    """Mixes the modalities with weights that each one's content gives: z = sum_m a_m h_m.

    h_m = W_m p_m + b_m; a = softmax over the modalities that are there of v . tanh(V h_m + c).

    Cost: (P + M) F + F A + 2 A parameters, 2 (P F + M F A + M A + M F) operations an example, for pooled sizes of sum
    P, M modalities, F features and A attention features.

    Attributes:
        features: width.
        attention_features: width of the scores' hidden layer.
        dtype: of the computation.
        param_dtype: of the parameters.

    Raises:
        ValueError: fewer than two modalities, or their batch sizes differ.

    Example:
        >>> one = Features(jnp.ones((2, 3, 5)), None, jnp.ones((2, 5)), (3,))
        >>> two = Features(jnp.ones((2, 4, 7)), None, jnp.zeros((2, 7)), (2, 2))
        >>> fusion, features = AttentionMix(features=6), {"image": two, "text": one}
        >>> fused, _ = jax.eval_shape(fusion.init_with_output, jax.random.key(0), features)
        >>> fused.pooled.shape
        (2, 6)

    References:
        Hori et al., "Attention-Based Multimodal Fusion for Video Description", 2017, arXiv:1701.03126, section 3.2.
    """

    features: int = 256
    attention_features: int = 128
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Mapping[str, Features], *, deterministic: bool = True) -> Features:
        """Fuses the modalities.

        Args:
            features: of each modality, by name.
            deterministic: without effect here; part of the contract.

        Returns:
            pooled `[batch, features]`, which is also the one token.
        """
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        check_modalities(features, least=2)
        names = sorted(features)
        hidden = [
            nn.Dense(self.features, name=f"vector_{name}", **kwargs)(features[name].kept_pooled) for name in names
        ]
        # [batch, modalities, features] and [batch, modalities]
        stacked = jnp.stack(hidden, axis=1)
        present = jnp.stack([features[name].present for name in names], axis=1)
        scores = jnp.tanh(nn.Dense(self.attention_features, name="attention", **kwargs)(stacked))
        scores = nn.Dense(1, use_bias=False, name="score", **kwargs)(scores)[..., 0]
        weights = ops.masked_softmax(scores, present)
        return as_features(jnp.einsum("bm,bmf->bf", weights.astype(stacked.dtype), stacked))
