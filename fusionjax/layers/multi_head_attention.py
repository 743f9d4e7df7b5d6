"""Multi-head attention, with a cache for decoding."""

from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer
from jax import lax
from jaxtyping import Array, Bool, Float

from fusionjax.layers.dense import Dense
from fusionjax.ops import attention, combine_masks


class KeyValue(NamedTuple):
    """Projected keys and values.

    Attributes:
        key: `[batch, keys, heads, head_dim]`.
        value: `[batch, keys, heads, head_dim]`.
    """

    key: Float[Array, "batch keys heads head_dim"]
    value: Float[Array, "batch keys heads head_dim"]


@flax.struct.dataclass
class KeyValueCache:
    """The keys and values of the tokens decoded so far; every array has the batch axis first.

    Attributes:
        key: `[batch, max_length, heads, head_dim]`, zero after `index`.
        value: `[batch, max_length, heads, head_dim]`, zero after `index`.
        index: `[batch]`, int32: how many tokens each row holds.
    """

    # Not Array: transformations put shapes, shardings and other stand-ins into pytrees.
    key: Any
    value: Any
    index: Any


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
        projected = keys_values_projected
        if projected is None:
            source = queries if keys_values is None else keys_values
            projected = KeyValue(
                self._project_heads(source, "key", features), self._project_heads(source, "value", features)
            )
        if cache is not None:
            mask = combine_masks(mask, _seen(cache.index, queries.shape[1], cache.key.shape[1]))
            cache = _extend(cache, projected)
            projected = KeyValue(cache.key, cache.value)
        query, mask = _group_rows(query, mask, projected.key.shape[0], is_causal)
        output = attention(
            query,
            projected.key.astype(query.dtype),
            projected.value.astype(query.dtype),
            mask=mask,
            is_causal=is_causal and cache is None,
            return_weights=return_weights,
            implementation=self.implementation,
        )
        # [batch, queries, heads * head_dim]
        values = output.values.reshape(*queries.shape[:2], -1)
        values = self._dense(values, "out", features)
        values = self.dropout(values, deterministic=deterministic)
        return MultiHeadAttentionOutput(values, _ungroup_weights(output.weights, queries.shape), cache)

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
        return KeyValue(
            self._project_heads(keys_values, "key", features), self._project_heads(keys_values, "value", features)
        )

    @nn.nowrap
    def init_cache(self, batch: int, max_length: int, dtype: Dtype | None = None) -> KeyValueCache:
        """Makes an empty cache; needs `features` or `head_dim`.

        Args:
            batch: number of rows.
            max_length: how many tokens it can hold; later ones would overwrite the last.
            dtype: dtype of keys and values; None for that of the computation.

        Returns:
            A `KeyValueCache` of zeros.

        Raises:
            ValueError: neither `features` nor `head_dim` is given.
        """
        head_dim = self._size_of_heads(self._known_features("init_cache"))
        zeros = jnp.zeros((batch, max_length, self.num_heads, head_dim), dtype or self.dtype or self.param_dtype)
        return KeyValueCache(zeros, zeros, jnp.zeros(batch, jnp.int32))

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


def _seen(index: Array, queries: int, max_length: int) -> Array:
    """Says which cached keys each new token may see, `[batch, 1, queries, max_length]`."""
    positions = index[:, None] + jnp.arange(queries)
    return (jnp.arange(max_length) <= positions[:, :, None])[:, None]


def _extend(cache: KeyValueCache, new: KeyValue) -> KeyValueCache:
    """Writes the new keys and values behind those that each row holds."""
    write = jax.vmap(lambda old, rows, start: lax.dynamic_update_slice_in_dim(old, rows, start, 0))
    key = write(cache.key, new.key.astype(cache.key.dtype), cache.index)
    value = write(cache.value, new.value.astype(cache.value.dtype), cache.index)
    return KeyValueCache(key, value, cache.index + new.key.shape[1])


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
