"""Fusion by the outer product."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.encoders import Features
from fusionjax.fusion.checks import check_modalities
from fusionjax.fusion.vector import as_features

_MOST_FEATURES = 2**20


class TensorFusion(nn.Module):
    """Joins all products of features: z = [h_1; 1] (x) [h_2; 1] (x) ..., flattened, with h_m = W_m p_m + b_m.

    Holds each modality alone, every pair and so on. A missing modality's h_m is zero, which leaves the others' terms.

    Cost: (P + M) F parameters, 2 P F operations an example and (F + 1)^2 + ... + (F + 1)^M multiplications, for pooled
    sizes of sum P, M modalities and F features of each.

    Attributes:
        features: of each modality before the product.
        dtype: of the computation.
        param_dtype: of the parameters.

    Raises:
        ValueError: fewer than two modalities, different batch sizes, or a product too large.

    Example:
        >>> one = Features(jnp.ones((2, 3, 5)), None, jnp.ones((2, 5)), (3,))
        >>> two = Features(jnp.ones((2, 4, 7)), None, jnp.zeros((2, 7)), (2, 2))
        >>> fusion, features = TensorFusion(features=3), {"image": two, "text": one}
        >>> fused, _ = jax.eval_shape(fusion.init_with_output, jax.random.key(0), features)
        >>> fused.pooled.shape
        (2, 16)

    References:
        Zadeh et al., "Tensor Fusion Network for Multimodal Sentiment Analysis", 2017, arXiv:1707.07250, equation 2.
    """

    features: int = 16
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Mapping[str, Features], *, deterministic: bool = True) -> Features:
        """Fuses the modalities.

        Args:
            features: of each modality, by name.
            deterministic: without effect here; part of the contract.

        Returns:
            pooled `[batch, (features + 1) ** modalities]`, which is also the one token.
        """
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        check_modalities(features, least=2)
        size = (self.features + 1) ** len(features)
        if size > _MOST_FEATURES:
            raise ValueError(
                f"the product of {len(features)} modalities of {self.features} features must have at most "
                f"{_MOST_FEATURES} features; got {size}. Lower features, or take LowRankTensorFusion."
            )
        product: Any = None
        for name in sorted(features):
            hidden = nn.Dense(self.features, name=f"vector_{name}", **kwargs)(features[name].kept_pooled)
            hidden = jnp.where(features[name].present[:, None], hidden, 0)
            hidden = jnp.concatenate([hidden, jnp.ones_like(hidden[:, :1])], axis=-1)
            # [batch, (features + 1)^k]
            product = hidden if product is None else (product[:, :, None] * hidden[:, None]).reshape(len(hidden), -1)
        return as_features(product)
