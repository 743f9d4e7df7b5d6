"""Products in bfloat16."""

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from fusionjax.compress.modules import Variables, change_modules


def to_bfloat16(
    model: nn.Module, variables: Variables, *, only: Sequence[type[nn.Module]] | None = None
) -> tuple[nn.Module, Variables]:
    """Makes a model compute in bfloat16, with parameters that are cast once. Not exact: outputs differ.

    Every module gets `dtype=bfloat16`, and kernels and tables (parameters of two axes and more) are cast, so that half
    the bytes are read. Products accumulate in float32, and so do softmax and the statistics of normalisations; each
    result is rounded to 8 bits, relative steps of 0.004. Compare the outputs of your model before you rely on it, and
    its speed: on a CPU it gains where products are large and loses for a single example or in convolutions.

    Args:
        model: unbound.
        variables: of it; only `params` are cast.
        only: the classes of modules to change, with all that is within them, such as `(encoders.RNNEncoder,)` where
            convolutions in bfloat16 are slow; None changes the whole model.

    Returns:
        The model and its variables.

    Raises:
        TypeError: the model is not a Linen module.
        ValueError: the model has nothing to change.

    Example:
        >>> from fusionjax import layers
        >>> layer, inputs = layers.Dense(5), jnp.ones((2, 3))
        >>> narrow, variables = to_bfloat16(layer, layer.init(jax.random.key(0), inputs))
        >>> narrow.apply(variables, inputs).dtype, variables["params"]["kernel"].dtype
        (dtype(bfloat16), dtype(bfloat16))
    """

    def narrow_chosen(module: nn.Module, own: Variables) -> tuple[nn.Module, Variables]:
        if only is not None and isinstance(module, tuple(only)):
            return change_modules(module, _cast(own), _set_dtype)
        return module, own

    change = narrow_chosen if only is not None else _set_dtype
    narrow, changed = change_modules(model, variables, change)
    if narrow is model:
        wanted = "a field dtype" if only is None else " or ".join(kind.__name__ for kind in only) + " among its fields"
        raise ValueError(f"the model must have {wanted}; got {type(model).__name__}. Set its dtype where it is made.")
    return narrow, _cast(changed) if only is None else changed


def _set_dtype(module: nn.Module, own: Variables) -> tuple[nn.Module, Variables]:
    if any(field.name == "dtype" for field in dataclasses.fields(module)):
        return module.clone(dtype=jnp.bfloat16), own
    return module, own


def _cast(variables: Variables) -> Variables:
    def cast(leaf: jax.Array) -> jax.Array:
        is_kernel = leaf.ndim > 1 and jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(jnp.bfloat16) if is_kernel else leaf

    return {name: jax.tree.map(cast, tree) if name == "params" else tree for name, tree in variables.items()}
