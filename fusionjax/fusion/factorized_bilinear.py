"""Fusion by factorised bilinear pooling."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.encoders import Features
from fusionjax.fusion.checks import check_modalities
from fusionjax.fusion.power import normalise_power
from fusionjax.fusion.vector import as_features


class FactorizedBilinear(nn.Module):
    """Sums groups of K products of projections: z_f = sum_k prod_m (U_m p_m + u_m)_{f, k}.

    A bilinear form of every feature whose matrix has rank K, then the signed square root and division by the norm. A
    missing modality's factors are one.

    Cost: (P + M) K F parameters, 2 P K F operations an example, for pooled sizes of sum P, M modalities, K factors and
    F features.

    Attributes:
        features: width.
        factors: products that are summed to one feature.
        dropout_rate: on the products.
        dtype: of the computation.
        param_dtype: of the parameters.

    Raises:
        ValueError: fewer than two modalities, or their batch sizes differ.

    Example:
        >>> one = Features(jnp.ones((2, 3, 5)), None, jnp.ones((2, 5)), (3,))
        >>> two = Features(jnp.ones((2, 4, 7)), None, jnp.zeros((2, 7)), (2, 2))
        >>> fusion, features = FactorizedBilinear(features=6), {"image": two, "text": one}
        >>> fused, _ = jax.eval_shape(fusion.init_with_output, jax.random.key(0), features)
        >>> fused.pooled.shape
        (2, 6)

    References:
        Yu et al., "Multi-modal Factorized Bilinear Pooling with Co-Attention Learning for Visual Question Answering",
        2017, arXiv:1708.01471, equation 3 and figure 1.
    """

    features: int = 256
    factors: int = 5
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
            pooled `[batch, features]`, which is also the one token.
        """
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        check_modalities(features, least=2)
        product: Any = 1
        for name in sorted(features):
            factor = nn.Dense(self.factors * self.features, name=f"vector_{name}", **kwargs)(features[name].kept_pooled)
            product = product * jnp.where(features[name].present[:, None], factor, 1)
        product = nn.Dropout(self.dropout_rate, deterministic=deterministic)(product)
        # [batch, features, factors]
        return as_features(normalise_power(product.reshape(-1, self.features, self.factors).sum(-1)))
