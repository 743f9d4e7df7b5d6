"""Boolean attention masks: True = keep."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def make_causal_mask(
    query_length: int, key_length: int | None = None, *, offset: int | Int[Array, ""] = 0
) -> Bool[Array, "queries keys"]:
    """Lets every query see the keys at its own position and before.

    Query `i` stands at position `offset + i`. With 3 queries, 5 keys and offset 1 (1 = keep):

        1 1 0 0 0
        1 1 1 0 0
        1 1 1 1 0

    Args:
        query_length: number of queries.
        key_length: number of keys; None for as many as queries.
        offset: position of the first query, for decoding with a cache.

    Returns:
        `[queries, keys]`.

    Example:
        >>> make_causal_mask(2).astype(int)
        Array([[1, 0],
               [1, 1]], dtype=int32)
    """
    key_length = query_length if key_length is None else key_length
    positions = offset + jnp.arange(query_length)
    return jnp.arange(key_length) <= positions[:, None]


def make_padding_mask(tokens: Int[Array, "batch length"], padding_token: int = 0) -> Bool[Array, "batch length"]:
    """Keeps the tokens that are not padding.

    Args:
        tokens: `[batch, length]`, int32.
        padding_token: the token that means padding.

    Returns:
        `[batch, length]`.

    Example:
        >>> make_padding_mask(jnp.array([[1, 7, 2, 0]]))
        Array([[ True,  True,  True, False]], dtype=bool)
    """
    return tokens != padding_token


def combine_masks(*masks: Bool[Array, "..."] | None) -> Bool[Array, "..."] | None:
    """Keeps what every mask keeps; shapes broadcast, and None keeps all.

    Args:
        masks: boolean arrays, or None.

    Returns:
        Their conjunction, or None if all are None.

    Example:
        >>> combine_masks(make_causal_mask(2), None, jnp.array([False, True])).astype(int)
        Array([[0, 0],
               [0, 1]], dtype=int32)
    """
    combined = None
    for mask in masks:
        if mask is not None:
            combined = mask if combined is None else combined & mask
    return combined
