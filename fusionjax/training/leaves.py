"""State trees as named host arrays and back."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_key(leaf: Any) -> bool:
    """Says whether a leaf (array or shape) is a typed random key."""
    return bool(jnp.issubdtype(getattr(leaf, "dtype", np.dtype(bool)), jax.dtypes.prng_key))


def flatten(tree: Any) -> dict[str, Any]:
    """Lists the leaves of a tree by path, such as `params/dense/kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def to_host(leaf: Any) -> np.ndarray:
    """Copies a leaf to a NumPy array that shares no memory with it; a typed random key as its data."""
    return np.array(jax.random.key_data(leaf) if is_key(leaf) else leaf, copy=True)


def from_host(array: np.ndarray, key_impl: str | None) -> jax.Array:
    """Copies a NumPy array to the default device; undoes `to_host`."""
    leaf = jnp.array(array)
    return leaf if key_impl is None else jax.random.wrap_key_data(leaf, impl=key_impl)


def host_shape(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of what `to_host` gives."""
    shape: jax.ShapeDtypeStruct = jax.eval_shape(jax.random.key_data, leaf) if is_key(leaf) else leaf
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype)


def nest(leaves: dict[str, Any]) -> dict[str, Any]:
    """Turns leaves by path into nested dictionaries, one level per `/`."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def lookup(tree: dict[str, Any], path: str) -> Any:
    """Finds a leaf by its path in nested dictionaries."""
    node: Any = tree
    for name in path.split("/"):
        node = node[name]
    return node
