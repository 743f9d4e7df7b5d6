"""Fusion of all tokens as one set."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.encoders import Features
from fusionjax.encoders.pooling import mean_token
from fusionjax.fusion.checks import check_modalities
from fusionjax.fusion.tokens import TokenProjection, joined_mask
from fusionjax.fusion.vector import as_features


class DeepSets(nn.Module):
    """Takes the tokens of all modalities as one set: z = relu(R mean_i phi(x_i) + r).

    phi(x) = relu(W_2 relu(W_1 x + b_1) + b_2). The tokens are first projected and marked as by `TokenProjection`, so
    that the set knows whose they are. Unlike in the paper the sum over the kept tokens is divided by their number.
    Masked tokens, and so missing modalities, count nothing.

    Cost: beside the projections 3 (F + 1) F parameters; 2 F F (2 L + 1) operations an example for L tokens, and for the
    projections 2 F times the sum of length times size.

    Attributes:
        features: width.
        dtype: of the computation.
        param_dtype: of the parameters.

    Raises:
        ValueError: no modality, or their batch sizes differ.

    Example:
        >>> one = Features(jnp.ones((2, 3, 5)), None, jnp.ones((2, 5)), (3,))
        >>> two = Features(jnp.ones((2, 4, 7)), None, jnp.zeros((2, 7)), (2, 2))
        >>> fusion, features = DeepSets(features=6), {"image": two, "text": one}
        >>> fused, _ = jax.eval_shape(fusion.init_with_output, jax.random.key(0), features)
        >>> fused.pooled.shape
        (2, 6)

    References:
        Zaheer et al., "Deep Sets", 2017, arXiv:1703.06114, theorem 2.
    """

    features: int = 256
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

        check_modalities(features)
        names = sorted(features)
        tokens = [TokenProjection(self.features, name=f"tokens_{name}", **kwargs)(features[name]) for name in names]
        joined = jnp.concatenate(tokens, axis=1)
        for layer in range(2):
            joined = nn.relu(nn.Dense(self.features, name=f"element_{layer}", **kwargs)(joined))
        pooled = mean_token(joined, joined_mask([features[name] for name in names]))
        return as_features(nn.relu(nn.Dense(self.features, name="set", **kwargs)(pooled)))
