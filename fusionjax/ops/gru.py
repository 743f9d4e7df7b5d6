"""Gated recurrent unit."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fusionjax.ops.bias import add_bias
from fusionjax.ops.recurrent import (
    RecurrentOutput,
    advance_projected,
    check_recurrent_shapes,
    choose_recurrence,
    recur,
)
from fusionjax.ops.recurrent_cell import Gates, RecurrentCell, RecurrentWeights, State, sigmoid
from fusionjax.ops.recurrent_persistent import find_pallas_obstacle


def gru(
    inputs: Float[Array, "first second inputs"],
    input_kernel: Float[Array, "kernel_inputs gates_features"] | None,
    recurrent_kernel: Float[Array, "features recurrent_gates_features"],
    bias: Float[Array, " bias_gates_features"] | None,
    recurrent_bias: Float[Array, " recurrent_bias_gates_features"],
    *,
    initial_state: Float[Array, "batch features"] | None = None,
    mask: Bool[Array, "mask_batch mask_length"] | None = None,
    reverse: bool = False,
    time_major: bool = False,
    implementation: str | None = None,
) -> RecurrentOutput:
    """Runs a gated recurrent unit over sequences.

    With r, z, n taken from x_t W_x + b and from h_{t-1} W_h + b_h: r = sigmoid(x_r + h_r), z = sigmoid(x_z + h_z),
    n = tanh(x_n + r h_n), h_t = (1 - z) n + z h_{t-1}. This is the form of PyTorch and cuDNN: the reset gate r acts
    after the recurrent product, where the paper lets it act on h_{t-1} before.

    Implementations: `"xla"` is a scan over the steps and the reference. `"chunked"` computes the same values in chunks
    of a few steps; its gradients for the weights are one product each after the loop. It has no forward-mode derivative
    (`jax.jvp`). `"pallas"` keeps the recurrent weights on chip over all steps, with any mask, on a Hopper GPU with jax
    0.11 or newer: at most 512 features in bfloat16 and 384 in float32, whose recurrent products round to TF32; without
    forward-mode derivative, and inside `jax.shard_map` with `check_vma=False`. None follows the table of choices
    (docs/speed.md); where that has no row: `"pallas"` in bfloat16 on one GPU where it applies, otherwise `"chunked"`,
    except for one step or one example, which are left to `"xla"`.

    Args:
        inputs: `[batch, length, inputs]`, or `[length, batch, inputs]` if time-major.
        input_kernel: W_x, `[inputs, 3 * features]`, gates r, z, n; None where the inputs are x W_x already.
        recurrent_kernel: W_h, `[features, 3 * features]`.
        bias: b, `[3 * features]`; None for none.
        recurrent_bias: b_h, `[3 * features]`.
        initial_state: hidden state before the first step, `[batch, features]`; None for zeros.
        mask: `[batch, length]`, also if time-major; masked steps keep the state and put out zeros.
        reverse: go from the last step to the first; with trailing padding this starts at the last real token.
        time_major: inputs and outputs have time first.
        implementation: `"xla"`, `"chunked"`, `"pallas"`, or None to choose.

    Returns:
        A `RecurrentOutput` whose final state is the hidden state `[batch, features]`.

    Raises:
        ValueError: the shapes do not fit, or there is no implementation of that name.
        TypeError: inputs and kernels are all integers, or the mask is not boolean.
        NotImplementedError: the named implementation cannot serve this call.

    Example:
        >>> bias = jnp.zeros(12)
        >>> gru(jnp.ones((2, 5, 3)), jnp.ones((3, 12)), jnp.ones((4, 12)), bias, bias).outputs.shape
        (2, 5, 4)

    References:
        Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", 2014, arXiv:1406.1078, section 2.3.
    """
    check_recurrent_shapes("gru", inputs, input_kernel, recurrent_kernel, gates=3, mask=mask, time_major=time_major)
    weights = RecurrentWeights(input_kernel, recurrent_kernel, bias, recurrent_bias)
    others = {"pallas": find_pallas_obstacle(inputs, weights)}
    chosen = choose_recurrence("gru", implementation, inputs, recurrent_kernel, time_major=time_major, others=others)
    output = recur(
        _CELL,
        weights,
        inputs,
        None if initial_state is None else (initial_state,),
        mask=mask,
        reverse=reverse,
        time_major=time_major,
        implementation=chosen,
    )
    return RecurrentOutput(output.outputs, output.final_state[0])


def gru_step(
    state: Float[Array, "batch features"],
    inputs: Float[Array, "batch inputs"],
    input_kernel: Float[Array, "inputs gates_features"],
    recurrent_kernel: Float[Array, "features gates_features"],
    bias: Float[Array, " gates_features"],
    recurrent_bias: Float[Array, " gates_features"],
) -> Float[Array, "batch features"]:
    """Advances a GRU by one step; see `gru`.

    Args:
        state: the hidden state before, `[batch, features]`.
        inputs: `[batch, inputs]`.
        input_kernel: `[inputs, 3 * features]`, gates r, z, n.
        recurrent_kernel: `[features, 3 * features]`.
        bias: `[3 * features]`.
        recurrent_bias: `[3 * features]`.

    Returns:
        The hidden state after, which is the output.

    Example:
        >>> bias = jnp.zeros(12)
        >>> gru_step(jnp.zeros((2, 4)), jnp.ones((2, 3)), jnp.ones((3, 12)), jnp.ones((4, 12)), bias, bias).shape
        (2, 4)
    """
    projected = add_bias(inputs @ input_kernel, bias)
    return advance_projected(_CELL, (state,), projected, recurrent_kernel, recurrent_bias)[0]


def _advance(state: State, from_inputs: Gates, from_state: Gates) -> tuple[State, tuple[Array, ...]]:
    reset = sigmoid(from_inputs[0] + from_state[0])
    update = sigmoid(from_inputs[1] + from_state[1])
    candidate = jnp.tanh(from_inputs[2] + reset * from_state[2])
    return ((1 - update) * candidate + update * state[0],), (reset, update, candidate, from_state[2])


def _differentiate(state: State, kept: tuple[Array, ...], gradient: State) -> tuple[State, Gates, Gates]:
    (hidden,), (reset, update, candidate, recurrent), (of_hidden,) = state, kept, gradient
    of_candidate = of_hidden * (1 - update) * (1 - candidate * candidate)
    of_update = of_hidden * (hidden - candidate) * update * (1 - update)
    of_reset = of_candidate * recurrent * reset * (1 - reset)
    return (of_hidden * update,), (of_reset, of_update, of_candidate), (of_reset, of_update, of_candidate * reset)


_CELL = RecurrentCell("gru", 3, 1, _advance, _differentiate)
