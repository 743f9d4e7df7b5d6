"""Counts: what the names of tensors tell of a model's size, and the operations of a program."""

import itertools
from typing import Any

import numpy as np

from fusionjax.pretrained.rows import Shapes


def count_layers(shapes: Shapes, pattern: str) -> int:
    """Counts layers that are numbered from 0.

    Args:
        shapes: of the tensors, by name.
        pattern: name of a tensor with `{}` where the number stands.

    Returns:
        How many there are without a gap.

    Example:
        >>> count_layers({"layer.0.weight": (3,), "layer.1.weight": (3,), "layer.3.weight": (3,)}, "layer.{}.weight")
        2
    """
    return next(number for number in itertools.count() if pattern.format(number) not in shapes)


def is_batch_counter(name: str) -> bool:
    """Says whether a tensor only counts the batches that a batch normalisation saw.

    Args:
        name: of the tensor.

    Returns:
        True for PyTorch's `num_batches_tracked`.

    Example:
        >>> is_batch_counter("bn1.num_batches_tracked"), is_batch_counter("bn1.weight")
        (True, False)
    """
    return name.endswith(".num_batches_tracked")


def count_operations(program: Any) -> int:
    """Counts the operations of all matrix products and convolutions of a program.

    A loop over steps counts every step, a choice its largest branch. Sums, normalisations and activations are not
    counted, as in the figures that are published of models.

    Args:
        program: a `Jaxpr`, such as `jax.make_jaxpr(function)(*arguments).jaxpr`.

    Returns:
        Two for every multiplication and addition.

    Raises:
        ValueError: a product is in a loop whose number of turns is not known.

    Example:
        >>> count_operations(jax.make_jaxpr(jnp.matmul)(jnp.ones((2, 3)), jnp.ones((3, 5))).jaxpr)
        60
    """
    return sum(_count(equation) for equation in program.eqns)


def _count(equation: Any) -> int:
    name = equation.primitive.name
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * int(np.prod([left[axis] for axis in contracted]))
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        features = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
        return 2 * equation.outvars[0].aval.size * kernel.size // features
    inner = [count_operations(one) for value in equation.params.values() for one in _programs(value)]
    if name == "while" and any(inner):
        raise ValueError(
            "the operations of a while loop cannot be counted, since the number of its turns is not known; "
            "got one with products. Write it as a scan."
        )
    if name == "cond":
        return max(inner)
    return sum(inner) * (equation.params["length"] if name == "scan" else 1)


def _programs(value: Any) -> list[Any]:
    """The jaxprs in a parameter of an equation."""
    if isinstance(value, tuple | list):
        return [one for part in value for one in _programs(part)]
    value = getattr(value, "jaxpr", value)
    return [value] if hasattr(value, "eqns") else []
