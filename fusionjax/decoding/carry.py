"""How a search repeats and reorders what a step carries."""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree


@runtime_checkable
class RowCarry(Protocol):
    """A part of the carry that knows how to be repeated and reordered, rather than having its arrays copied.

    A cache of keys and values is large, and may say where each row comes from instead of moving them all. Any pytree
    node with these two methods is asked; of all others the arrays are taken by rows.
    """

    def repeat_rows(self, copies: int) -> Any:
        """Returns the carry with each row repeated `copies` times: b0, b0, ..., b1, b1, ...

        Args:
            copies: how many rows to make of each.
        """

    def follow_rows(self, parents: Int[Array, "batch copies"]) -> Any:
        """Returns the carry in which each row goes on from another one of its example.

        Args:
            parents: which of its example's rows each row continues, `[batch, copies]`.
        """


def repeat_carry(carry: PyTree, copies: int) -> PyTree:
    """Repeats every row of a carry, for the beams of each example.

    Args:
        carry: arrays `[batch, ...]`, scalars, which stay, and `RowCarry` nodes.
        copies: how many rows to make of each.

    Returns:
        The carry for `batch * copies` rows.

    Example:
        >>> repeat_carry({"hidden": jnp.array([5, 7])}, 2)["hidden"].tolist()
        [5, 5, 7, 7]
    """

    def repeat(part: Any) -> Any:
        if isinstance(part, RowCarry):
            return part.repeat_rows(copies)
        return jnp.repeat(part, copies, axis=0) if jnp.ndim(part) else part

    return jax.tree.map(repeat, carry, is_leaf=_is_row_carry)


def follow_carry(carry: PyTree, parents: Int[Array, "batch copies"]) -> PyTree:
    """Lets every row of a carry go on from another one of its example.

    Args:
        carry: arrays `[batch * copies, ...]`, scalars, which stay, and `RowCarry` nodes.
        parents: which of its example's rows each row continues, `[batch, copies]`.

    Returns:
        The carry in the new order.

    Example:
        >>> follow_carry(jnp.array([5, 6, 7, 8]), jnp.array([[1, 1], [0, 1]])).tolist()
        [6, 6, 7, 8]
    """
    batch, copies = parents.shape
    rows = (jnp.arange(batch)[:, None] * copies + parents).reshape(-1)

    def follow(part: Any) -> Any:
        if isinstance(part, RowCarry):
            return part.follow_rows(parents)
        return part[rows] if jnp.ndim(part) else part

    return jax.tree.map(follow, carry, is_leaf=_is_row_carry)


def _is_row_carry(part: Any) -> bool:
    return isinstance(part, RowCarry)
