"""Attention whose heads are packed into the batch, a few examples at a time."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from fusionjax.ops.micro_batches import map_micro_batches

# Logits per micro-batch and device. Measured on a CPU: fewer waste the products' set-up, more fall out of the cache.
_LOGITS_PER_STEP = 2**20


def attend_packed(
    query: Float[Array, "*batch queries heads head_dim"],
    key: Float[Array, "*batch keys heads head_dim"],
    value: Float[Array, "*batch keys heads value_dim"],
    mask: Bool[Array, "..."] | None,
    scale: float,
) -> Float[Array, "*batch queries heads value_dim"]:
    """Computes softmax(query key^T * scale) value for every head; see `fusionjax.ops.attention`.

    With more than one micro-batch the gradient computes the logits again, which is quicker than to store them all.

    Args:
        query: `[..., queries, heads, head_dim]`.
        key: `[..., keys, heads, head_dim]`.
        value: `[..., keys, heads, value_dim]`.
        mask: True = keep; broadcastable to `[..., heads, queries, keys]`; None keeps all.
        scale: factor of the products.

    Returns:
        `[..., queries, heads, value_dim]`.
    """
    batch = query.shape[:-3]
    # [batch, length, heads, head_dim]
    arrays = [array.reshape(math.prod(batch), *array.shape[-3:]) for array in (query, key, value)]
    attend: Callable[..., Array] = partial(_attend_part, scale=scale)
    if mask is not None:
        mask = mask.reshape((1,) * (query.ndim - mask.ndim) + mask.shape)
        if math.prod(mask.shape[:-3]) > 1:
            mask = jnp.broadcast_to(mask, (*batch, *mask.shape[-3:]))
            arrays.append(mask.reshape(math.prod(batch), *mask.shape[-3:]))
        else:
            attend = partial(attend, mask=mask.reshape(1, *mask.shape[-3:]))
    logits = query.shape[-2] * query.shape[-3] * key.shape[-3]
    examples = max(1, round(_LOGITS_PER_STEP / max(1, logits)))
    if math.prod(batch) > examples:
        attend = jax.checkpoint(attend, prevent_cse=False)
    values = map_micro_batches(attend, arrays, examples)
    return values.reshape(*batch, *values.shape[1:])


def _attend_part(query: Array, key: Array, value: Array, mask: Array | None = None, *, scale: float) -> Array:
    examples, queries, heads, _ = query.shape
    if query.dtype.itemsize >= 4:
        # In a narrower dtype the scaled query would be rounded, and spoil the logits.
        query, scale = query * scale, 1
    # [part * heads, length, head_dim]
    query, key, value = _pack(query), _pack(key), _pack(value)
    # [part * heads, queries, keys]
    logits = scale * jnp.einsum("nqd,nkd->nqk", query, key, preferred_element_type=jnp.float32)
    if mask is not None:
        split = logits.reshape(examples, heads, *logits.shape[1:])
        logits = jnp.where(mask, split, -jnp.inf).reshape(logits.shape)
    # Finite even for a query that keeps no key, so that its exponentials are zero.
    largest = jnp.max(logits, axis=-1, keepdims=True, initial=jnp.finfo(logits.dtype).min)
    exponentials = jnp.exp(logits - lax.stop_gradient(largest))
    # At least one, or zero if no key is kept.
    total = jnp.sum(exponentials, axis=-1, keepdims=True)
    sums = jnp.einsum("nqk,nkd->nqd", exponentials.astype(value.dtype), value, preferred_element_type=jnp.float32)
    values = sums / jnp.maximum(total, 0.5)
    # [part, queries, heads, value_dim]
    return values.astype(value.dtype).reshape(examples, heads, queries, -1).swapaxes(1, 2)


def _pack(array: Array) -> Array:
    examples, length, heads, head_dim = array.shape
    return array.swapaxes(1, 2).reshape(examples * heads, length, head_dim)
