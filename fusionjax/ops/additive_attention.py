"""Additive attention."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fusionjax.ops.attention import AttentionOutput, masked_softmax
from fusionjax.ops.dtypes import check_floating, check_mask


def additive_attention(
    query: Float[Array, "*batch queries units"],
    keys: Float[Array, "*batch keys key_units"],
    values: Float[Array, "*batch value_keys value_dim"],
    energy: Float[Array, " energy_units"],
    *,
    mask: Bool[Array, "..."] | None = None,
) -> AttentionOutput:
    """Weighs the values by softmax(energy . tanh(query + keys)).

    Query and keys come projected to the same number of units, so that the keys are projected once for many queries.
    The softmax is computed in float32. A query whose mask keeps no key reads zeros.

    Args:
        query: `[..., queries, units]`, projected.
        keys: `[..., keys, units]`, projected.
        values: `[..., keys, value_dim]`.
        energy: `[units]`.
        mask: True = keep; broadcastable to `[..., queries, keys]`; None keeps all.

    Returns:
        An `AttentionOutput`: values `[..., queries, value_dim]`, weights `[..., queries, keys]`.

    Raises:
        ValueError: the shapes do not fit.
        TypeError: an array is of integers, or the mask is not boolean.

    Example:
        >>> output = additive_attention(jnp.ones((2, 3, 4)), jnp.ones((2, 5, 4)), jnp.ones((2, 5, 6)), jnp.ones(4))
        >>> output.values.shape, output.weights.shape
        ((2, 3, 6), (2, 3, 5))

    References:
        Bahdanau, Cho, Bengio, "Neural Machine Translation by Jointly Learning to Align and Translate", 2014,
        arXiv:1409.0473, section A.1.2.
    """
    if not query.shape[-1] == keys.shape[-1] == energy.shape[-1] or keys.shape[-2] != values.shape[-2]:
        raise ValueError(
            "additive_attention takes query [..., queries, units], keys [..., keys, units], "
            f"values [..., keys, value_dim] and energy [units]; got {query.shape}, {keys.shape}, {values.shape} "
            f"and {energy.shape}. "
            "Project query and keys to the same units."
        )
    for name, array in (("query", query), ("keys", keys), ("values", values)):
        check_floating("additive_attention", name, array.dtype)
    check_mask("additive_attention", mask)
    weights = masked_softmax(_logits(query, keys, energy), mask)
    return AttentionOutput(jnp.einsum("...qk,...kd->...qd", weights.astype(values.dtype), values), weights)


@jax.checkpoint
def _logits(query: Array, keys: Array, energy: Array) -> Array:
    """Computes energy . tanh(query + keys); the gradient computes it again, which is quicker than to store it."""
    # [..., queries, keys, units]
    hidden = jnp.tanh(query[..., :, None, :] + keys[..., None, :, :])
    return jnp.einsum("...qku,u->...qk", hidden, energy, preferred_element_type=jnp.float32)
