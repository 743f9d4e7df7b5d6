"""Multi-head attention, with a cache for decoding."""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype, Initializer
from jax import lax
from jaxtyping import Array, Bool, Float

from fusionjax.layers.dense import Dense
from fusionjax.layers.key_value_cache import KeyValue, KeyValueCache
from fusionjax.ops import AttentionOutput, attention
from fusionjax.ops.apart import compute_apart
from fusionjax.ops.implementations import on_platform


class MultiHeadAttentionOutput(NamedTuple):
    """What multi-head attention returns.

    Attributes:
        values: `[batch, queries, features]`.
        weights: `[batch, heads, queries, keys]`, float32, or None unless asked for.
        cache: the cache with the new tokens, or None if none was given.
    """

    values: Float[Array, "batch queries features"]
    weights: Float[Array, "batch heads queries keys"] | None
    cache: KeyValueCache | None


class MultiHeadAttention(nn.Module):
    """Attends with several heads: to the queries themselves, or to given keys and values.

    head_i = softmax(Q W_i^Q (K W_i^K)^T / sqrt(head_dim)) V W_i^V; the output is their join times W^O. The parameters
    are the Dense layers `query`, `key`, `value` and `out`, with flat kernels `[inputs, num_heads * head_dim]`.

    For decoding pass a `cache` (see `init_cache`) with one or more new tokens at a time: every new token sees
    those in the cache and the new ones up to itself. For cross-attention to a constant memory call `project` once and
    pass its result as `keys_values_projected`; if it has fewer rows than the queries, every row of it serves
    the same number of successive query rows, as beams of one example do.

    Attributes:
        num_heads: number of heads.
        features: size of the output; None for that of the queries.
        head_dim: size of each head; None for the output's size / num_heads.
        dropout_rate: share of the output's features dropped.
        use_bias: the four projections have biases.
        dtype: dtype of the computation; None for the common one of inputs and parameters.
        param_dtype: dtype of the parameters.
        kernel_init: initializer of the kernels; the biases start at zero.
        implementation: see `fusionjax.ops.attention`.

    Example:
        >>> layer, tokens, memory = MultiHeadAttention(num_heads=2), jnp.ones((3, 5, 8)), jnp.ones((3, 7, 6))
        >>> variables = layer.init(jax.random.key(0), tokens, memory)
        >>> output = layer.apply(variables, tokens, memory, return_weights=True)
        >>> output.values.shape, output.weights.shape
        ((3, 5, 8), (3, 2, 5, 7))

    References:
        Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, section 3.2.2.
    """

    num_heads: int
    features: int | None = None
    head_dim: int | None = None
    dropout_rate: float = 0.0
    use_bias: bool = True
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    implementation: str | None = None

    def setup(self) -> None:
        """Makes the dropout; the projections are made where the size of the queries is known."""
        self.dropout = nn.Dropout(self.dropout_rate)

    def __call__(
        self,
        queries: Float[Array, "batch queries query_features"],
        keys_values: Float[Array, "memory_batch keys key_features"] | None = None,
        *,
        mask: Bool[Array, "..."] | None = None,
        is_causal: bool = False,
        cache: KeyValueCache | None = None,
        keys_values_projected: KeyValue | None = None,
        return_weights: bool = False,
        deterministic: bool = True,
    ) -> MultiHeadAttentionOutput:
        """Attends.

        Args:
            queries: `[batch, queries, query_features]`.
            keys_values: `[batch, keys, key_features]`; None for the queries.
            mask: True = keep; `[batch, keys]`, or broadcastable to `[batch, heads, queries, keys]`; None keeps all.
            is_causal: query `i` sees only the keys `0 .. i`. Implied by a cache.
            cache: what was decoded so far; `queries` are the next tokens and `mask` speaks of all `max_length` keys.
            keys_values_projected: what `project` returned, in place of `keys_values`.
            return_weights: also return the weights.
            deterministic: switch dropout off; otherwise the random key `"dropout"` is needed.

        Returns:
            A `MultiHeadAttentionOutput`.

        Raises:
            ValueError: the sizes or the mask do not fit, or sources of keys contradict each other.
        """
        features = self.features or queries.shape[-1]
        self._check_sources(keys_values, cache, keys_values_projected, is_causal)
        mask = _expand_mask(mask)
        # [batch, queries, heads, head_dim]
        query = self._project_heads(queries, "query", features)
        if keys_values_projected is None:
            source = queries if keys_values is None else keys_values
            # [batch, keys, heads, head_dim]
            key, value = (self._project_heads(source, name, features) for name in ("key", "value"))
        else:
            key, value = (array.swapaxes(1, 2) for array in keys_values_projected)
        if cache is not None:
            seen = cache.see(queries.shape[1])
            cache = cache.extend(KeyValue(key.swapaxes(1, 2), value.swapaxes(1, 2)))
            mask = cache.spread(seen if mask is None else mask & seen)
            key, value = cache.key.swapaxes(1, 2), cache.value.swapaxes(1, 2)
        query, mask = _group_rows(query, mask, key.shape[0], is_causal and cache is None)

        def attend(query: Array, key: Array, value: Array, mask: Array | None) -> AttentionOutput:
            return attention(
                query,
                key,
                value,
                mask=mask,
                is_causal=is_causal and cache is None,
                return_weights=return_weights,
                implementation=self.implementation,
            )

        if cache is not None and on_platform("cpu"):
            # XLA would else write the new tokens once more for the products, and copy the cache for that at every step.
            attend = partial(compute_apart, cache.index[0] >= 0, attend)
        output = attend(query, key.astype(query.dtype), value.astype(query.dtype), mask)
        weights = _ungroup_weights(output.weights, queries.shape)
        if weights is not None and cache is not None and cache.copies > 1:
            # Of the copies side by side a row saw one.
            weights = weights.reshape(*weights.shape[:3], -1, cache.copies).sum(-1)
        # [batch, queries, heads * head_dim]
        values = output.values.reshape(*queries.shape[:2], -1)
        values = self._dense(values, "out", features)
        values = self.dropout(values, deterministic=deterministic)
        return MultiHeadAttentionOutput(values, weights, cache)

    def project(self, keys_values: Float[Array, "batch keys key_features"]) -> KeyValue:
        """Projects keys and values once, for many calls; needs `features` or `head_dim`.

        Args:
            keys_values: `[batch, keys, key_features]`.

        Returns:
            A `KeyValue` to pass as `keys_values_projected`.

        Raises:
            ValueError: neither `features` nor `head_dim` is given.
        """
        features = self._known_features("project")
        # [batch, heads, keys, head_dim]
        key, value = (self._project_heads(keys_values, name, features).swapaxes(1, 2) for name in ("key", "value"))
        # XLA would else lay the heads out anew at every step of a loop that reads them.
        return lax.optimization_barrier(KeyValue(key, value))

    @nn.nowrap
    def init_cache(
        self, batch: int, max_length: int, dtype: Dtype | None = None, *, is_uniform: bool = False
    ) -> KeyValueCache:
        """Makes an empty cache; needs `features` or `head_dim`.

        Args:
            batch: number of rows.
            max_length: how many tokens it can hold; later ones would overwrite the last.
            dtype: dtype of keys and values; None for that of the computation.
            is_uniform: all rows always hold the same number of tokens, so that a step writes in place.

        Returns:
            A `KeyValueCache` of zeros.

        Raises:
            ValueError: neither `features` nor `head_dim` is given.
        """
        head_dim = self._size_of_heads(self._known_features("init_cache"))
        zeros = jnp.zeros((batch, self.num_heads, max_length, head_dim), dtype or self.dtype or self.param_dtype)
        return KeyValueCache(zeros, zeros, jnp.zeros(batch, jnp.int32), is_uniform=is_uniform)

    @nn.compact
    def _dense(self, inputs: Array, name: str, features: int) -> Array:
        return Dense(
            features,
            use_bias=self.use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=self.kernel_init,
            name=name,
        )(inputs)

    def _project_heads(self, inputs: Array, name: str, features: int) -> Array:
        head_dim = self._size_of_heads(features)
        flat = self._dense(inputs, name, self.num_heads * head_dim)
        # [batch, length, heads, head_dim]
        return flat.reshape(*inputs.shape[:2], self.num_heads, head_dim)

    @nn.nowrap
    def _size_of_heads(self, features: int) -> int:
        if self.head_dim is not None:
            return self.head_dim
        if features % self.num_heads:
            raise ValueError(
                f"features must be divisible by num_heads = {self.num_heads}; got {features}. Or give head_dim."
            )
        return features // self.num_heads

    @nn.nowrap
    def _known_features(self, method: str) -> int:
        if self.features is None and self.head_dim is None:
            raise ValueError(
                f"{method} needs the size of the heads; got neither features nor head_dim. "
                "Give MultiHeadAttention one of the two."
            )
        return self.features or 0

    @nn.nowrap
    def _check_sources(
        self, keys_values: Array | None, cache: KeyValueCache | None, projected: KeyValue | None, is_causal: bool
    ) -> None:
        given = {"keys_values": keys_values, "cache": cache, "keys_values_projected": projected}
        names = [name for name, source in given.items() if source is not None]
        if len(names) > 1:
            raise ValueError(
                f"keys come from one source at most; got {' and '.join(names)}. "
                "A cache is for self-attention, the others are for cross-attention."
            )


def _expand_mask(mask: Array | None) -> Array | None:
    return mask[:, None, None, :] if mask is not None and mask.ndim == 2 else mask


def _group_rows(query: Array, mask: Array | None, rows: int, is_causal: bool) -> tuple[Array, Array | None]:
    """Joins the query rows that share one row of keys into one longer row."""
    batch, length, heads, head_dim = query.shape
    if batch == rows:
        return query, mask
    if batch % rows or is_causal:
        raise ValueError(
            f"the queries' rows must be a multiple of the {rows} rows of keys, without is_causal; got {batch}. "
            "Repeat the keys, or give queries for every row."
        )
    copies = batch // rows
    if mask is not None and mask.shape[0] == batch:
        # [rows, heads or 1, copies * queries, keys]
        mask = jnp.broadcast_to(mask, (*mask.shape[:2], length, mask.shape[3]))
        mask = mask.reshape(rows, copies, *mask.shape[1:]).swapaxes(1, 2)
        mask = mask.reshape(rows, mask.shape[1], copies * length, mask.shape[4])
    return query.reshape(rows, copies * length, heads, head_dim), mask


def _ungroup_weights(weights: Array | None, shape: tuple[int, ...]) -> Array | None:
    """Undoes `_group_rows` for weights `[rows, heads, copies * queries, keys]`."""
    if weights is None or weights.shape[0] == shape[0]:
        return weights
    rows, heads, _, keys = weights.shape
    split = weights.reshape(rows, heads, shape[0] // rows, shape[1], keys)
    return split.swapaxes(1, 2).reshape(shape[0], heads, shape[1], keys)
