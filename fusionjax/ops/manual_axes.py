"""Arrays inside `jax.shard_map`, whose types say over which axes of the mesh they vary."""

from typing import Any

import jax
from jax import lax


def vary_together(*arrays: Any) -> tuple[Any, ...]:
    """Makes arrays vary over the same axes of the mesh, as plain operations do on their own.

    A function with its own gradient needs it: the gradient of an array that is equal on all devices is summed over them
    where it begins to vary. Outside `jax.shard_map` nothing changes.

    Args:
        arrays: trees of arrays.

    Returns:
        The trees.

    Example:
        >>> vary_together(1.0, 2.0)
        (1.0, 2.0)
    """
    axes = varying_axes(arrays)
    return jax.tree.map(lambda leaf: _vary(leaf, axes - varying_axes(leaf)), arrays)


def varying_axes(tree: Any) -> frozenset[str]:
    """Returns the axes of the mesh over which any array of a tree varies; none outside `jax.shard_map`.

    Args:
        tree: of arrays.

    Returns:
        Names of axes.
    """
    leaves = jax.tree.leaves(tree)
    return frozenset().union(*(jax.typeof(leaf).manual_axis_type.varying for leaf in leaves))


def _vary(leaf: Any, axes: frozenset[str]) -> Any:
    return lax.pcast(leaf, tuple(sorted(axes)), to="varying") if axes else leaf
