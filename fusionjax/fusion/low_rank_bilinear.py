"""Fusion by low-rank bilinear pooling."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.encoders import Features
from fusionjax.fusion.checks import check_modalities
from fusionjax.fusion.vector import as_features


class LowRankBilinear(nn.Module):
    """Multiplies projections of the pooled vectors element by element: z = O (prod_m tanh(U_m p_m + u_m)) + o.

    A bilinear form of every feature whose matrix has rank R. A missing modality's factor is one.

    Cost: (P + M) R + (R + 1) F parameters, 2 R (P + F) operations an example, for pooled sizes of sum P, M modalities,
    rank R and F features.

    Attributes:
        features: width.
        rank: width of the product.
        dtype: of the computation.
        param_dtype: of the parameters.

    Raises:
        ValueError: fewer than two modalities, or their batch sizes differ.

    Example:
        >>> one = Features(jnp.ones((2, 3, 5)), None, jnp.ones((2, 5)), (3,))
        >>> two = Features(jnp.ones((2, 4, 7)), None, jnp.zeros((2, 7)), (2, 2))
        >>> fusion, features = LowRankBilinear(features=6, rank=8), {"image": two, "text": one}
        >>> fused, _ = jax.eval_shape(fusion.init_with_output, jax.random.key(0), features)
        >>> fused.pooled.shape
        (2, 6)

    References:
        Kim et al., "Hadamard Product for Low-rank Bilinear Pooling", 2017, arXiv:1610.04325, section 3.
    """

    features: int = 256
    rank: int = 256
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
        product: Any = 1
        for name in sorted(features):
            factor = jnp.tanh(nn.Dense(self.rank, name=f"vector_{name}", **kwargs)(features[name].kept_pooled))
            product = product * jnp.where(features[name].present[:, None], factor, 1)
        return as_features(nn.Dense(self.features, name="out", **kwargs)(product))
