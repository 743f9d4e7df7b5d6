"""The addition of a bias."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def add_bias(values: Float[Array, "*batch features"], bias: Float[Array, " bias_features"]) -> Float[Array, "..."]:
    """Adds a bias along the last axis; its gradient is summed in float32.

    Summed in bfloat16, as a plain addition has it on a CPU, the gradient stops growing after a few hundred terms.

    Args:
        values: `[..., features]`.
        bias: `[features]`.

    Returns:
        `[..., features]`, in the common dtype of the two.

    Example:
        >>> add_bias(jnp.zeros((2, 3)), jnp.array([1.0, 2.0, 3.0]))
        Array([[1., 2., 3.],
               [1., 2., 3.]], dtype=float32)
    """
    dtype = jnp.result_type(values, bias)
    wide = jnp.promote_types(dtype, jnp.float32)
    return (values.astype(wide) + bias.astype(wide)).astype(dtype)
