"""Changes to the modules within a model, together with their variables."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

Variables = dict[str, Any]
Change = Callable[[nn.Module, Variables], tuple[nn.Module, Variables]]


def change_modules(model: nn.Module, variables: Variables, change: Change) -> tuple[nn.Module, Variables]:
    """Applies a function to every module among the fields of a model, the innermost first, and to the model itself.

    Modules that a model makes in its own methods are not reached: its function has to change both.

    Args:
        model: unbound.
        variables: of it, by collection.
        change: from a module and its variables to others, or to the same module where there is nothing to change.

    Returns:
        The model, the same object where no module changed, and its variables.

    Raises:
        TypeError: the model is not a Linen module, such as its variables in its place.

    Example:
        >>> change_modules(nn.Sequential([nn.Dense(3)]), {}, lambda module, variables: (module, variables))[1]
        {}
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"the model must be a flax.linen.Module; got {type(model).__name__}. "
            "Give the model first, then its variables."
        )
    fields = {}
    for field in dataclasses.fields(model):
        if field.name in ("parent", "name"):
            continue
        value = getattr(model, field.name)
        leaves, structure = jax.tree_util.tree_flatten_with_path(value, is_leaf=lambda one: isinstance(one, nn.Module))
        changed = []
        for path, leaf in leaves:
            if isinstance(leaf, nn.Module):
                # Linen names a module by where it is attached, whatever name it was given before.
                name = "_".join([field.name, *map(_key, path)])
                leaf, own = change_modules(leaf, _take(variables, name), change)
                variables = _put(variables, name, own)
            changed.append(leaf)
        if any(new is not old for new, (_, old) in zip(changed, leaves, strict=True)):
            fields[field.name] = jax.tree.unflatten(structure, changed)
    return change(model.clone(**fields) if fields else model, variables)


def _key(entry: Any) -> str:
    return str(getattr(entry, "key", getattr(entry, "idx", entry)))


def _take(variables: Variables, name: str) -> Variables:
    return {collection: tree[name] for collection, tree in variables.items() if name in tree}


def _put(variables: Variables, name: str, own: Variables) -> Variables:
    """Replaces a module's variables; a collection that keeps none is left out."""
    replaced = {}
    for collection in [*variables, *(new for new in own if new not in variables)]:
        others = {key: value for key, value in variables.get(collection, {}).items() if key != name}
        tree = {**others, name: own[collection]} if collection in own else others
        if tree:
            replaced[collection] = tree
    return replaced
