"""Gated recurrent unit."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fusionjax.ops.bias import add_bias
from fusionjax.ops.recurrent import RecurrentOutput, check_recurrent_shapes, scan_recurrence


def gru(
    inputs: Float[Array, "first second inputs"],
    input_kernel: Float[Array, "kernel_inputs gates_features"],
    recurrent_kernel: Float[Array, "features recurrent_gates_features"],
    bias: Float[Array, " bias_gates_features"],
    recurrent_bias: Float[Array, " recurrent_bias_gates_features"],
    *,
    initial_state: Float[Array, "batch features"] | None = None,
    mask: Bool[Array, "mask_batch mask_length"] | None = None,
    reverse: bool = False,
    time_major: bool = False,
) -> RecurrentOutput:
    """Runs a gated recurrent unit over sequences.

    With r, z, n taken from x_t W_x + b and from h_{t-1} W_h + b_h: r = sigmoid(x_r + h_r), z = sigmoid(x_z + h_z),
    n = tanh(x_n + r h_n), h_t = (1 - z) n + z h_{t-1}. This is the form of PyTorch and cuDNN: the reset gate r acts
    after the recurrent product, where the paper lets it act on h_{t-1} before.

    Args:
        inputs: `[batch, length, inputs]`, or `[length, batch, inputs]` if time-major.
        input_kernel: W_x, `[inputs, 3 * features]`, gates r, z, n.
        recurrent_kernel: W_h, `[features, 3 * features]`.
        bias: b, `[3 * features]`.
        recurrent_bias: b_h, `[3 * features]`.
        initial_state: hidden state before the first step, `[batch, features]`; None for zeros.
        mask: `[batch, length]`, also if time-major; masked steps keep the state and put out zeros.
        reverse: go from the last step to the first; with trailing padding this starts at the last real token.
        time_major: inputs and outputs have time first.

    Returns:
        A `RecurrentOutput` whose final state is the hidden state `[batch, features]`.

    Raises:
        ValueError: the shapes do not fit.

    Example:
        >>> bias = jnp.zeros(12)
        >>> gru(jnp.ones((2, 5, 3)), jnp.ones((3, 12)), jnp.ones((4, 12)), bias, bias).outputs.shape
        (2, 5, 4)

    References:
        Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", 2014, arXiv:1406.1078, section 2.3.
    """
    check_recurrent_shapes("gru", inputs, input_kernel, recurrent_kernel, gates=3, mask=mask, time_major=time_major)
    projected = add_bias(inputs @ input_kernel, bias)
    projected = projected.astype(jnp.result_type(projected, recurrent_kernel))
    if initial_state is None:
        initial_state = jnp.zeros((inputs.shape[1 if time_major else 0], recurrent_kernel.shape[0]), projected.dtype)
    return RecurrentOutput(
        *scan_recurrence(
            partial(_update, recurrent_kernel=recurrent_kernel, recurrent_bias=recurrent_bias),
            lambda state: state,
            projected,
            initial_state.astype(projected.dtype),
            mask=mask,
            reverse=reverse,
            time_major=time_major,
        )
    )


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
    return _update(state, add_bias(inputs @ input_kernel, bias), recurrent_kernel, recurrent_bias)


def _update(state: Array, projected: Array, recurrent_kernel: Array, recurrent_bias: Array) -> Array:
    from_inputs = jnp.split(projected, 3, axis=-1)
    from_state = jnp.split(add_bias(state @ recurrent_kernel, recurrent_bias), 3, axis=-1)
    reset = jax.nn.sigmoid(from_inputs[0] + from_state[0])
    update = jax.nn.sigmoid(from_inputs[1] + from_state[1])
    candidate = jnp.tanh(from_inputs[2] + reset * from_state[2])
    return (1 - update) * candidate + update * state
