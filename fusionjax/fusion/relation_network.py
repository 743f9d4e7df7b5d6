"""Fusion by relations between pairs of tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.encoders import Features
from fusionjax.encoders.places import grid_places
from fusionjax.encoders.pooling import mean_token
from fusionjax.fusion.checks import check_modalities
from fusionjax.fusion.vector import as_features


class RelationNetwork(nn.Module):
    """Looks at every pair of tokens together with the other modalities: z = f(mean_ij g(o_i, o_j, q)).

    o_i: the kept tokens of `objects`, each with its place (coordinates from -1 to 1 along each axis of its grid); q:
    the pooled vectors of the other modalities; g: `relation_features`, f: `features`, fully connected layers with ReLU.
    The first layer of g is linear in its three inputs, so each is multiplied once and the products added for every
    pair. Unlike in the paper the sum over pairs is divided by their number, which changes the scale of f's first
    weights alone.

    Cost: (2 (O + A) + Q + 1) G_1 + sum_k>1 (G_k-1 + 1) G_k parameters of g and sum_k (F_k-1 + 1) F_k of f, F_0 being
    the last G; 2 (2 L (O + A) G_1 + Q G_1 + L^2 sum_k>1 G_k-1 G_k + sum_k F_k-1 F_k) operations an example, for L
    objects of size O, A axes of the grid, Q numbers of the others, G the relation features and F the features.

    Attributes:
        objects: the modality whose tokens are related.
        relation_features: of the layers of g.
        features: of the layers of f; the last is the width of the result.
        dropout_rate: before the last layer of f.
        dtype: of the computation.
        param_dtype: of the parameters.

    Raises:
        ValueError: `objects` is missing or alone, batch sizes differ, or there is no layer of g or of f.

    Example:
        >>> one = Features(jnp.ones((2, 3, 5)), None, jnp.ones((2, 5)), (3,))
        >>> two = Features(jnp.ones((2, 4, 7)), None, jnp.zeros((2, 7)), (2, 2))
        >>> fusion, features = RelationNetwork(features=(6,)), {"image": two, "text": one}
        >>> fused, _ = jax.eval_shape(fusion.init_with_output, jax.random.key(0), features)
        >>> fused.pooled.shape
        (2, 6)

    References:
        Santoro et al., "A Simple Neural Network Module for Relational Reasoning", 2017, arXiv:1706.01427, equation 1
        and section 3.
    """

    objects: str = "image"
    relation_features: Sequence[int] = (128, 128, 128)
    features: Sequence[int] = (256, 256)
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
            pooled `[batch, features[-1]]`, which is also the one token.
        """
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        check_modalities(features, needed=self.objects, least=2)
        if not self.relation_features or not self.features:
            raise ValueError(
                "relation_features and features must each be one size or more; got "
                f"{tuple(self.relation_features)} and {tuple(self.features)}. Give the layers of g and of f."
            )
        objects = features[self.objects]
        others = [features[name].kept_pooled for name in sorted(features) if name != self.objects]
        places = jnp.broadcast_to(grid_places(objects.grid), (*objects.tokens.shape[:2], len(objects.grid)))
        things = jnp.concatenate([objects.kept_tokens, places.astype(objects.tokens.dtype)], axis=-1)
        first, second = (
            nn.Dense(self.relation_features[0], use_bias=False, name=name, **kwargs)(things)
            for name in ("first", "second")
        )
        question = nn.Dense(self.relation_features[0], name="question", **kwargs)(jnp.concatenate(others, axis=-1))
        # [batch, length, length, relation features]
        pairs = nn.relu(first[:, :, None] + second[:, None] + question[:, None, None])
        for layer, size in enumerate(self.relation_features[1:], start=1):
            pairs = nn.relu(nn.Dense(size, name=f"relation_{layer}", **kwargs)(pairs))
        mask = None
        if objects.mask is not None:
            mask = (objects.mask[:, :, None] & objects.mask[:, None]).reshape(len(pairs), -1)
        fused = mean_token(pairs.reshape(len(pairs), -1, pairs.shape[-1]), mask)
        for layer, size in enumerate(self.features):
            if layer == len(self.features) - 1:
                fused = nn.Dropout(self.dropout_rate, deterministic=deterministic)(fused)
            fused = nn.relu(nn.Dense(size, name=f"fused_{layer}", **kwargs)(fused))
        return as_features(fused)
