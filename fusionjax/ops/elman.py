"""The simple recurrent network of Elman."""

import jax
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
from fusionjax.ops.recurrent_cell import Gates, RecurrentCell, RecurrentWeights, State
from fusionjax.ops.recurrent_persistent import find_pallas_obstacle


def elman(
    inputs: Float[Array, "first second inputs"],
    input_kernel: Float[Array, "kernel_inputs kernel_features"] | None,
    recurrent_kernel: Float[Array, "features recurrent_features"],
    bias: Float[Array, " bias_features"] | None,
    *,
    activation: str = "tanh",
    initial_state: Float[Array, "batch features"] | None = None,
    mask: Bool[Array, "mask_batch mask_length"] | None = None,
    reverse: bool = False,
    time_major: bool = False,
    implementation: str | None = None,
) -> RecurrentOutput:
    """Runs a simple recurrent network over sequences: h_t = f(x_t W_x + h_{t-1} W_h + b).

    Implementations: `"xla"` is a scan over the steps and the reference. `"chunked"` computes the same values in chunks
    of a few steps; its gradients for the weights are one product each after the loop. It has no forward-mode derivative
    (`jax.jvp`). `"pallas"` keeps the recurrent weights on chip over all steps, with any mask, on a Hopper GPU with jax
    0.11 or newer: at most 896 features in bfloat16 and 512 in float32, whose recurrent products round to TF32; without
    forward-mode derivative, and inside `jax.shard_map` with `check_vma=False`. None follows the table of choices
    (docs/speed.md); where that has no row: `"pallas"` in bfloat16 on one GPU where it applies, otherwise `"chunked"`,
    except for one step or one example, which are left to `"xla"`.

    Args:
        inputs: `[batch, length, inputs]`, or `[length, batch, inputs]` if time-major.
        input_kernel: W_x, `[inputs, features]`; None where the inputs are x W_x already.
        recurrent_kernel: W_h, `[features, features]`.
        bias: b, `[features]`; None for none.
        activation: f, `"tanh"` or `"relu"`.
        initial_state: hidden state before the first step, `[batch, features]`; None for zeros.
        mask: `[batch, length]`, also if time-major; masked steps keep the state and put out zeros.
        reverse: go from the last step to the first; with trailing padding this starts at the last real token.
        time_major: inputs and outputs have time first.
        implementation: `"xla"`, `"chunked"`, `"pallas"`, or None to choose.

    Returns:
        A `RecurrentOutput` whose final state is the hidden state `[batch, features]`.

    Raises:
        ValueError: the shapes do not fit, or there is no activation or implementation of that name.
        TypeError: inputs and kernels are all integers, or the mask is not boolean.
        NotImplementedError: the named implementation cannot serve this call.

    Example:
        >>> elman(jnp.ones((2, 5, 3)), jnp.ones((3, 4)), jnp.ones((4, 4)), jnp.zeros(4)).outputs.shape
        (2, 5, 4)

    References:
        Elman, "Finding Structure in Time", 1990.
    """
    check_recurrent_shapes("elman", inputs, input_kernel, recurrent_kernel, gates=1, mask=mask, time_major=time_major)
    weights = RecurrentWeights(input_kernel, recurrent_kernel, bias)
    others = {"pallas": find_pallas_obstacle(inputs, weights)}
    chosen = choose_recurrence("elman", implementation, inputs, recurrent_kernel, time_major=time_major, others=others)
    output = recur(
        _find_cell(activation),
        weights,
        inputs,
        None if initial_state is None else (initial_state,),
        mask=mask,
        reverse=reverse,
        time_major=time_major,
        implementation=chosen,
    )
    return RecurrentOutput(output.outputs, output.final_state[0])


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
    projected = add_bias(inputs @ input_kernel, bias)
    return advance_projected(_find_cell(activation), (state,), projected, recurrent_kernel)[0]


def _find_cell(activation: str) -> RecurrentCell:
    if activation not in _CELLS:
        raise ValueError(f'activation must be "tanh" or "relu"; got {activation!r}. Name one of the two.')
    return _CELLS[activation]


def _advance_tanh(state: State, from_inputs: Gates, from_state: Gates) -> tuple[State, tuple[Array, ...]]:
    hidden = jnp.tanh(from_inputs[0] + from_state[0])
    return (hidden,), (hidden,)


def _differentiate_tanh(state: State, kept: tuple[Array, ...], gradient: State) -> tuple[State, Gates]:
    return (jnp.zeros_like(state[0]),), (gradient[0] * (1 - kept[0] * kept[0]),)


def _advance_relu(state: State, from_inputs: Gates, from_state: Gates) -> tuple[State, tuple[Array, ...]]:
    hidden = jax.nn.relu(from_inputs[0] + from_state[0])
    return (hidden,), (hidden,)


def _differentiate_relu(state: State, kept: tuple[Array, ...], gradient: State) -> tuple[State, Gates]:
    return (jnp.zeros_like(state[0]),), (jnp.where(kept[0] > 0, gradient[0], 0),)


_CELLS = {
    "tanh": RecurrentCell("elman", 1, 1, _advance_tanh, _differentiate_tanh),
    "relu": RecurrentCell("elman", 1, 1, _advance_relu, _differentiate_relu),
}
