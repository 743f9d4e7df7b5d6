"""Scaled dot-product attention over several heads."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fusionjax.ops.attention_cudnn import find_cudnn_attention_obstacle
from fusionjax.ops.attention_packed import attend_packed
from fusionjax.ops.dtypes import check_floating, check_mask
from fusionjax.ops.implementations import on_platform, select_implementation
from fusionjax.ops.masks import combine_masks, make_causal_mask
from fusionjax.ops.shape_classes import attention_class

# Measured on a CPU: for fewer queries the packing costs more than it gains.
_FEWEST_PACKED_QUERIES = 16


class AttentionOutput(NamedTuple):
    """What a query read.

    Attributes:
        values: the weighted sums of the values, a vector per query, in the dtype of the values.
        weights: the weights, float32; each query's sum to one, or are all zero where its mask keeps no key. None unless
            they were asked for.
    """

    values: Float[Array, "..."]
    weights: Float[Array, "..."] | None


def attention(
    query: Float[Array, "*batch queries heads head_dim"],
    key: Float[Array, "*batch keys heads key_dim"],
    value: Float[Array, "*batch value_keys heads value_dim"],
    *,
    mask: Bool[Array, "..."] | None = None,
    scale: float | None = None,
    is_causal: bool = False,
    return_weights: bool = False,
    implementation: str | None = None,
) -> AttentionOutput:
    """Computes softmax(query key^T * scale) value for every head.

    The softmax is computed in float32. A query whose mask keeps no key reads zeros, and passes no gradient.

    Implementations: `"xla"` is written out and the reference. `"fused"` is `jax.nn.dot_product_attention`, which takes
    one batch axis and returns no weights; XLA fuses what it can of it. `"cudnn"` is the same by cuDNN's flash
    attention, which keeps no logits: bfloat16 or float16, a head_dim that 8 divides, and with a mask even lengths;
    first derivatives only. `"packed"` returns no weights either: it packs the heads into the batch, works on a few
    examples at a time, and divides by the softmax's sum after the product with the values. None follows the table of
    choices (docs/speed.md); where that has no row, and where they apply: `"cudnn"`, then `"fused"` on a GPU, `"fused"`
    on a TPU, and `"packed"` on a CPU for 16 queries or more; otherwise `"xla"`.

    Args:
        query: `[..., queries, heads, head_dim]`.
        key: `[..., keys, heads, head_dim]`.
        value: `[..., keys, heads, value_dim]`.
        mask: True = keep; broadcastable to `[..., heads, queries, keys]`; None keeps all.
        scale: factor of the products; None for 1 / sqrt(head_dim).
        is_causal: query `i` sees only the keys `0 .. i`, as well as what `mask` says.
        return_weights: also return the weights.
        implementation: `"xla"`, `"fused"`, `"cudnn"`, `"packed"`, or None to choose.

    Returns:
        An `AttentionOutput`: values `[..., queries, heads, value_dim]`, weights `[..., heads, queries, keys]` or None.

    Raises:
        ValueError: the shapes do not fit, or there is no implementation of that name.
        TypeError: an array is of integers, or the mask is not boolean.
        NotImplementedError: the named implementation cannot serve this call.

    Example:
        >>> query, key, value = jnp.zeros((2, 3, 1, 4)), jnp.ones((2, 5, 1, 4)), jnp.ones((2, 5, 1, 6))
        >>> output = attention(query, key, value, return_weights=True)
        >>> output.values.shape, output.weights.shape
        ((2, 3, 1, 6), (2, 1, 3, 5))

    References:
        Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, equation 1.
    """
    _check_shapes(query, key, value, mask)
    for name, array in (("query", query), ("key", key), ("value", value)):
        check_floating("attention", name, array.dtype)
    check_mask("attention", mask)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    chosen = _choose(query, key, value, mask, return_weights, implementation)
    if chosen in ("fused", "cudnn"):
        return AttentionOutput(_attend_fused(query, key, value, mask, scale, is_causal, chosen), None)
    mask = combine_masks(mask, make_causal_mask(query.shape[-3], key.shape[-3]) if is_causal else None)
    if chosen == "packed":
        return AttentionOutput(attend_packed(query, key, value, mask, scale), None)
    if query.dtype.itemsize >= 4:
        # There are fewer queries than logits; but in a narrower dtype the scaled ones would be rounded.
        query, scale = query * scale, 1
    # [..., heads, queries, keys]
    logits = scale * jnp.einsum("...qhd,...khd->...hqk", query, key, preferred_element_type=jnp.float32)
    weights = masked_softmax(logits, mask)
    # [..., heads, queries, value_dim] first: with the weights on the left the product runs on all cores of a CPU.
    values = jnp.einsum("...hqk,...khd->...hqd", weights.astype(value.dtype), value).swapaxes(-3, -2)
    return AttentionOutput(values, weights if return_weights else None)


def masked_softmax(logits: Float[Array, "..."], mask: Bool[Array, "..."] | None) -> Float[Array, "..."]:
    """Softmax over the last axis among the kept entries, in float32; all zero where none is kept.

    Args:
        logits: `[..., keys]`.
        mask: True = keep; broadcastable to the logits; None keeps all.

    Returns:
        Weights of the logits' shape, float32; values and gradients are finite whatever the mask.

    Example:
        >>> masked_softmax(jnp.zeros((2, 2)), jnp.array([[True, False], [False, False]]))
        Array([[1., 0.],
               [0., 0.]], dtype=float32)
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if mask is None:
        return jax.nn.softmax(logits, axis=-1)
    weights = jax.nn.softmax(jnp.where(mask, logits, jnp.finfo(logits.dtype).min), axis=-1)
    return jnp.where(mask, weights, 0)


def _choose(
    query: Array, key: Array, value: Array, mask: Array | None, return_weights: bool, implementation: str | None
) -> str:
    obstacles: dict[str, str | None] = {"xla": None, "fused": None, "cudnn": None, "packed": None}
    if return_weights:
        obstacles["fused"] = obstacles["cudnn"] = obstacles["packed"] = "it returns no weights"
    elif query.ndim != 4 or value.shape[-1] != query.shape[-1]:
        obstacles["fused"] = obstacles["cudnn"] = (
            f"it takes one batch axis and values as wide as the keys; got {query.shape} and {value.shape}"
        )
    else:
        obstacles["cudnn"] = find_cudnn_attention_obstacle(query, key, value, mask)
    preferred = "packed" if query.shape[-3] >= _FEWEST_PACKED_QUERIES else "xla"
    if on_platform("gpu", "tpu"):
        preferred = "fused" if obstacles["cudnn"] else "cudnn"
    shape_class, dtype = attention_class(query.shape, key.shape), jnp.result_type(query, key, value)
    return select_implementation(
        "attention", implementation, obstacles, preferred, shape_class=shape_class, dtype=dtype
    )


def _attend_fused(
    query: Array, key: Array, value: Array, mask: Array | None, scale: float, is_causal: bool, implementation: str
) -> Array:
    if mask is not None:
        mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
    values = jax.nn.dot_product_attention(
        query,
        key,
        value,
        # cuDNN takes one mask for several examples or heads, but not for several queries or keys.
        mask=None if mask is None else jnp.broadcast_to(mask, (*mask.shape[:2], query.shape[1], key.shape[1])),
        scale=scale,
        is_causal=is_causal,
        # By itself, JAX never takes cuDNN.
        implementation="cudnn" if implementation == "cudnn" else None,
    )
    if mask is None:
        return values
    causal = make_causal_mask(query.shape[1], key.shape[1]) if is_causal else True
    # [batch, queries, heads, 1]
    sees_any_key = jnp.any(mask & causal, axis=-1, keepdims=True).swapaxes(1, 2)
    return jnp.where(sees_any_key, values, 0)


def _check_shapes(query: Array, key: Array, value: Array, mask: Array | None) -> None:
    fits = query.ndim == key.ndim == value.ndim >= 3 and query.shape[:-3] == key.shape[:-3] == value.shape[:-3]
    if not fits or not query.shape[-2] == key.shape[-2] == value.shape[-2]:
        raise ValueError(
            "attention takes query, key and value [..., length, heads, head_dim] with equal batch axes and heads; "
            f"got {query.shape}, {key.shape} and {value.shape}. Split the heads before the call."
        )
    if query.shape[-1] != key.shape[-1] or key.shape[-3] != value.shape[-3]:
        raise ValueError(
            "key must have the query's head_dim and the value's length; "
            f"got query {query.shape}, key {key.shape} and value {value.shape}. Project them to fit."
        )
    if mask is None:
        return
    shape = (*query.shape[:-3], query.shape[-2], query.shape[-3], key.shape[-3])
    fits = mask.ndim <= len(shape) and all(
        size in (1, full) for size, full in zip(mask.shape[::-1], shape[::-1], strict=False)
    )
    if not fits:
        raise ValueError(
            f"the mask must broadcast to [..., heads, queries, keys] = {shape}; got {mask.shape}. "
            "Give a padding mask [batch, keys] as mask[:, None, None, :]."
        )
