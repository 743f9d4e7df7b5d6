"""Putting batches and parameters on the devices of a mesh."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fusionjax.parallel.mesh import DATA_AXIS


def batch_size_of(batch: Any) -> int:
    """Returns the number of examples in a batch: the first axis, which every array in it shares.

    Args:
        batch: a tree of arrays `[batch, ...]`.

    Returns:
        The length of the first axis.

    Raises:
        ValueError: the tree is empty, an array has no first axis, or the arrays disagree on it.

    Example:
        >>> batch_size_of({"image": jnp.zeros((3, 5)), "text": jnp.zeros((3, 7))})
        3
    """
    shapes = {jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(batch)}
    sizes = {shape[:1] for shape in shapes.values()}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(
            f"every array of a batch must have the same first axis; got shapes {shapes}. "
            "Stack the examples along the first axis of each array."
        )
    return int(sizes.pop()[0])


def check_divisible(batch: Any, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises an error if a batch cannot be split evenly over the devices and the micro-batches.

    Args:
        batch: a tree of arrays `[batch, ...]`.
        mesh: a mesh with the axis `"data"`.
        accumulate: micro-batches per device.

    Raises:
        ValueError: the batch size is not divisible by devices times micro-batches.

    Example:
        >>> check_divisible({"image": jnp.zeros((6, 2))}, jax.sharding.Mesh(jax.devices()[:1], ("data",)), 3)
    """
    batch_size, num_devices = batch_size_of(batch), mesh.shape[DATA_AXIS]
    if batch_size % (num_devices * accumulate):
        micro = f" times {accumulate} micro-batches" if accumulate > 1 else ""
        raise ValueError(
            f"the batch size must be divisible by {num_devices} device(s){micro} = {num_devices * accumulate}; "
            f"got {batch_size}. Change the batch size, or give a mesh of fewer devices (make_mesh(num_devices))."
        )


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """Splits the first axis of every array of a batch over the devices of a mesh.

    Device `d` of `D` holds the examples `[d * batch / D, (d + 1) * batch / D)`.

    Args:
        batch: a tree of NumPy or JAX arrays `[batch, ...]`.
        mesh: a mesh with the axis `"data"`, as `make_mesh` builds.

    Returns:
        The same tree of global JAX arrays, sharded over `"data"`.

    Raises:
        ValueError: the batch size is not divisible by the number of devices.

    Example:
        >>> from fusionjax.parallel import make_mesh
        >>> shard_batch({"image": jnp.ones((2, 3))}, make_mesh(1))["image"].sharding.spec[0]
        'data'
    """
    check_divisible(batch, mesh)
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec(DATA_AXIS)))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copies every array of a tree to every device of a mesh.

    The copies never share memory with the input, so a step that donates them leaves the input alive.

    Args:
        tree: arrays of any shape, typed random keys included.
        mesh: a mesh, as `make_mesh` builds.

    Returns:
        The same tree of global JAX arrays, replicated over the mesh.

    Example:
        >>> from fusionjax.parallel import make_mesh
        >>> replicate({"bias": jnp.ones(3)}, make_mesh(1))["bias"].sharding.is_fully_replicated
        True
    """
    # device_put may share the memory of the device that the input is on, so the input is copied first.
    return jax.device_put(jax.tree.map(jnp.copy, tree), NamedSharding(mesh, PartitionSpec()))


def unreplicate(tree: Any) -> Any:
    """Copies one replica of every array of a replicated tree to the first device; undoes `replicate`.

    Args:
        tree: arrays that are replicated over a mesh.

    Returns:
        The same tree of single-device arrays that share no memory with the input.

    Example:
        >>> from fusionjax.parallel import make_mesh
        >>> unreplicate(replicate({"bias": jnp.ones(3)}, make_mesh(1)))["bias"].shape
        (3,)
    """
    return jax.tree.map(lambda leaf: jnp.copy(leaf.addressable_data(0)), tree)
