"""Recurrence in chunks of unrolled steps, with a gradient of its own."""

from collections.abc import Callable
from functools import partial
from typing import Any

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
    widen,
    zero_masked,
)

Tree = Any  # a pytree of arrays

# Steps in a chunk, the best first. Measured on a CPU: fewer make the input projection a small product, more make it
# fall out of the cache.
_CHUNK_SIZES = (5, 6, 4, 7, 8)
# Backward there is nothing to project. Measured on a CPU: without results of a chunk to stack, single steps are faster.
_BACKWARD_CHUNK_SIZES = (1,)


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

    def prepare(chunk: tuple[Array, Array | None]) -> list[Tree]:
        rows, keep = chunk
        return _list_steps((rows if weights.input_kernel is None else multiply(rows, weights.input_kernel), keep))

    def advance(state: State, step: tuple[Array, Array | None]) -> tuple[State, Tree]:
        projected, keep = step
        from_inputs = _split(cell, projected, weights.bias)
        from_state = _split(cell, multiply(state[-1], weights.recurrent_kernel), weights.recurrent_bias)
        new, kept = cast(cell.advance(widen(state), from_inputs, from_state), inputs.dtype)
        new = _select(keep, new, state)
        # The hidden state before a step need not be saved: it is the one after the step before.
        return new, (new[-1], state[:-1], kept) if save else (new[-1],)

    return _scan_chunks(advance, prepare, initial_state, (inputs, mask), reverse, _CHUNK_SIZES)


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
        old = _select(keep, old, gradient)
        joined = [_join(gates, keep).astype(inputs.dtype) for gates in of_gates]
        return (*old[:-1], old[-1] + multiply(joined[-1], kernel)), joined

    steps = (others, before, kept, mask, zero_masked(mask, gradients[0]))
    sizes = _BACKWARD_CHUNK_SIZES if on_platform("cpu") else _CHUNK_SIZES
    state_gradient, of_gates = _scan_chunks(retreat, _list_steps, widen(gradients[1]), steps, not reverse, sizes)
    weight_gradients, input_gradient = differentiate_products(weights, inputs, before, of_gates)
    return *cast((weight_gradients, input_gradient, state_gradient), inputs.dtype), None


recur_in_chunks.defvjp(_forward, _backward)


def _split(cell: RecurrentCell, joined: Array, bias: Array | None) -> Gates:
    return tuple(jnp.split(joined if bias is None else joined + bias, cell.num_gates, axis=1))


def _join(gates: Gates, keep: Array | None) -> Array:
    joined = jnp.concatenate(gates, axis=1)
    return joined if keep is None else jnp.where(keep[:, None], joined, 0)


def _select(keep: Array | None, new: State, old: State) -> State:
    if keep is None:
        return new
    return tuple(jnp.where(keep[:, None], *pair) for pair in zip(new, old, strict=True))


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


def _list_steps(arrays: Tree) -> list[Tree]:
    length = jax.tree.leaves(arrays)[0].shape[0]
    return [jax.tree.map(lambda array, step=step: array[step], arrays) for step in range(length)]
