"""Long short-term memory."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fusionjax.ops.bias import add_bias
from fusionjax.ops.recurrent import RecurrentOutput, check_recurrent_shapes, scan_recurrence


class LSTMState(NamedTuple):
    """The state of an LSTM.

    Attributes:
        cell: `[batch, features]`, what it remembers.
        hidden: `[batch, features]`, what it puts out.
    """

    cell: Float[Array, "batch features"]
    hidden: Float[Array, "batch features"]


def lstm(
    inputs: Float[Array, "first second inputs"],
    input_kernel: Float[Array, "kernel_inputs gates_features"],
    recurrent_kernel: Float[Array, "features recurrent_gates_features"],
    bias: Float[Array, " bias_gates_features"],
    *,
    initial_state: LSTMState | None = None,
    mask: Bool[Array, "mask_batch mask_length"] | None = None,
    reverse: bool = False,
    time_major: bool = False,
) -> RecurrentOutput:
    """Runs a long short-term memory over sequences.

    With i, f, g, o = split(x_t W_x + h_{t-1} W_h + b): c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g),
    h_t = sigmoid(o) tanh(c_t). There are no peepholes. The gates are in PyTorch's order.

    Args:
        inputs: `[batch, length, inputs]`, or `[length, batch, inputs]` if time-major.
        input_kernel: W_x, `[inputs, 4 * features]`, gates i, f, g, o.
        recurrent_kernel: W_h, `[features, 4 * features]`.
        bias: b, `[4 * features]`.
        initial_state: the state before the first step; None for zeros.
        mask: `[batch, length]`, also if time-major; masked steps keep the state and put out zeros.
        reverse: go from the last step to the first; with trailing padding this starts at the last real token.
        time_major: inputs and outputs have time first.

    Returns:
        A `RecurrentOutput` whose final state is an `LSTMState`.

    Raises:
        ValueError: the shapes do not fit.

    Example:
        >>> output = lstm(jnp.ones((2, 5, 3)), jnp.ones((3, 16)), jnp.ones((4, 16)), jnp.zeros(16))
        >>> output.outputs.shape, output.final_state.cell.shape
        ((2, 5, 4), (2, 4))

    References:
        Hochreiter, Schmidhuber, "Long Short-Term Memory", 1997; the forget gate is of Gers, Schmidhuber, Cummins,
        "Learning to Forget", 2000.
    """
    check_recurrent_shapes("lstm", inputs, input_kernel, recurrent_kernel, gates=4, mask=mask, time_major=time_major)
    projected = add_bias(inputs @ input_kernel, bias)
    projected = projected.astype(jnp.result_type(projected, recurrent_kernel))
    if initial_state is None:
        zeros = jnp.zeros((inputs.shape[1 if time_major else 0], recurrent_kernel.shape[0]), projected.dtype)
        initial_state = LSTMState(zeros, zeros)
    initial_state = jax.tree.map(lambda leaf: leaf.astype(projected.dtype), initial_state)
    return RecurrentOutput(
        *scan_recurrence(
            partial(lstm_update, recurrent_kernel=recurrent_kernel),
            lambda state: state.hidden,
            projected,
            initial_state,
            mask=mask,
            reverse=reverse,
            time_major=time_major,
        )
    )


def lstm_step(
    state: LSTMState,
    inputs: Float[Array, "batch inputs"],
    input_kernel: Float[Array, "inputs gates_features"],
    recurrent_kernel: Float[Array, "features gates_features"],
    bias: Float[Array, " gates_features"],
) -> LSTMState:
    """Advances an LSTM by one step; see `lstm`.

    Args:
        state: the state before.
        inputs: `[batch, inputs]`.
        input_kernel: `[inputs, 4 * features]`, gates i, f, g, o.
        recurrent_kernel: `[features, 4 * features]`.
        bias: `[4 * features]`.

    Returns:
        The state after; its `hidden` is the output.

    Example:
        >>> state = LSTMState(jnp.zeros((2, 4)), jnp.zeros((2, 4)))
        >>> lstm_step(state, jnp.ones((2, 3)), jnp.ones((3, 16)), jnp.ones((4, 16)), jnp.zeros(16)).hidden.shape
        (2, 4)
    """
    return lstm_update(state, add_bias(inputs @ input_kernel, bias), recurrent_kernel)


def lstm_update(
    state: LSTMState,
    projected: Float[Array, "batch gates_features"],
    recurrent_kernel: Float[Array, "features gates_features"],
) -> LSTMState:
    """Advances an LSTM by one step whose inputs are already projected, such as by one product for all steps.

    Args:
        state: the state before.
        projected: x W_x + b, `[batch, 4 * features]`, gates i, f, g, o.
        recurrent_kernel: `[features, 4 * features]`.

    Returns:
        The state after; its `hidden` is the output.

    Example:
        >>> state = LSTMState(jnp.zeros((2, 4)), jnp.zeros((2, 4)))
        >>> lstm_update(state, jnp.ones((2, 16)), jnp.ones((4, 16))).hidden.shape
        (2, 4)
    """
    gates = projected + state.hidden @ recurrent_kernel
    enter, forget, candidate, leave = jnp.split(gates, 4, axis=-1)
    cell = jax.nn.sigmoid(forget) * state.cell + jax.nn.sigmoid(enter) * jnp.tanh(candidate)
    return LSTMState(cell, jax.nn.sigmoid(leave) * jnp.tanh(cell))
