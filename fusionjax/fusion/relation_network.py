"""Fusion by relations between pairs of tokens."""

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from flax.typing import Dtype

from fusionjax.encoders import Features
from fusionjax.encoders.places import grid_places
from fusionjax.encoders.pooling import mean_token
from fusionjax.fusion.checks import check_modalities
from fusionjax.fusion.vector import as_features
from fusionjax.layers import Dense
from fusionjax.ops.implementations import on_platform
from fusionjax.ops.micro_batches import map_micro_batches

# Numbers of one layer of all pairs in a micro-batch on a CPU; measured forward and with gradients.
_NUMBERS_PER_STEP = 2**16


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
        sizes = itertools.pairwise(self.relation_features)
        weights = [
            Dense(size, name=f"relation_{layer}", **kwargs).parameters(before)
            for layer, (before, size) in enumerate(sizes, start=1)
        ]
        fused = _mean_relation(first, second, question, objects.mask, weights, self.dtype)
        for layer, size in enumerate(self.features):
            if layer == len(self.features) - 1:
                fused = nn.Dropout(self.dropout_rate, deterministic=deterministic)(fused)
            fused = nn.relu(nn.Dense(size, name=f"fused_{layer}", **kwargs)(fused))
        return as_features(fused)


def _mean_relation(
    first: jax.Array,
    second: jax.Array,
    question: jax.Array,
    mask: jax.Array | None,
    weights: Sequence[Any],
    dtype: Dtype | None,
) -> jax.Array:
    """Gives mean_ij g(o_i, o_j, q), `[batch, relation features]`, from what the first layer made of each by itself.

    On a CPU a few examples at a time, so that their pairs stay in the cache; the gradient computes them again.
    """
    first, second, question, *flat = promote_dtype(first, second, question, *jax.tree.leaves(weights), dtype=dtype)
    keep = jnp.ones(first.shape[:2], bool) if mask is None else mask

    def relate(flat: Any, first: jax.Array, second: jax.Array, question: jax.Array, keep: jax.Array) -> jax.Array:
        # [batch, length, length, relation features]
        pairs = nn.relu(first[:, :, None] + second[:, None] + question[:, None, None])
        for kernel, bias in zip(flat[::2], flat[1::2], strict=True):
            pairs = nn.relu(pairs @ kernel + bias)
        are_kept = keep[:, :, None] & keep[:, None]
        return mean_token(pairs.reshape(len(pairs), -1, pairs.shape[-1]), are_kept.reshape(len(pairs), -1))

    arrays = (first, second, question, keep)
    if not on_platform("cpu"):
        return relate(flat, *arrays)
    numbers = first.shape[1] ** 2 * max([first.shape[2], *(kernel.shape[1] for kernel in flat[::2])])
    relate_again = jax.checkpoint(relate, prevent_cse=False)
    return map_micro_batches(partial(relate_again, flat), arrays, max(1, _NUMBERS_PER_STEP // numbers))
