"""All pairs of a batch's images and texts, block by block, on one device or around a ring of them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fusionjax.ops import manual_axes

Block = Callable[[Any, Any, Any, Any], tuple[Any, Any]]


def over_pairs(
    block: Block,
    rows: Any,
    columns: Any,
    row_state: Any,
    column_state: Any,
    *,
    chunk_size: int,
    axis_name: str | None = None,
) -> tuple[Any, Any]:
    """Visits every pair of a row and a column once, at the memory of one block of them.

    Rows are images, columns texts. What is known of them comes in `rows` and `columns`; what is added up over the
    visits, in the two states. With an axis each device holds its own rows and columns: the columns and their state go
    around the ring of devices by `ppermute`, meet all rows, and come home.

    Args:
        block: `(rows, columns, row_state, column_state) -> (row_state, column_state)` of one block, each a tree of
            arrays with a leading axis of at most `chunk_size`. Where the chunk does not divide the count, rows and
            columns are filled up with zeros, so that each needs an entry which is zero for those that do not count.
        rows: tree of arrays `[count, ...]`.
        columns: tree of arrays `[count, ...]`.
        row_state: tree of arrays `[count, ...]` before the first visit.
        column_state: the same for the columns.
        chunk_size: rows, and columns, of a block.
        axis_name: of the mesh axis of the ring, inside `pmap` or `shard_map`; None stays on this device.

    Returns:
        Both states after the last visit.

    References:
        Liu, Zaharia and Abbeel, "Ring Attention with Blockwise Transformers", 2023, arXiv:2310.01889, for the ring.
    """
    row_state, column_state = manual_axes.vary_together(rows, columns, row_state, column_state)[2:]
    if axis_name is None:
        return _on_one_device(block, rows, columns, row_state, column_state, chunk_size)
    size = jax.lax.axis_size(axis_name)
    following = [(device, (device + 1) % size) for device in range(size)]

    def visit(carry: tuple[Any, Any, Any], _: None) -> tuple[tuple[Any, Any, Any], None]:
        row_state, columns, column_state = carry
        row_state, column_state = _on_one_device(block, rows, columns, row_state, column_state, chunk_size)
        columns, column_state = jax.lax.ppermute((columns, column_state), axis_name, following)
        return (row_state, columns, column_state), None

    (row_state, _, column_state), _ = jax.lax.scan(visit, (row_state, columns, column_state), length=size)
    return row_state, column_state


def _on_one_device(
    block: Block, rows: Any, columns: Any, row_state: Any, column_state: Any, chunk_size: int
) -> tuple[Any, Any]:
    count = jax.tree.leaves(rows)[0].shape[0]
    if count <= chunk_size:
        return block(rows, columns, row_state, column_state)
    chunks = -(-count // chunk_size)

    def split(leaf: jax.Array) -> jax.Array:
        filled = jnp.pad(leaf, ((0, chunks * chunk_size - count),) + ((0, 0),) * (leaf.ndim - 1))
        return filled.reshape(chunks, chunk_size, *leaf.shape[1:])

    def join(leaf: jax.Array) -> jax.Array:
        return leaf.reshape(-1, *leaf.shape[2:])[:count]

    columns = jax.tree.map(split, columns)

    def along(column_state: Any, chunk: tuple[Any, Any]) -> tuple[Any, Any]:
        row, state = chunk

        def visit(state: Any, chunk: tuple[Any, Any]) -> tuple[Any, Any]:
            return block(row, chunk[0], state, chunk[1])

        state, column_state = jax.lax.scan(visit, state, (columns, column_state))
        return column_state, state

    split_states = jax.tree.map(split, (row_state, column_state))
    column_state, row_state = jax.lax.scan(along, split_states[1], (jax.tree.map(split, rows), split_states[0]))
    return jax.tree.map(join, (row_state, column_state))
