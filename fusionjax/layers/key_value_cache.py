"""Keys and values that attention has projected, and the cache of those of the tokens decoded so far."""

import dataclasses
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int


class KeyValue(NamedTuple):
    """Projected keys and values, heads before tokens, as the products of a step want them.

    Attributes:
        key: `[batch, heads, keys, head_dim]`.
        value: `[batch, heads, keys, head_dim]`.
    """

    key: Float[Array, "batch heads keys head_dim"]
    value: Float[Array, "batch heads keys head_dim"]


@flax.struct.dataclass
class KeyValueCache:
    """The keys and values of the tokens decoded so far.

    Beam search does not move them: the beams of an example share one row of keys, side by side at every place, and
    `origins` says which of them each beam descends from. So a step writes one token, and reads what is there.

    Attributes:
        key: `[batch, heads, max_length * copies, head_dim]`, zero after `index`.
        value: `[batch, heads, max_length * copies, head_dim]`, zero after `index`.
        index: int32, how many tokens each row holds, `[batch * copies]`.
        origins: int32, which copy wrote what a row sees at each place, `[batch * copies, max_length]`; None for one.
        copies: rows of each example, as many as there are beams.
        is_uniform: all rows always hold the same number of tokens, so that a step writes in place.

    Example:
        >>> zeros = jnp.zeros((2, 1, 5, 3))
        >>> cache = KeyValueCache(zeros, zeros, jnp.zeros(2, int)).repeat_rows(4)
        >>> cache.key.shape, cache.origins.shape
        ((2, 1, 20, 3), (8, 5))
    """

    # Not Array: transformations put shapes, shardings and other stand-ins into pytrees.
    key: Any
    value: Any
    index: Any
    origins: Any = None
    copies: int = flax.struct.field(pytree_node=False, default=1)
    is_uniform: bool = flax.struct.field(pytree_node=False, default=False)

    def extend(self, new: KeyValue) -> "KeyValueCache":
        """Writes new keys and values behind those that each row holds.

        Args:
            new: `[batch * copies, heads, tokens, head_dim]`.

        Returns:
            The cache with the new tokens.
        """
        tokens, index = new.key.shape[2], self.index[0] if self.is_uniform else self.index
        start = index if self.is_uniform else index[:: self.copies]
        origins = self.origins
        if origins is not None:
            own = jnp.broadcast_to(_own(origins.shape[0], self.copies), (origins.shape[0], tokens))
            origins = _write(origins, own, index, axis=1)
        return dataclasses.replace(
            self,
            key=_write(self.key, self._join(new.key), start * self.copies, axis=2),
            value=_write(self.value, self._join(new.value), start * self.copies, axis=2),
            index=self.index + tokens,
            origins=origins,
        )

    def see(self, queries: int) -> Bool[Array, "rows 1 queries max_length"]:
        """Says which tokens each new one may see: those that its row holds, and the new ones up to itself.

        Args:
            queries: how many new tokens.

        Returns:
            `[batch * copies, 1, queries, max_length]`.
        """
        positions = self.index[:, None] + jnp.arange(queries)
        max_length = self.key.shape[2] // self.copies
        return (jnp.arange(max_length) <= positions[:, :, None])[:, None]

    def spread(self, mask: Bool[Array, "rows heads queries max_length"]) -> Bool[Array, "rows heads queries keys"]:
        """Turns a mask over tokens into one over all keys: of each place a row sees the one it descends from.

        Args:
            mask: `[batch * copies or 1, heads or 1, queries, max_length]`.

        Returns:
            `[batch * copies or 1, heads or 1, queries, max_length * copies]`.
        """
        if self.origins is None:
            return mask
        # [rows, heads or 1, queries, max_length, copies]
        spread = mask[..., None] & (self.origins[:, None, None, :, None] == jnp.arange(self.copies))
        return spread.reshape(*spread.shape[:3], -1)

    def repeat_rows(self, copies: int) -> "KeyValueCache":
        """Repeats each row for the beams of an example; see `fusionjax.decoding.RowCarry`.

        Args:
            copies: how many rows to make of each.

        Returns:
            The cache for `batch * copies` rows.

        Raises:
            ValueError: the rows are repeated already.
        """
        if self.copies > 1:
            raise ValueError(
                f"the rows of a cache are repeated once; got {self.copies} copies of each already. "
                "Start the search from the cache of one row an example."
            )
        if copies == 1:
            return self
        rows, max_length = self.key.shape[0] * copies, self.key.shape[2]
        return dataclasses.replace(
            self,
            key=jnp.repeat(self.key, copies, axis=2),
            value=jnp.repeat(self.value, copies, axis=2),
            index=jnp.repeat(self.index, copies),
            origins=jnp.broadcast_to(_own(rows, copies), (rows, max_length)),
            copies=copies,
        )

    def follow_rows(self, parents: Int[Array, "batch copies"]) -> "KeyValueCache":
        """Lets every row go on from another of its example; see `fusionjax.decoding.RowCarry`.

        Args:
            parents: which of its example's rows each row continues, `[batch, copies]`.

        Returns:
            The cache, with the same keys and values.
        """
        if self.origins is None:
            return self
        rows = (jnp.arange(parents.shape[0])[:, None] * self.copies + parents).reshape(-1)
        return dataclasses.replace(self, index=self.index[rows], origins=self.origins[rows])

    def _join(self, new: Array) -> Array:
        """From rows to what stands side by side: `[batch, heads, tokens * copies, head_dim]`."""
        if self.copies == 1:
            return new
        rows, heads, tokens, head_dim = new.shape
        split = new.reshape(rows // self.copies, self.copies, heads, tokens, head_dim)
        return jnp.moveaxis(split, 1, 3).reshape(rows // self.copies, heads, tokens * self.copies, head_dim)


def _own(rows: int, copies: int) -> Array:
    return (jnp.arange(rows, dtype=jnp.int32) % copies)[:, None]


def _write(old: Array, new: Array, start: Array, axis: int) -> Array:
    """Writes along an axis, at one place or at each row's own."""
    new = new.astype(old.dtype)
    if jnp.ndim(start) == 0:
        # In place inside of a loop, which a scatter is not.
        return lax.dynamic_update_slice_in_dim(old, new, start, axis)
    return jax.vmap(lambda old, new, start: lax.dynamic_update_slice_in_dim(old, new, start, axis - 1))(old, new, start)
