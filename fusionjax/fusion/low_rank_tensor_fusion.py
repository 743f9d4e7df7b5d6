"""Fusion by the outer product, its weights of low rank."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.encoders import Features
from fusionjax.fusion.checks import check_modalities
from fusionjax.fusion.vector import as_features


class LowRankTensorFusion(nn.Module):
    """A linear map of the outer product of `TensorFusion` that never makes it: z = sum_r prod_m W_m^r [p_m; 1].

    The weight tensor is a sum of R outer products. A missing modality counts as zeros beside the 1.

    Cost: (P + M) R F parameters, 2 P R F operations an example, for pooled sizes of sum P, M modalities, rank R and F
    features.

    Attributes:
        features: width.
        rank: how many products are summed.
        dtype: of the computation.
        param_dtype: of the parameters.

    Raises:
        ValueError: fewer than two modalities, or their batch sizes differ.

    Example:
        >>> one = Features(jnp.ones((2, 3, 5)), None, jnp.ones((2, 5)), (3,))
        >>> two = Features(jnp.ones((2, 4, 7)), None, jnp.zeros((2, 7)), (2, 2))
        >>> fusion, features = LowRankTensorFusion(features=6), {"image": two, "text": one}
        >>> fused, _ = jax.eval_shape(fusion.init_with_output, jax.random.key(0), features)
        >>> fused.pooled.shape
        (2, 6)

    References:
        Liu et al., "Efficient Low-rank Multimodal Fusion with Modality-Specific Factors", 2018, arXiv:1806.00064,
        equation 6.
    """

    features: int = 256
    rank: int = 4
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
            # The bias is the weight of the 1; it must not be zero for all, or no modality alone gets through.
            dense = nn.Dense(
                self.rank * self.features, bias_init=nn.initializers.normal(1.0), name=f"vector_{name}", **kwargs
            )
            product = product * dense(features[name].kept_pooled)
        # [batch, rank, features]
        return as_features(product.reshape(-1, self.rank, self.features).sum(1))
