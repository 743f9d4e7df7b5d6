"""The layout of `jax.pmap`: one more axis in front, one entry per device."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fusionjax.parallel.mesh import DATA_AXIS
from fusionjax.parallel.placement import check_divisible


def stack_batch(batch: Any, mesh: Mesh) -> Any:
    """Splits a batch `[batch, ...]` into one part per device, `[devices, batch / devices, ...]`.

    Device `d` gets the same examples as under `shard_batch`.

    Args:
        batch: a tree of NumPy or JAX arrays `[batch, ...]`.
        mesh: a mesh with the axis `"data"`, as `make_mesh` builds.

    Returns:
        The same tree of arrays `[devices, batch / devices, ...]`, sharded over the first axis.

    Raises:
        ValueError: the batch size is not divisible by the number of devices.

    Example:
        >>> from fusionjax.parallel import make_mesh
        >>> stack_batch({"image": jnp.ones((2, 3))}, make_mesh(1))["image"].shape
        (1, 2, 3)
    """
    check_divisible(batch, mesh)
    num_devices = mesh.shape[DATA_AXIS]
    # [devices, batch / devices, ...]
    parts = jax.tree.map(lambda leaf: leaf.reshape(num_devices, -1, *leaf.shape[1:]), batch)
    return jax.device_put(parts, NamedSharding(mesh, PartitionSpec(DATA_AXIS)))


def stack_replicas(tree: Any, mesh: Mesh) -> Any:
    """Copies every array of a tree once per device, along a new first axis.

    Args:
        tree: arrays of any shape, typed random keys included.
        mesh: a mesh with the axis `"data"`, as `make_mesh` builds.

    Returns:
        The same tree of arrays `[devices, ...]`, sharded over the first axis.

    Example:
        >>> from fusionjax.parallel import make_mesh
        >>> stack_replicas({"bias": jnp.ones(3)}, make_mesh(1))["bias"].shape
        (1, 3)
    """
    num_devices = mesh.shape[DATA_AXIS]
    copies = jax.tree.map(lambda leaf: jnp.stack([leaf] * num_devices), tree)
    return jax.device_put(copies, NamedSharding(mesh, PartitionSpec(DATA_AXIS)))


def unstack_replicas(tree: Any) -> Any:
    """Takes the first device's copy of every array; undoes `stack_replicas`.

    Args:
        tree: arrays `[devices, ...]`, sharded over the first axis.

    Returns:
        The same tree of arrays `[...]` on the first device, which share no memory with the input.

    Example:
        >>> from fusionjax.parallel import make_mesh
        >>> unstack_replicas(stack_replicas({"bias": jnp.ones(3)}, make_mesh(1)))["bias"].shape
        (3,)
    """
    return jax.tree.map(lambda leaf: jnp.copy(leaf.addressable_data(0)[0]), tree)
