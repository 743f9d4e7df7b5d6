"""Additive attention as a layer."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float

from fusionjax.layers.dense import Dense
from fusionjax.ops import AttentionOutput, additive_attention


class AdditiveAttention(nn.Module):
    """Weighs a memory by softmax(energy . tanh(W_q query + W_k memory + b)); see `fusionjax.ops.additive_attention`.

    The parameters are the Dense layers `query` and `memory` and the vector `energy`.

    Attributes:
        features: number of hidden units.
        dtype: dtype of the computation; None for the common one of inputs and parameters.
        param_dtype: dtype of the parameters.

    Example:
        >>> layer, query, memory = AdditiveAttention(features=4), jnp.ones((2, 1, 3)), jnp.ones((2, 5, 6))
        >>> output = layer.apply(layer.init(jax.random.key(0), query, memory), query, memory)
        >>> output.values.shape, output.weights.shape
        ((2, 1, 6), (2, 1, 5))

    References:
        Bahdanau, Cho, Bengio, "Neural Machine Translation by Jointly Learning to Align and Translate", 2014,
        arXiv:1409.0473, section A.1.2.
    """

    features: int
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    def setup(self) -> None:
        """Makes the two projections and the energy vector."""
        dense = partial(Dense, self.features, dtype=self.dtype, param_dtype=self.param_dtype)
        self.query = dense(use_bias=False)
        self.memory = dense()
        self.energy = self.param(
            "energy", nn.initializers.normal(self.features**-0.5), (self.features,), self.param_dtype
        )

    def __call__(
        self,
        query: Float[Array, "batch queries query_features"],
        memory: Float[Array, "batch keys features"],
        mask: Bool[Array, "batch keys"] | None = None,
        keys: Float[Array, "batch keys units"] | None = None,
    ) -> AttentionOutput:
        """Attends.

        Args:
            query: `[batch, queries, query_features]`.
            memory: `[batch, keys, features]`.
            mask: `[batch, keys]`, True = keep; None keeps all.
            keys: what `project` made of the memory; None to project it here.

        Returns:
            An `AttentionOutput`: values `[batch, queries, features]`, weights `[batch, queries, keys]`.
        """
        keys = self.memory(memory) if keys is None else keys
        projected, keys, memory, energy = promote_dtype(self.query(query), keys, memory, self.energy, dtype=self.dtype)
        return additive_attention(projected, keys, memory, energy, mask=None if mask is None else mask[:, None, :])

    def project(self, memory: Float[Array, "batch keys features"]) -> Float[Array, "batch keys units"]:
        """Projects the memory once, for many calls.

        Args:
            memory: `[batch, keys, features]`.

        Returns:
            `[batch, keys, units]`, to pass as `keys`.
        """
        return self.memory(memory)
