"""Fusion by adding projected vectors."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.encoders import Features
from fusionjax.fusion.checks import check_modalities
from fusionjax.fusion.vector import as_features


class Sum(nn.Module):
    """Adds the pooled vectors of all modalities, each projected to one width: z = sum_m (W_m p_m + b_m).

    A missing modality adds nothing. Without `features` the vectors are added as they are, which takes equal sizes.

    Cost: (P + M) F parameters, 2 P F operations an example, for pooled sizes of sum P, M modalities and F features.

    Attributes:
        features: width; None to project nothing.
        dtype: of the computation.
        param_dtype: of the parameters.

    Raises:
        ValueError: fewer than two modalities, different batch sizes, or vectors of different sizes without `features`.

    Example:
        >>> one = Features(jnp.ones((2, 3, 5)), None, jnp.ones((2, 5)), (3,))
        >>> two = Features(jnp.ones((2, 4, 7)), None, jnp.zeros((2, 7)), (2, 2))
        >>> fusion, features = Sum(features=6), {"image": two, "text": one}
        >>> fused, _ = jax.eval_shape(fusion.init_with_output, jax.random.key(0), features)
        >>> fused.pooled.shape
        (2, 6)

    References:
        Baltrusaitis, Ahuja and Morency, "Multimodal Machine Learning: A Survey and Taxonomy", 2017, arXiv:1705.09406,
        section 3.1 (joint representations).
    """

    features: int | None = 256
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
        check_modalities(features, least=2)
        if self.features is None:
            sizes = {name: features[name].pooled.shape[-1] for name in sorted(features)}
            if len(set(sizes.values())) > 1:
                raise ValueError(
                    f"vectors that are added must have one size; got {sizes}. Set features to project them."
                )
            vectors = [features[name].kept_pooled for name in sizes]
            return as_features(sum(vectors[1:], start=vectors[0]).astype(self.dtype or jnp.result_type(*vectors)))
        total: Any = 0
        for name in sorted(features):
            dense = nn.Dense(self.features, dtype=self.dtype, param_dtype=self.param_dtype, name=f"vector_{name}")
            total = total + jnp.where(features[name].present[:, None], dense(features[name].kept_pooled), 0)
        return as_features(total)
