"""Fusion by joining the pooled vectors."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp

from fusionjax.encoders import Features
from fusionjax.fusion.checks import check_modalities
from fusionjax.fusion.vector import as_features


class Concat(nn.Module):
    """Joins the pooled vectors of all modalities: z = [p_1; p_2; ...], in the order of the mapping's keys, sorted.

    The plainest fusion and the one to beat; it has no parameters. With encoders that pool by flattening it is the
    classic form, in which both branches are flattened and joined. A missing modality counts as zeros.

    Cost: none.

    Raises:
        ValueError: no modality came, or their batch sizes differ.

    Example:
        >>> one = Features(jnp.ones((2, 3, 5)), None, jnp.ones((2, 5)), (3,))
        >>> two = Features(jnp.ones((2, 4, 7)), None, jnp.zeros((2, 7)), (2, 2))
        >>> fused = Concat().apply({}, {"image": one, "text": two})
        >>> fused.pooled.shape, fused.tokens.shape, fused.grid
        ((2, 12), (2, 1, 12), (1,))

    References:
        Baltrusaitis, Ahuja and Morency, "Multimodal Machine Learning: A Survey and Taxonomy", 2017, arXiv:1705.09406,
        section 3.1 (joint representations).
    """

    @nn.compact
    def __call__(self, features: Mapping[str, Features], *, deterministic: bool = True) -> Features:
        """Joins the modalities.

        Args:
            features: of each modality, by name.
            deterministic: without effect here; part of the contract.

        Returns:
            pooled `[batch, sum of pooled_features]`, which is also the one token.
        """
        check_modalities(features)
        return as_features(jnp.concatenate([features[name].kept_pooled for name in sorted(features)], axis=-1))
