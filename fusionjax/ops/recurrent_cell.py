"""What a recurrent cell is: the elementwise part of a recurrence, and its gradient."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

# One or more arrays of one shape; the last one is the hidden state, which the cell puts out.
State = tuple[Array, ...]
Gates = tuple[Array, ...]


class RecurrentCell(NamedTuple):
    """The elementwise part of a recurrence; the products with the kernels are done around it, in any layout.

    Attributes:
        name: the operation's name, for messages.
        num_gates: how many gates the kernels hold.
        num_states: how many arrays the state has.
        advance: from the state, the gates of x W_x + b and those of h W_h (+ b_h): the next state, and what
            `differentiate` needs of the step.
        differentiate: from the state before, what `advance` kept and the gradient of the next state: the gradient of
            the state before, other than by way of h W_h; that of the gates of x W_x + b; and that of the gates of h W_h
            where it is another.
    """

    name: str
    num_gates: int
    num_states: int
    advance: Callable[[State, Gates, Gates], tuple[State, tuple[Array, ...]]]
    differentiate: Callable[[State, tuple[Array, ...], State], tuple[State, Gates] | tuple[State, Gates, Gates]]


class RecurrentWeights(NamedTuple):
    """The parameters of a recurrence.

    Attributes:
        input_kernel: W_x, `[inputs, num_gates * features]`; None where the inputs are x W_x already.
        recurrent_kernel: W_h, `[features, num_gates * features]`.
        bias: b, `[num_gates * features]`, if there is one.
        recurrent_bias: b_h, `[num_gates * features]`, if the cell has one.
    """

    input_kernel: Array | None
    recurrent_kernel: Array
    bias: Array | None
    recurrent_bias: Array | None = None


def sigmoid(values: Array) -> Array:
    """Returns the logistic function by way of tanh, which costs a CPU less than an exponential and a division."""
    return 0.5 * jnp.tanh(0.5 * values) + 0.5
