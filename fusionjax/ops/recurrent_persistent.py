"""Recurrence by kernels that keep the recurrent weights on chip, with a gradient of its own."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fusionjax.ops.gpu import find_compute_capability, find_gpu_obstacle
from fusionjax.ops.manual_axes import varying_axes
from fusionjax.ops.recurrent_block import ROWS, Split, find_most_features, split_units
from fusionjax.ops.recurrent_cell import RecurrentCell, RecurrentWeights, State
from fusionjax.ops.recurrent_chunked import recur_in_chunks
from fusionjax.ops.recurrent_kernels import advance_kernel, retreat_kernel
from fusionjax.ops.recurrent_products import cast, differentiate_products, project_inputs, shift_hidden, zero_masked

Tree = Any  # a pytree of arrays

_LEAST_JAX, _HOPPER = (0, 11), (9, 0)


def find_pallas_obstacle(inputs: Float[Array, "first second inputs"], weights: RecurrentWeights) -> str | None:
    """Says why the kernels cannot serve a call.

    Args:
        inputs: the inputs.
        weights: the parameters.

    Returns:
        The reason in words, or None where they can.
    """
    if jax.__version_info__ < _LEAST_JAX:
        return f"its kernel needs jax 0.11 or newer; got {jax.__version__}"
    obstacle = find_gpu_obstacle("its kernel")
    if obstacle is not None:
        return obstacle
    capability = find_compute_capability(_HOPPER)
    if capability != _HOPPER:
        return f"its kernel needs a Hopper GPU, compute capability 9.0; got {'.'.join(map(str, capability))}"
    if varying_axes((inputs, weights)):
        return "its kernel runs inside jax.shard_map only with check_vma=False"
    dtype = jnp.result_type(inputs, *jax.tree.leaves(weights))
    if dtype not in (jnp.float32, jnp.bfloat16):
        return f"its kernel takes float32 and bfloat16; got {dtype}"
    features, width = weights.recurrent_kernel.shape
    most = find_most_features(width // features, dtype)
    if features > most:
        return f"its kernel keeps the weights of at most {most} features on chip in {dtype}; got {features}"
    return None


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def recur_persistently(
    cell: RecurrentCell,
    reverse: bool,
    weights: RecurrentWeights,
    inputs: Float[Array, "length batch inputs"],
    initial_state: State,
    mask: Bool[Array, "length batch"] | None,
) -> tuple[Float[Array, "length batch features"], State]:
    """Runs a recurrence over time; see `fusionjax.ops.recurrent.recur`.

    One product projects all inputs; a kernel runs all steps. Backward, another kernel carries the gradient of the
    state, and the gradients of the weights and of the inputs are one product each, afterwards. Sums, and the state from
    step to step, are float32; recurrent products of float32 arrays round to TF32. Second derivatives are those of
    `recur_in_chunks`.

    Args:
        cell: the elementwise part.
        reverse: go from the last step to the first.
        weights: the parameters; they and all other arrays have one dtype.
        inputs: `[length, batch, inputs]`.
        initial_state: the state before the first step, `[batch, features]` each.
        mask: `[length, batch]`; where False, the state stays and zeros are put out; None keeps all.

    Returns:
        The hidden states after every step, `[length, batch, features]`, and the state after the last.
    """
    hidden, state, _ = _run(cell, reverse, weights, inputs, initial_state, mask, save=False)
    return zero_masked(mask, hidden), state


def _forward(
    cell: RecurrentCell,
    reverse: bool,
    weights: RecurrentWeights,
    inputs: Array,
    initial_state: State,
    mask: Array | None,
) -> tuple[tuple[Array, State], Tree]:
    outputs, saved = _advance(cell, reverse, weights, inputs, initial_state, mask)
    return outputs, (weights, inputs, initial_state, mask, saved)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _advance(
    cell: RecurrentCell,
    reverse: bool,
    weights: RecurrentWeights,
    inputs: Array,
    initial_state: State,
    mask: Array | None,
) -> tuple[tuple[Array, State], Tree]:
    """Returns the outputs, and what `_differentiate` needs of the run."""
    hidden, state, saved = _run(cell, reverse, weights, inputs, initial_state, mask, save=True)
    return (zero_masked(mask, hidden), state), (hidden, saved)


def _advance_forward(cell: RecurrentCell, reverse: bool, *arguments: Tree) -> tuple[Tree, Tree]:
    outputs, saved = _advance(cell, reverse, *arguments)
    return (outputs, saved), (*arguments, saved)


def _advance_backward(cell: RecurrentCell, reverse: bool, residuals: Tree, gradients: Tree) -> Tree:
    # What was saved has no gradient: that of `_differentiate` is all in its arguments.
    return _backward(cell, reverse, residuals, gradients[0])


def _run(
    cell: RecurrentCell,
    reverse: bool,
    weights: RecurrentWeights,
    inputs: Array,
    initial_state: State,
    mask: Array | None,
    *,
    save: bool,
) -> tuple[Array, State, Tree]:
    """Returns the hidden states, the final state and, to save, what `advance_kernel` saves, still padded."""
    split = _split(cell, weights)
    (length, batch, _), features = inputs.shape, initial_state[0].shape[-1]
    projected = project_inputs(weights, inputs)
    # [gates, features, inner features]
    kernel = weights.recurrent_kernel.reshape(features, cell.num_gates, features).transpose(1, 2, 0)
    bias = weights.recurrent_bias
    arguments = (
        _pad(split, projected.reshape(length, batch, cell.num_gates, features), rows=1, units=(3,)),
        _pad(split, kernel, units=(1, 2)),
        None if bias is None else _pad(split, bias.reshape(cell.num_gates, features), units=(1,)),
        tuple(_pad(split, state, rows=0, units=(1,)) for state in initial_state),
        _pad_mask(mask),
    )
    hidden, state, saved = advance_kernel(cell, reverse, save, split, arguments)
    return hidden[:, :batch, :features], tuple(one[:batch, :features] for one in state), saved


def _backward(
    cell: RecurrentCell, reverse: bool, residuals: Tree, gradients: tuple[Array, State]
) -> tuple[RecurrentWeights, Array, State, None]:
    weights, inputs, initial_state, mask, saved = residuals
    return *_differentiate(cell, reverse, (weights, inputs, initial_state), mask, saved, gradients), None


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _differentiate(
    cell: RecurrentCell,
    reverse: bool,
    arguments: tuple[RecurrentWeights, Array, State],
    mask: Array | None,
    saved: Tree,
    gradients: tuple[Array, State],
) -> tuple[RecurrentWeights, Array, State]:
    (weights, inputs, initial_state), (hidden, (others, kept)) = arguments, saved
    split = _split(cell, weights)
    (length, batch, _), features = inputs.shape, hidden.shape[-1]
    before = shift_hidden(initial_state[-1], hidden, reverse)
    # [gates, inner features, features]
    kernel = weights.recurrent_kernel.reshape(features, cell.num_gates, features).swapaxes(0, 1)
    operands = (
        _pad(split, kernel, units=(1, 2)),
        (*others, _pad(split, before, rows=1, units=(2,))),
        kept,
        _pad_mask(mask),
        _pad(split, zero_masked(mask, gradients[0]), rows=1, units=(2,)),
        tuple(_pad(split, one, rows=0, units=(1,)) for one in gradients[1]),
    )
    padded, of_initial = retreat_kernel(cell, reverse, split, operands)
    of_gates = [one[:, :batch, :, :features].reshape(length, batch, -1) for one in padded]
    of_weights, of_inputs = differentiate_products(weights, inputs, before, of_gates)
    of_state = tuple(one[:batch, :features] for one in of_initial)
    return cast((of_weights, of_inputs, of_state), inputs.dtype)


def _differentiate_forward(cell: RecurrentCell, reverse: bool, *operands: Tree) -> tuple[Tree, Tree]:
    return _differentiate(cell, reverse, *operands), operands


def _differentiate_backward(cell: RecurrentCell, reverse: bool, operands: Tree, gradients: Tree) -> Tree:
    """Differentiates the gradient as `recur_in_chunks` has it, a function of the arguments alone."""
    arguments, mask, saved, of_outputs = operands

    def differentiate(arguments: Tree, of_outputs: Tree) -> Tree:
        return jax.vjp(lambda *arguments: recur_in_chunks(cell, reverse, *arguments, mask), *arguments)[1](of_outputs)

    of_arguments, of_gradients = jax.vjp(differentiate, arguments, of_outputs)[1](gradients)
    return of_arguments, None, jax.tree.map(jnp.zeros_like, saved), of_gradients


recur_persistently.defvjp(_forward, _backward)
_advance.defvjp(_advance_forward, _advance_backward)
_differentiate.defvjp(_differentiate_forward, _differentiate_backward)


def _split(cell: RecurrentCell, weights: RecurrentWeights) -> Split:
    return split_units(cell.num_gates, weights.recurrent_kernel.shape[0], weights.recurrent_kernel.dtype)


def _pad(split: Split, array: Array, *, rows: int | None = None, units: tuple[int, ...]) -> Array:
    """Pads examples to whole blocks, and units to the split's; padded units stay zero in every cell."""
    widths = [(0, 0)] * array.ndim
    if rows is not None:
        widths[rows] = (0, -array.shape[rows] % ROWS)
    for axis in units:
        widths[axis] = (0, split.features - array.shape[axis])
    return jnp.pad(array, widths)


def _pad_mask(mask: Array | None) -> Array | None:
    return None if mask is None else jnp.pad(mask.astype(jnp.int32), ((0, 0), (0, -mask.shape[1] % ROWS)))
