"""Fusion by a Tucker decomposition of bilinear pooling."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.encoders import Features
from fusionjax.fusion.checks import check_modalities
from fusionjax.fusion.vector import as_features


class Mutan(nn.Module):
    """Sums R products of projections: z = O (sum_r prod_m M_m^r tanh(W_m p_m + w_m)) + o.

    The core tensor of a Tucker decomposition, each of whose slices has rank R. A missing modality's factors are one.

    Cost: (P + M) H + M (H + 1) R T + (T + 1) F parameters, 2 (P H + M H R T + T F) operations an example, for pooled
    sizes of sum P, M modalities, H hidden features, rank R, T core features and F features.

    Attributes:
        features: width.
        hidden_features: of each modality, before the core.
        core_features: of the core's result.
        rank: how many products are summed.
        dtype: of the computation.
        param_dtype: of the parameters.

    Raises:
        ValueError: fewer than two modalities, or their batch sizes differ.

    Example:
        >>> one = Features(jnp.ones((2, 3, 5)), None, jnp.ones((2, 5)), (3,))
        >>> two = Features(jnp.ones((2, 4, 7)), None, jnp.zeros((2, 7)), (2, 2))
        >>> fusion, features = Mutan(features=6), {"image": two, "text": one}
        >>> fused, _ = jax.eval_shape(fusion.init_with_output, jax.random.key(0), features)
        >>> fused.pooled.shape
        (2, 6)

    References:
        Ben-younes et al., "MUTAN: Multimodal Tucker Fusion for Visual Question Answering", 2017, arXiv:1705.06676,
        section 3.
    """

    features: int = 256
    hidden_features: int = 128
    core_features: int = 128
    rank: int = 5
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
            hidden = jnp.tanh(
                nn.Dense(self.hidden_features, name=f"vector_{name}", **kwargs)(features[name].kept_pooled)
            )
            factors = nn.Dense(self.rank * self.core_features, name=f"core_{name}", **kwargs)(hidden)
            product = product * jnp.where(features[name].present[:, None], factors, 1)
        # [batch, rank, core features]
        summed = product.reshape(-1, self.rank, self.core_features).sum(1)
        return as_features(nn.Dense(self.features, name="out", **kwargs)(summed))
