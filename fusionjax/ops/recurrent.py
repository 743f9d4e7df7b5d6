"""What every recurrent operation shares: the scan over time, its masks and its checks."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

State = TypeVar("State")


class RecurrentOutput(NamedTuple):
    """What a recurrent operation returns.

    Attributes:
        outputs: the hidden state after every step, zero at masked steps; `[batch, length, features]`, or
            `[length, batch, features]` if time-major.
        final_state: the state after the last step that the mask keeps: hidden `[batch, features]`, or an `LSTMState`.
    """

    outputs: Float[Array, "..."]
    final_state: PyTree[Float[Array, "batch features"]]


def scan_recurrence(
    step: Callable[[State, Array], State],
    read: Callable[[State], Array],
    projected: Float[Array, "..."],
    initial_state: State,
    *,
    mask: Bool[Array, "batch length"] | None,
    reverse: bool,
    time_major: bool,
) -> tuple[Array, State]:
    """Runs a recurrence over time; masked steps leave the state as it is and put out zeros.

    Args:
        step: from a state and one step of `projected`, the next state.
        read: from a state, the hidden state to put out.
        projected: the projected inputs, `[batch, length, ...]`, or `[length, batch, ...]` if time-major.
        initial_state: the state before the first step.
        mask: `[batch, length]`, also if time-major; True = keep; None keeps all.
        reverse: go from the last step to the first.
        time_major: `projected` and the outputs have time first.

    Returns:
        The outputs, in the layout of `projected`, and the final state.
    """
    steps = projected if time_major else projected.swapaxes(0, 1)
    keeps = None if mask is None else mask.swapaxes(0, 1)

    def advance(state: State, inputs: tuple[Array, Array | None]) -> tuple[State, Array]:
        projected_step, keep = inputs
        new_state = step(state, projected_step)
        if keep is None:
            return new_state, read(new_state)
        kept = jax.tree.map(lambda new, old: jnp.where(keep[:, None], new, old), new_state, state)
        return kept, jnp.where(keep[:, None], read(new_state), 0)

    final_state, outputs = lax.scan(advance, initial_state, (steps, keeps), reverse=reverse)
    return outputs if time_major else outputs.swapaxes(0, 1), final_state


def check_recurrent_shapes(
    operation: str,
    inputs: Array,
    input_kernel: Array,
    recurrent_kernel: Array,
    *,
    gates: int,
    mask: Array | None,
    time_major: bool,
) -> None:
    """Raises a ValueError that names the first shape that does not fit.

    Args:
        operation: the operation's name, for messages.
        inputs: `[batch, length, inputs]`, or `[length, batch, inputs]` if time-major.
        input_kernel: `[inputs, gates * features]`.
        recurrent_kernel: `[features, gates * features]`.
        gates: how many gates the kernels hold.
        mask: `[batch, length]` or None.
        time_major: the inputs have time first.

    Raises:
        ValueError: a shape does not fit.
    """
    if inputs.ndim != 3:
        layout = "[length, batch, inputs]" if time_major else "[batch, length, inputs]"
        raise ValueError(
            f"{operation} takes inputs {layout}; got {inputs.shape}. Embed the tokens or add an axis first."
        )
    features = recurrent_kernel.shape[0]
    shapes = (inputs.shape[2], gates * features), (features, gates * features)
    if input_kernel.shape != shapes[0] or recurrent_kernel.shape != shapes[1]:
        raise ValueError(
            f"{operation} needs an input_kernel {shapes[0]} and a recurrent_kernel {shapes[1]}; "
            f"got {input_kernel.shape} and {recurrent_kernel.shape}. Join the {gates} gates along the last axis."
        )
    batch_and_length = inputs.shape[1::-1] if time_major else inputs.shape[:2]
    if mask is not None and mask.shape != batch_and_length:
        raise ValueError(
            f"mask must have shape [batch, length] = {batch_and_length}; got {mask.shape}. "
            "Pad it together with the inputs; it is batch-major also if they are time-major."
        )
