"""Products and dtypes that recurrences with a gradient of their own share."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from fusionjax.ops.bias import add_bias
from fusionjax.ops.implementations import count_devices
from fusionjax.ops.recurrent_cell import RecurrentWeights

Tree = Any  # a pytree of arrays


def project_inputs(
    weights: RecurrentWeights, inputs: Float[Array, "length batch inputs"]
) -> Float[Array, "length batch gates_features"]:
    """Computes x W_x + b of all steps, or what of it the weights hold.

    Args:
        weights: the parameters.
        inputs: `[length, batch, inputs]`.

    Returns:
        `[length, batch, num_gates * features]`.
    """
    projected = inputs if weights.input_kernel is None else inputs @ weights.input_kernel
    return projected if weights.bias is None else add_bias(projected, weights.bias)


def shift_hidden(
    initial: Float[Array, "batch features"], hidden: Float[Array, "length batch features"], reverse: bool
) -> Float[Array, "length batch features"]:
    """Returns the hidden state before each step.

    Args:
        initial: the one before the first step.
        hidden: those after every step.
        reverse: whether the first step is the last one in time.

    Returns:
        `[length, batch, features]`.
    """
    first = initial[None]
    return jnp.concatenate([hidden[1:], first] if reverse else [first, hidden[:-1]])


def differentiate_products(
    weights: RecurrentWeights,
    inputs: Float[Array, "length batch inputs"],
    before: Float[Array, "length batch features"],
    of_gates: Sequence[Float[Array, "length batch gates_features"]],
) -> tuple[RecurrentWeights, Float[Array, "length batch inputs"]]:
    """Returns the gradients of the weights and of the inputs, one product each over all steps.

    Args:
        weights: the parameters.
        inputs: `[length, batch, inputs]`.
        before: the hidden state before each step.
        of_gates: the gradient of x W_x + b; and that of h W_h + b_h, where it is another.

    Returns:
        Both in float32 at least.
    """
    of_inputs, of_state = of_gates[0], of_gates[-1]
    of_input_kernel = None if weights.input_kernel is None else _sum_products(inputs, of_inputs)
    of_recurrent_kernel = _sum_products(before, of_state)
    of_bias = None if weights.bias is None else widen(of_inputs).sum((0, 1))
    of_recurrent_bias = None if weights.recurrent_bias is None else widen(of_state).sum((0, 1))
    of_weights = RecurrentWeights(of_input_kernel, of_recurrent_kernel, of_bias, of_recurrent_bias)
    if weights.input_kernel is None:
        return of_weights, widen(of_inputs)
    return of_weights, multiply(of_inputs, weights.input_kernel.T)


def multiply(left: Float[Array, "..."], right: Float[Array, "..."]) -> Float[Array, "..."]:
    """Multiplies matrices; sums and result are float32 at least."""
    return jnp.matmul(left, right, preferred_element_type=wide(left.dtype))


def _sum_products(left: Array, right: Array) -> Array:
    """Sums the products of all steps and examples, `[length, batch, ...]`, to `[left features, right features]`."""
    terms = "tbi,tbo->io"
    if count_devices() == 1:
        # Merged into one axis, neither side is copied first; but a batch sharded over devices would be gathered.
        left, right, terms = left.reshape(-1, left.shape[-1]), right.reshape(-1, right.shape[-1]), "ni,no->io"
    return jnp.einsum(terms, left, right, preferred_element_type=wide(left.dtype))


def zero_masked(mask: Bool[Array, "length batch"] | None, steps: Float[Array, "..."]) -> Float[Array, "..."]:
    """Puts zeros where the mask is False."""
    return steps if mask is None else jnp.where(mask[:, :, None], steps, 0)


def wide(dtype: DTypeLike) -> DTypeLike:
    """Returns the dtype in which sums are made: float32 at least."""
    return jnp.promote_types(dtype, jnp.float32)


def cast(tree: Tree, dtype: DTypeLike) -> Tree:
    """Casts all arrays of a tree."""
    return jax.tree.map(lambda array: array.astype(dtype), tree)


def widen(tree: Tree) -> Tree:
    """Casts all arrays of a tree to float32 at least."""
    return jax.tree.map(lambda array: array.astype(wide(array.dtype)), tree)
