"""Long short-term memory."""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fusionjax.ops.bias import add_bias
from fusionjax.ops.lstm_cudnn import find_cudnn_obstacle, lstm_cudnn
from fusionjax.ops.recurrent import (
    RecurrentOutput,
    advance_projected,
    check_recurrent_shapes,
    choose_recurrence,
    recur,
)
from fusionjax.ops.recurrent_cell import Gates, RecurrentCell, RecurrentWeights, State, sigmoid
from fusionjax.ops.recurrent_persistent import find_pallas_obstacle


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
    input_kernel: Float[Array, "kernel_inputs gates_features"] | None,
    recurrent_kernel: Float[Array, "features recurrent_gates_features"],
    bias: Float[Array, " bias_gates_features"] | None,
    *,
    initial_state: LSTMState | None = None,
    mask: Bool[Array, "mask_batch mask_length"] | None = None,
    reverse: bool = False,
    time_major: bool = False,
    implementation: str | None = None,
) -> RecurrentOutput:
    """Runs a long short-term memory over sequences.

    With i, f, g, o = split(x_t W_x + h_{t-1} W_h + b): c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g),
    h_t = sigmoid(o) tanh(c_t). There are no peepholes. The gates are in PyTorch's order.

    Implementations: `"xla"` is a scan over the steps and the reference. `"chunked"` computes the same values in chunks
    of a few steps; its gradients for the weights are one product each after the loop. It has no forward-mode derivative
    (`jax.jvp`). `"cudnn"` is `jax.experimental.rnn` on an NVIDIA GPU: float32 arrays only, no mask, no `jax.vmap`,
    first derivatives only; its products round to TF32 unless `jax.default_matmul_precision("highest")` asks for full
    float32. `"pallas"` keeps the recurrent weights on chip over all steps, with any mask, on a Hopper GPU with jax 0.11
    or newer: at most 512 features in bfloat16 and 256 in float32, whose recurrent products round to TF32; without
    forward-mode derivative, and inside `jax.shard_map` with `check_vma=False`. None follows the table of choices
    (docs/speed.md); where that has no row: `"pallas"` in bfloat16 on one GPU where it applies, otherwise `"chunked"`,
    except for one step or one example, which are left to `"xla"`.

    Args:
        inputs: `[batch, length, inputs]`, or `[length, batch, inputs]` if time-major.
        input_kernel: W_x, `[inputs, 4 * features]`, gates i, f, g, o; None where the inputs are x W_x already.
        recurrent_kernel: W_h, `[features, 4 * features]`.
        bias: b, `[4 * features]`; None for none.
        initial_state: the state before the first step; None for zeros.
        mask: `[batch, length]`, also if time-major; masked steps keep the state and put out zeros.
        reverse: go from the last step to the first; with trailing padding this starts at the last real token.
        time_major: inputs and outputs have time first.
        implementation: `"xla"`, `"chunked"`, `"cudnn"`, `"pallas"`, or None to choose.

    Returns:
        A `RecurrentOutput` whose final state is an `LSTMState`.

    Raises:
        ValueError: the shapes do not fit, or there is no implementation of that name.
        TypeError: inputs and kernels are all integers, or the mask is not boolean.
        NotImplementedError: the named implementation cannot serve this call.

    Example:
        >>> output = lstm(jnp.ones((2, 5, 3)), jnp.ones((3, 16)), jnp.ones((4, 16)), jnp.zeros(16))
        >>> output.outputs.shape, output.final_state.cell.shape
        ((2, 5, 4), (2, 4))

    References:
        Hochreiter, Schmidhuber, "Long Short-Term Memory", 1997; the forget gate is of Gers, Schmidhuber, Cummins,
        "Learning to Forget", 2000.
    """
    check_recurrent_shapes("lstm", inputs, input_kernel, recurrent_kernel, gates=4, mask=mask, time_major=time_major)
    weights = RecurrentWeights(input_kernel, recurrent_kernel, bias)
    others = {
        "cudnn": find_cudnn_obstacle((inputs, input_kernel, recurrent_kernel, bias), mask),
        "pallas": find_pallas_obstacle(inputs, weights),
    }
    chosen = choose_recurrence("lstm", implementation, inputs, recurrent_kernel, time_major=time_major, others=others)
    run = lstm_cudnn if chosen == "cudnn" else partial(recur, _CELL, mask=mask, implementation=chosen)
    output = run(weights, inputs, initial_state, reverse=reverse, time_major=time_major)
    return RecurrentOutput(output.outputs, LSTMState(*output.final_state))


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
    return LSTMState(*advance_projected(_CELL, tuple(state), projected, recurrent_kernel))


def _advance(state: State, from_inputs: Gates, from_state: Gates) -> tuple[State, tuple[Array, ...]]:
    enter, forget, candidate, leave = (one + other for one, other in zip(from_inputs, from_state, strict=True))
    enter, forget, candidate, leave = sigmoid(enter), sigmoid(forget), jnp.tanh(candidate), sigmoid(leave)
    cell = forget * state[0] + enter * candidate
    return (cell, leave * jnp.tanh(cell)), (enter, forget, candidate, leave)


def _differentiate(state: State, gates: tuple[Array, ...], gradient: State) -> tuple[State, Gates]:
    (cell, _), (enter, forget, candidate, leave), (of_cell, of_hidden) = state, gates, gradient
    squashed = jnp.tanh(forget * cell + enter * candidate)
    of_cell = of_cell + of_hidden * leave * (1 - squashed * squashed)
    of_gates = (
        of_cell * candidate * enter * (1 - enter),
        of_cell * cell * forget * (1 - forget),
        of_cell * enter * (1 - candidate * candidate),
        of_hidden * squashed * leave * (1 - leave),
    )
    return (of_cell * forget, jnp.zeros_like(of_hidden)), of_gates


_CELL = RecurrentCell("lstm", 4, 2, _advance, _differentiate)
