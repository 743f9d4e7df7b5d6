"""The simple recurrent network of Elman."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fusionjax.ops.bias import add_bias
from fusionjax.ops.recurrent import RecurrentOutput, check_recurrent_shapes, scan_recurrence

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"tanh": jnp.tanh, "relu": jax.nn.relu}


def elman(
    inputs: Float[Array, "first second inputs"],
    input_kernel: Float[Array, "kernel_inputs kernel_features"],
    recurrent_kernel: Float[Array, "features recurrent_features"],
    bias: Float[Array, " bias_features"],
    *,
    activation: str = "tanh",
    initial_state: Float[Array, "batch features"] | None = None,
    mask: Bool[Array, "mask_batch mask_length"] | None = None,
    reverse: bool = False,
    time_major: bool = False,
) -> RecurrentOutput:
    """Runs a simple recurrent network over sequences: h_t = f(x_t W_x + h_{t-1} W_h + b).

    Args:
        inputs: `[batch, length, inputs]`, or `[length, batch, inputs]` if time-major.
        input_kernel: W_x, `[inputs, features]`.
        recurrent_kernel: W_h, `[features, features]`.
        bias: b, `[features]`.
        activation: f, `"tanh"` or `"relu"`.
        initial_state: hidden state before the first step, `[batch, features]`; None for zeros.
        mask: `[batch, length]`, also if time-major; masked steps keep the state and put out zeros.
        reverse: go from the last step to the first; with trailing padding this starts at the last real token.
        time_major: inputs and outputs have time first.

    Returns:
        A `RecurrentOutput` whose final state is the hidden state `[batch, features]`.

    Raises:
        ValueError: the shapes do not fit, or there is no activation of that name.

    Example:
        >>> elman(jnp.ones((2, 5, 3)), jnp.ones((3, 4)), jnp.ones((4, 4)), jnp.zeros(4)).outputs.shape
        (2, 5, 4)

    References:
        Elman, "Finding Structure in Time", 1990.
    """
    check_recurrent_shapes("elman", inputs, input_kernel, recurrent_kernel, gates=1, mask=mask, time_major=time_major)
    projected = add_bias(inputs @ input_kernel, bias)
    projected = projected.astype(jnp.result_type(projected, recurrent_kernel))
    if initial_state is None:
        initial_state = jnp.zeros((inputs.shape[1 if time_major else 0], recurrent_kernel.shape[0]), projected.dtype)
    return RecurrentOutput(
        *scan_recurrence(
            partial(_update, recurrent_kernel=recurrent_kernel, activation=activation),
            lambda state: state,
            projected,
            initial_state.astype(projected.dtype),
            mask=mask,
            reverse=reverse,
            time_major=time_major,
        )
    )


def elman_step(
    state: Float[Array, "batch features"],
    inputs: Float[Array, "batch inputs"],
    input_kernel: Float[Array, "inputs features"],
    recurrent_kernel: Float[Array, "features features"],
    bias: Float[Array, " features"],
    *,
    activation: str = "tanh",
) -> Float[Array, "batch features"]:
    """Advances a simple recurrent network by one step; see `elman`.

    Args:
        state: the hidden state before, `[batch, features]`.
        inputs: `[batch, inputs]`.
        input_kernel: `[inputs, features]`.
        recurrent_kernel: `[features, features]`.
        bias: `[features]`.
        activation: `"tanh"` or `"relu"`.

    Returns:
        The hidden state after, which is the output.

    Raises:
        ValueError: there is no activation of that name.

    Example:
        >>> elman_step(jnp.zeros((2, 4)), jnp.ones((2, 3)), jnp.ones((3, 4)), jnp.ones((4, 4)), jnp.zeros(4)).shape
        (2, 4)
    """
    return _update(state, add_bias(inputs @ input_kernel, bias), recurrent_kernel, activation)


def _update(state: Array, projected: Array, recurrent_kernel: Array, activation: str) -> Array:
    if activation not in _ACTIVATIONS:
        raise ValueError(f'activation must be "tanh" or "relu"; got {activation!r}. Name one of the two.')
    return _ACTIVATIONS[activation](projected + state @ recurrent_kernel)
