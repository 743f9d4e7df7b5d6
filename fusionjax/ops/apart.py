"""Results that XLA computes once, instead of again in each operation that reads them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from fusionjax.ops.manual_axes import vary_together


def compute_apart(is_true: Bool[Array, ""], function: Callable[..., Any], *arrays: Any) -> Any:
    """Applies a function as a branch, whose result XLA writes to memory before anything reads it.

    On a CPU XLA makes an elementwise computation part of each operation that reads its result: a sum over it then
    repeats it, and one number at a time; a slice of an array at a place that only the run knows keeps what reads it
    from vector instructions (jax 0.10). Neither crosses a branch.

    Args:
        is_true: true, but in a way that only the run can know, such as `is_number_or_not` or a loop's index >= 0.
        function: of the arrays.
        arrays: trees of arrays.

    Returns:
        `function(*arrays)`.

    Example:
        >>> compute_apart(is_number_or_not(jnp.array(2.0)), jnp.add, jnp.array(1), jnp.array(2))
        Array(3, dtype=int32)
    """
    shapes = jax.eval_shape(function, *arrays)

    def never(*arrays: Any) -> Any:
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return vary_together(zeros, arrays)[0]

    return lax.cond(is_true, function, never, *arrays)


def is_number_or_not(number: Array) -> Bool[Array, ""]:
    """Returns True, which XLA does not find out.

    Args:
        number: any floating-point number.

    Returns:
        True, also where it is not a number.

    Example:
        >>> is_number_or_not(jnp.array(jnp.nan))
        Array(True, dtype=bool)
    """
    return jnp.isnan(number).astype(jnp.int8) < 2
