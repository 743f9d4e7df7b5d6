"""Fusion by attending several times."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax import ops
from fusionjax.encoders import Features
from fusionjax.fusion.checks import check_modalities
from fusionjax.fusion.tokens import TokenProjection, joined_mask
from fusionjax.fusion.vector import as_features


class StackedAttention(nn.Module):
    """Lets a question look at tokens several times: u_0 = q, u_k = u_k-1 + sum_i p_i v_i.

    p = softmax over i of w . tanh(V v_i + U u_k-1 + c); q: the pooled vector of `query`, projected to `features`; v_i:
    the tokens of all others, each modality projected and marked as by `TokenProjection`. Masked tokens get no weight;
    where nothing can be seen, u stays.

    Cost: beside the projections (Q + 1) F + K (2 F A + 2 A) parameters; 2 (Q F + K (L F A + F A + L A + L F))
    operations an example and 2 F times length times size of the projections, for L tokens, Q numbers of the query, F
    features, A attention features and K layers.

    Attributes:
        query: the modality that looks.
        features: width.
        attention_features: width of the scores' hidden layer.
        num_layers: how often it looks.
        dtype: of the computation.
        param_dtype: of the parameters.

    Raises:
        ValueError: the query is missing or alone, or batch sizes differ.

    Example:
        >>> one = Features(jnp.ones((2, 3, 5)), None, jnp.ones((2, 5)), (3,))
        >>> two = Features(jnp.ones((2, 4, 7)), None, jnp.zeros((2, 7)), (2, 2))
        >>> fusion, features = StackedAttention(features=6), {"image": two, "text": one}
        >>> fused, _ = jax.eval_shape(fusion.init_with_output, jax.random.key(0), features)
        >>> fused.pooled.shape
        (2, 6)

    References:
        Yang et al., "Stacked Attention Networks for Image Question Answering", 2016, arXiv:1511.02274, equations 15 to
        21.
    """

    query: str = "text"
    features: int = 256
    attention_features: int = 128
    num_layers: int = 2
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

        check_modalities(features, needed=self.query, least=2)
        others = [name for name in sorted(features) if name != self.query]
        tokens = [TokenProjection(self.features, name=f"tokens_{name}", **kwargs)(features[name]) for name in others]
        memory, mask = jnp.concatenate(tokens, axis=1), joined_mask([features[name] for name in others])
        keep = jnp.ones(memory.shape[:2], bool) if mask is None else mask
        state = nn.Dense(self.features, name="query", **kwargs)(features[self.query].kept_pooled)
        for layer in range(self.num_layers):
            keys = nn.Dense(self.attention_features, use_bias=False, name=f"keys_{layer}", **kwargs)(memory)
            asked = nn.Dense(self.attention_features, name=f"asked_{layer}", **kwargs)(state)
            score = nn.Dense(1, use_bias=False, name=f"score_{layer}", **kwargs)(jnp.tanh(keys + asked[:, None]))
            weights = ops.masked_softmax(score[..., 0], keep)
            state = state + jnp.einsum("bl,blf->bf", weights.astype(memory.dtype), memory)
        return as_features(state)
