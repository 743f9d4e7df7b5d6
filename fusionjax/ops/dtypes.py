"""Checks of dtypes, where another one would give wrong numbers in silence."""

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array


def check_floating(operation: str, what: str, dtype: DTypeLike) -> None:
    """Checks that an operation computes in floating point.

    Args:
        operation: its name, for the message.
        what: has the dtype, such as `"images and kernel together"`.
        dtype: of the computation.

    Raises:
        TypeError: it is an integer, boolean or complex dtype.

    Example:
        >>> check_floating("max_pool2d", "images", "bfloat16")
    """
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{operation} needs {what} of a floating dtype; got {jnp.dtype(dtype)}. "
            "Convert with .astype(jnp.float32) first."
        )


def check_mask(operation: str, mask: Array | None) -> None:
    """Checks that a mask says what to keep, and is not numbers to add.

    Args:
        operation: its name, for the message.
        mask: or None.

    Raises:
        TypeError: the mask is not boolean.

    Example:
        >>> check_mask("attention", jnp.array([True, False]))
    """
    if mask is not None and mask.dtype != jnp.bool_:
        raise TypeError(
            f"{operation} needs a boolean mask, True = keep; got {mask.dtype}. Compare first, such as mask > 0."
        )
