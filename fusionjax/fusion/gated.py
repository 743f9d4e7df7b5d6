"""Fusion by learned gates."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.encoders import Features
from fusionjax.fusion.checks import check_modalities
from fusionjax.fusion.vector import as_features


class GatedMultimodalUnit(nn.Module):
    """Mixes the modalities by gates that look at all of them: h_m = tanh(W_m p_m), s = sigma(Z [p_1; ...; p_M]).

    With two modalities z = s * h_1 + (1 - s) * h_2, in the order of the mapping's keys, sorted; with more, each has a
    gate of its own, z = sum_m s_m * h_m. A missing modality counts as zeros, so its h_m is zero.

    Cost: F (P + G P) parameters, 2 F P (1 + G) operations an example, for pooled sizes of sum P, F features and G
    gates: one for two modalities, otherwise one for each.

    Attributes:
        features: width.
        dtype: of the computation.
        param_dtype: of the parameters.

    Raises:
        ValueError: fewer than two modalities, or their batch sizes differ.

    Example:
        >>> one = Features(jnp.ones((2, 3, 5)), None, jnp.ones((2, 5)), (3,))
        >>> two = Features(jnp.ones((2, 4, 7)), None, jnp.zeros((2, 7)), (2, 2))
        >>> fusion, features = GatedMultimodalUnit(features=6), {"image": two, "text": one}
        >>> fused, _ = jax.eval_shape(fusion.init_with_output, jax.random.key(0), features)
        >>> fused.pooled.shape
        (2, 6)

    References:
        Arevalo et al., "Gated Multimodal Units for Information Fusion", 2017, arXiv:1702.01992, section 3.1, figure 2.
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

        check_modalities(features, least=2)
        names = sorted(features)
        pooled = [features[name].kept_pooled for name in names]
        hidden = [
            jnp.tanh(nn.Dense(self.features, use_bias=False, name=f"vector_{name}", **kwargs)(vector))
            for name, vector in zip(names, pooled, strict=True)
        ]
        count = 1 if len(names) == 2 else len(names)
        gates = nn.Dense(count * self.features, use_bias=False, name="gates", **kwargs)(
            jnp.concatenate(pooled, axis=-1)
        )
        gates = jnp.split(nn.sigmoid(gates), count, axis=-1)
        if count == 1:
            gates = [gates[0], 1 - gates[0]]
        return as_features(sum(gate * one for gate, one in zip(gates, hidden, strict=True)))
