"""Recurrence in chunks of unrolled steps, with a gradient of its own."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from fusionjax.ops.implementations import on_platform
from fusionjax.ops.recurrent_cell import Gates, RecurrentCell, RecurrentWeights, State
from fusionjax.ops.recurrent_products import (
    cast,
    differentiate_products,
    multiply,
    shift_hidden,
    wide,
    widen,
    zero_masked,
)

Tree = Any  # a pytree of arrays

# Steps in a chunk, the best first. Measured on a CPU: fewer make the input projection a small product, more make it
# fall out of the cache.
_CHUNK_SIZES = (5, 6, 4, 7, 8)
# Backward there is nothing to project. Measured on a CPU: without results of a chunk to stack, single steps are faster.
_BACKWARD_CHUNK_SIZES = (1,)
# Measured on a CPU: from so many weights on, and with a batch of whole vectors, a step is faster in columns; not where
# its values are saved for gradients, which would turn them all. XLA has not all of their products in bfloat16.
_LEAST_WEIGHTS_FOR_COLUMNS, _BATCH_MULTIPLE_FOR_COLUMNS = 2**20, 8


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def recur_in_chunks(
    cell: RecurrentCell,
    reverse: bool,
    weights: RecurrentWeights,
    inputs: Float[Array, "length batch inputs"],
    initial_state: State,
    mask: Bool[Array, "length batch"] | None,
) -> tuple[Float[Array, "length batch features"], State]:
    """Runs a recurrence over time; see `fusionjax.ops.recurrent.recur`.

    A scan goes over chunks of a few steps: one product projects the inputs of a chunk, and its steps are unrolled.
    Backward, the scan (on a CPU over single steps) only carries the gradient of the state; the gradients of the weights
    and of the inputs are one product each, afterwards. Whatever the dtype, sums are made in float32 at least.

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
    state, (hidden, *_) = _run(cell, reverse, weights, inputs, initial_state, mask, save=False)
    return zero_masked(mask, hidden), state


def _forward(
    cell: RecurrentCell,
    reverse: bool,
    weights: RecurrentWeights,
    inputs: Array,
    initial_state: State,
    mask: Array | None,
) -> tuple[tuple[Array, State], Tree]:
    state, saved = _run(cell, reverse, weights, inputs, initial_state, mask, save=True)
    return (zero_masked(mask, saved[0]), state), (weights, inputs, initial_state, mask, saved)


def _run(
    cell: RecurrentCell,
    reverse: bool,
    weights: RecurrentWeights,
    inputs: Array,
    initial_state: State,
    mask: Array | None,
    *,
    save: bool,
) -> tuple[State, Tree]:
    """Returns the final state and the hidden states; to save, also the rest of the state before each step, and more."""
    layout = _ROWS if save else _choose_layout(weights, inputs)
    input_kernel = None if weights.input_kernel is None else layout.turn(weights.input_kernel)
    kernel = layout.turn(weights.recurrent_kernel)
    bias, recurrent_bias = (None if one is None else layout.turn(one[None]) for one in (weights.bias, weights[3]))

    def prepare(chunk: tuple[Array, Array | None]) -> list[Tree]:
        projected = layout.project(chunk[0], input_kernel)
        keeps = _list_steps(chunk[1], len(projected))
        return [(layout.split(cell, one, bias), keep) for one, keep in zip(projected, keeps, strict=True)]

    def advance(state: State, step: tuple[Gates, Array | None]) -> tuple[State, Tree]:
        gates, keep = step
        from_state = layout.split(cell, layout.multiply(state[-1], kernel), recurrent_bias)
        new, kept = cast(cell.advance(widen(state), gates, from_state), inputs.dtype)
        new = layout.select(keep, new, state)
        # The hidden state before a step need not be saved: it is the one after the step before.
        return new, (new[-1], state[:-1], kept) if save else (layout.turn(new[-1]),)

    turned = tuple(map(layout.turn, initial_state))
    state, saved = _scan_chunks(advance, prepare, turned, (inputs, mask), reverse, _CHUNK_SIZES)
    return tuple(map(layout.turn, state)), saved


def _backward(
    cell: RecurrentCell, reverse: bool, residuals: Tree, gradients: tuple[Array, State]
) -> tuple[RecurrentWeights, Array, State, None]:
    weights, inputs, initial_state, mask, (hidden, others, kept) = residuals
    kernel = weights.recurrent_kernel.T
    before = shift_hidden(initial_state[-1], hidden, reverse)

    def retreat(gradient: State, step: Tree) -> tuple[State, list[Array]]:
        others, before, kept, keep, of_output = step
        gradient = (*gradient[:-1], gradient[-1] + of_output)
        # Of the gates of x W_x + b and, where they are others, of h W_h + b_h
        old, *of_gates = cell.differentiate(widen((*others, before)), widen(kept), gradient)
        old = _ROWS.select(keep, old, gradient)
        joined = [_ROWS.join(gates, keep).astype(inputs.dtype) for gates in of_gates]
        return (*old[:-1], old[-1] + multiply(joined[-1], kernel)), joined

    steps = (others, before, kept, mask, zero_masked(mask, gradients[0]))
    sizes = _BACKWARD_CHUNK_SIZES if on_platform("cpu") else _CHUNK_SIZES
    state_gradient, of_gates = _scan_chunks(retreat, _list_steps, widen(gradients[1]), steps, not reverse, sizes)
    weight_gradients, input_gradient = differentiate_products(weights, inputs, before, of_gates)
    return *cast((weight_gradients, input_gradient, state_gradient), inputs.dtype), None


recur_in_chunks.defvjp(_forward, _backward)


class _Layout(NamedTuple):
    """How a step is computed: in rows `[batch, features]`, or in columns `[features, batch]`."""

    in_columns: bool

    @property
    def gate_axis(self) -> int:
        return 0 if self.in_columns else 1

    def turn(self, array: Array) -> Array:
        """From rows to this layout, or back."""
        return array.swapaxes(-1, -2) if self.in_columns else array

    def multiply(self, state: Array, kernel: Array) -> Array:
        return multiply(kernel, state) if self.in_columns else multiply(state, kernel)

    def project(self, rows: Array, kernel: Array | None) -> list[Array]:
        """Multiplies all steps of a chunk, `[steps, batch, inputs]`, and lists the products in this layout."""
        if kernel is None:
            return [self.turn(row) for row in rows]
        if not self.in_columns:
            return list(multiply(rows, kernel))
        # [num_gates * features, steps, batch]
        projected = jnp.einsum("oi,sbi->osb", kernel, rows, preferred_element_type=wide(rows.dtype))
        return [projected[:, step] for step in range(len(rows))]

    def split(self, cell: RecurrentCell, joined: Array, bias: Array | None) -> Gates:
        joined = joined if bias is None else joined + bias
        return tuple(jnp.split(joined, cell.num_gates, self.gate_axis))

    def join(self, gates: Gates, keep: Array | None) -> Array:
        joined = jnp.concatenate(gates, self.gate_axis)
        return joined if keep is None else jnp.where(jnp.expand_dims(keep, self.gate_axis), joined, 0)

    def select(self, keep: Array | None, new: State, old: State) -> State:
        if keep is None:
            return new
        keep = jnp.expand_dims(keep, self.gate_axis)
        return tuple(jnp.where(keep, *pair) for pair in zip(new, old, strict=True))


_ROWS = _Layout(in_columns=False)


def _choose_layout(weights: RecurrentWeights, inputs: Array) -> _Layout:
    if not on_platform("cpu"):
        return _ROWS
    is_large = weights.recurrent_kernel.size >= _LEAST_WEIGHTS_FOR_COLUMNS
    is_wide = inputs.dtype == wide(inputs.dtype)
    return _Layout(is_wide and is_large and inputs.shape[1] % _BATCH_MULTIPLE_FOR_COLUMNS == 0)


def _scan_chunks(
    advance: Callable[[State, Tree], tuple[State, Tree]],
    prepare: Callable[[Tree], list[Tree]],
    state: State,
    arrays: Tree,
    reverse: bool,
    sizes: tuple[int, ...],
) -> tuple[State, Tree]:
    """Like `lax.scan`, in chunks of unrolled steps; `prepare` makes a list of steps of a chunk of the arrays."""
    length = jax.tree.leaves(arrays)[0].shape[0]
    size = _choose_chunk_size(length, sizes)
    in_chunks = length - length % size

    def run_chunk(state: State, chunk: Tree) -> tuple[State, Tree]:
        steps = prepare(chunk)
        results = [None] * len(steps)
        for index in reversed(range(len(steps))) if reverse else range(len(steps)):
            state, results[index] = advance(state, steps[index])
        return state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)

    def run_chunks(state: State, arrays: Tree) -> tuple[State, Tree]:
        chunks = jax.tree.map(lambda array: array.reshape(-1, size, *array.shape[1:]), arrays)
        state, results = lax.scan(run_chunk, state, chunks, reverse=reverse)
        return state, jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), results)

    if in_chunks == length:
        return run_chunk(state, arrays) if length == size else run_chunks(state, arrays)
    first, last = (
        jax.tree.map(lambda array, part=part: array[part], arrays)
        for part in (slice(in_chunks), slice(in_chunks, None))
    )
    if reverse:
        state, last = run_chunk(state, last)
        state, first = run_chunks(state, first)
    else:
        state, first = run_chunks(state, first)
        state, last = run_chunk(state, last)
    return state, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), first, last)


def _choose_chunk_size(length: int, sizes: tuple[int, ...]) -> int:
    """Takes a size that divides the length, if there is one; a short sequence is one chunk."""
    if length <= max(sizes):
        return length
    return next((size for size in sizes if length % size == 0), sizes[0])


def _list_steps(arrays: Tree, length: int | None = None) -> list[Tree]:
    length = jax.tree.leaves(arrays)[0].shape[0] if length is None else length
    return [jax.tree.map(lambda array, step=step: array[step], arrays) for step in range(length)]
