"""Kernels of a recurrence for NVIDIA's Hopper GPUs, which keep the recurrent weights on chip over all steps.

The units are split over the thread blocks of a cluster, 64 examples each; a block keeps its units' weights in shared
memory and their state in registers. After a step, the blocks swap what they computed by way of the L2 cache: each
writes its part of the step's rows of an output array, all meet at a barrier, and each reads the whole rows.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from fusionjax.ops.recurrent_block import Block, Split, add_row, launch, read, write
from fusionjax.ops.recurrent_cell import RecurrentCell, State

Tree = Any  # a pytree of arrays, or of references to them


def advance_kernel(
    cell: RecurrentCell, reverse: bool, save: bool, split: Split, arguments: Tree
) -> tuple[Array, State, Tree]:
    """Runs all steps of a recurrence; sizes are multiples of what the kernel takes.

    Args:
        cell: the elementwise part.
        reverse: go from the last step to the first.
        save: also return what the backward pass needs.
        split: how units are split over blocks.
        arguments: x W_x + b, `[length, batch, gates, features]`; W_h as `[gates, features, inner features]`; b_h,
            `[gates, features]`, or None; the initial state, `[batch, features]` each; the mask,
            `[length, batch]` int32, or None.

    Returns:
        The hidden states after every step, without regard to the mask zeros, `[length, batch, features]`; the final
        state; and to save, the other states before each step and what the cell kept, otherwise None.
    """
    projected = arguments[0]
    length, batch, _, features = projected.shape
    steps = jax.ShapeDtypeStruct((length, batch, features), projected.dtype)
    final = jax.ShapeDtypeStruct((batch, features), projected.dtype)
    others = (steps,) * (cell.num_states - 1)
    saved = (others, (steps,) * _count(cell)[0]) if save else None

    def run(block: Block, operands: Tree, results: Tree) -> None:
        projected, kernel, recurrent_bias, initial_state, mask = operands
        hidden, final, saved = results
        block.copy(kernel.at[:, block.own, :], block.weights)
        block.copy(initial_state[-1].at[block.rows, :], block.row)
        biases = [None if recurrent_bias is None else read(recurrent_bias, gate, block.own) for gate in range(gates)]

        def advance(index: Array, state: State) -> State:
            step = length - 1 - index if reverse else index
            from_inputs = tuple(read(projected, step, block.rows, gate, block.own) for gate in range(gates))
            from_state = block.multiply_each_gate()
            from_state = tuple(map(add_row, from_state, biases))
            new, kept = cell.advance(state, from_inputs, from_state)
            if saved is not None:
                block.write(saved, step, (state[:-1], kept))
            new = block.select(mask, step, new, state)
            block.write(hidden, step, new[-1])
            block.meet()
            block.copy(hidden.at[step, block.rows, :], block.row)
            return new

        state = tuple(read(one, block.rows, block.own) for one in initial_state)
        state = lax.fori_loop(0, length, advance, state)
        block.write(final, None, state)

    gates = cell.num_gates
    return launch(run, arguments, (steps, (final,) * cell.num_states, saved), split, gates, batch, projected.dtype)


def retreat_kernel(
    cell: RecurrentCell, reverse: bool, split: Split, arguments: Tree
) -> tuple[tuple[Array, ...], State]:
    """Runs all steps of a recurrence's gradient, the last one first.

    Args:
        cell: the elementwise part.
        reverse: the recurrence went from the last step to the first.
        split: how units are split over blocks.
        arguments: W_h as `[gates, inner features, features]`; the state before each step and what the cell kept of it,
            `[length, batch, features]` each; the mask or None; the gradient of the hidden states, and that of
            the final state.

    Returns:
        The gradients of the gates of x W_x + b and, where they are others, of those of h W_h + b_h,
        `[length, batch, gates, features]`; and that of the initial state.
    """
    gates = cell.num_gates
    of_outputs = arguments[-2]
    length, batch, features = of_outputs.shape
    of_gates = jax.ShapeDtypeStruct((length, batch, gates, features), of_outputs.dtype)
    of_initial = jax.ShapeDtypeStruct((batch, features), of_outputs.dtype)

    def run(block: Block, operands: Tree, results: Tree) -> None:
        kernel, before, kept, mask, of_outputs, of_final = operands
        of_gates, of_initial = results
        block.copy(kernel.at[:, block.own, :], block.weights)

        def retreat(index: Array, gradient: State) -> State:
            step = index if reverse else length - 1 - index
            of_output, state, saved = (
                jax.tree.map(lambda ref: read(ref, step, block.rows, block.own), one)
                for one in (of_outputs, before, kept)
            )
            gradient = (*gradient[:-1], gradient[-1] + of_output)
            old, *new = cell.differentiate(state, saved, gradient)
            old = block.select(mask, step, old, gradient)
            for refs, values in zip(of_gates, new, strict=True):
                zeros = tuple(map(jnp.zeros_like, values))
                for gate, value in enumerate(block.select(mask, step, values, zeros)):
                    write(refs, value, step, block.rows, gate, block.own)
            block.meet()
            through_kernel = block.multiply_all_gates(of_gates[-1].at[step, block.rows])
            return (*old[:-1], old[-1] + through_kernel)

        gradient = tuple(read(one, block.rows, block.own) for one in of_final)
        gradient = lax.fori_loop(0, length, retreat, gradient)
        block.write(of_initial, None, gradient)

    results = ((of_gates,) * _count(cell)[1], (of_initial,) * cell.num_states)
    return launch(run, arguments, results, split, gates, batch, of_outputs.dtype)


def _count(cell: RecurrentCell) -> tuple[int, int]:
    """Returns how many arrays a cell keeps of a step, and of how many products its gates have gradients."""
    number = jax.ShapeDtypeStruct((), jnp.float32)
    state, gates = (number,) * cell.num_states, (number,) * cell.num_gates
    _, kept = jax.eval_shape(cell.advance, state, gates, gates)
    _, *of_gates = jax.eval_shape(cell.differentiate, state, kept, state)
    return len(kept), len(of_gates)
