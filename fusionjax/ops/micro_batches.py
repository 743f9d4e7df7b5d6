"""The same function on a few examples at a time."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from fusionjax.ops.implementations import count_devices, inside_loop
from fusionjax.ops.manual_axes import vary_together


def map_micro_batches(function: Callable[..., Any], arrays: Sequence[Array], examples: int) -> Any:
    """Applies a function to micro-batches and joins what it returns.

    What the function computes on the way then fits in a CPU's cache, and every micro-batch uses the same memory again.
    Derivatives for what the function closes over are summed over the micro-batches.

    Args:
        function: takes parts of the arrays and returns arrays; every one has the batch axis first.
        arrays: `[batch, ...]` each.
        examples: how many examples a micro-batch has at most, for each device of the process.

    Returns:
        What `function(*arrays)` returns, if it treats every example alone.

    Example:
        >>> map_micro_batches(lambda part: 2 * part, (jnp.arange(5),), 2)
        Array([0, 2, 4, 6, 8], dtype=int32)
    """
    size = _size(arrays[0].shape[0], examples)
    if size is None:
        return function(*arrays)
    parts, take, rest = _split(arrays, size)
    with inside_loop():
        outputs = jax.tree.map(_join, lax.map(lambda part: function(*take(part)), parts))
    if rest is None:
        return outputs
    return jax.tree.map(lambda first, last: jnp.concatenate([first, last]), outputs, function(*rest))


def sum_micro_batches(function: Callable[..., Any], arrays: Sequence[Array], examples: int) -> Any:
    """Applies a function to micro-batches and adds what it returns.

    Args:
        function: takes parts of the arrays, which have the batch axis first, and returns arrays without it.
        arrays: `[batch, ...]` each.
        examples: how many examples a micro-batch has at most, for each device of the process.

    Returns:
        What `function(*arrays)` returns, if it sums over the examples.

    Example:
        >>> sum_micro_batches(jnp.sum, (jnp.arange(5),), 2)
        Array(10, dtype=int32)
    """
    size = _size(arrays[0].shape[0], examples)
    if size is None:
        return function(*arrays)
    parts, take, rest = _split(arrays, size)
    outputs = jax.eval_shape(lambda part: function(*take(part)), jax.tree.map(lambda leaf: leaf[0], parts))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), outputs)
    zeros, _ = vary_together(zeros, arrays)

    def add(total: Any, part: tuple[Array, ...]) -> Any:
        return jax.tree.map(jnp.add, total, function(*part))

    total, _ = lax.scan(lambda total, part: (add(total, take(part)), None), zeros, parts)
    return total if rest is None else add(total, rest)


def count_batch_devices() -> int:
    """Returns over how many devices XLA may spread a batch that it sees; inside `jax.shard_map` it sees one's part."""
    return 1 if jax.sharding.get_abstract_mesh().manual_axes else count_devices()


def _size(batch: int, examples: int) -> int | None:
    """Chooses the size over all devices, without a remainder where that costs less than half; None for one call."""
    most = max(1, examples) * count_batch_devices()
    if batch <= most:
        return None
    return next((size for size in range(most, most // 2, -1) if batch % size == 0), most)


def _split(
    arrays: Sequence[Array], size: int
) -> tuple[Any, Callable[[Any], tuple[Array, ...]], tuple[Array, ...] | None]:
    """Returns what to loop over, a function that takes a micro-batch out of one turn's, and what is left.

    With several devices every steps-th example makes a micro-batch, so that a batch sharded over them stays on them.
    """
    batch = arrays[0].shape[0]
    whole = batch // size * size
    rest = None if whole == batch else tuple(array[whole:] for array in arrays)
    if count_batch_devices() == 1:
        return tuple(array[:whole].reshape(-1, size, *array.shape[1:]) for array in arrays), lambda part: part, rest
    strided = [array[:whole].reshape(size, -1, *array.shape[1:]) for array in arrays]

    def take(step: Array) -> tuple[Array, ...]:
        return tuple(lax.dynamic_index_in_dim(array, step, 1, keepdims=False) for array in strided)

    return jnp.arange(whole // size), take, rest


def _join(parts: Array) -> Array:
    """Undoes the split."""
    steps, size, *shape = parts.shape
    if count_batch_devices() > 1:
        parts = parts.swapaxes(0, 1)
    return parts.reshape(steps * size, *shape)
