"""Long short-term memory by cuDNN."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fusionjax.ops.gpu import find_gpu_obstacle
from fusionjax.ops.recurrent import RecurrentOutput
from fusionjax.ops.recurrent_cell import RecurrentWeights, State


def find_cudnn_obstacle(arrays: tuple[Array | None, ...], mask: Bool[Array, "batch length"] | None) -> str | None:
    """Says why cuDNN cannot serve a call.

    Args:
        arrays: the inputs and the parameters; None for an input kernel or bias that is not there.
        mask: the mask of the call; cuDNN knows trailing padding only, and whether a mask is that shows too late.

    Returns:
        The reason in words, or None where it can.
    """
    obstacle = find_gpu_obstacle("cuDNN")
    if obstacle is not None:
        return obstacle
    if mask is not None:
        return "cuDNN takes no mask"
    if any(array is None for array in arrays):
        return "cuDNN needs an input_kernel and a bias"
    dtypes = sorted({str(array.dtype) for array in arrays if array is not None})
    return None if dtypes == ["float32"] else f"cuDNN needs float32 inputs and parameters; got {', '.join(dtypes)}"


def lstm_cudnn(
    weights: RecurrentWeights,
    inputs: Float[Array, "first second inputs"],
    initial_state: State | None,
    *,
    reverse: bool,
    time_major: bool,
) -> RecurrentOutput:
    """Runs an LSTM by `jax.experimental.rnn`; see `fusionjax.ops.lstm`.

    cuDNN takes the parameters as one vector: the input kernel and the recurrent kernel, each with a row for each unit
    and the gates in the order i, f, g, o, then the bias of either product. Here the second of them is zero.

    Args:
        weights: the parameters, float32.
        inputs: `[batch, length, inputs]`, or `[length, batch, inputs]` if time-major; float32.
        initial_state: cell and hidden state before the first step, `[batch, features]` each; None for zeros.
        reverse: go from the last step to the first.
        time_major: inputs and outputs have time first.

    Returns:
        The outputs in the layout of the inputs, and the final cell and hidden state.
    """
    from jax.experimental import rnn

    def arrange(array: Array) -> Array:
        """From the caller's order of axes and steps to cuDNN's, batch first and first step first, or back."""
        return jnp.flip(array, 0 if time_major else 1) if reverse else array

    steps = arrange(inputs)
    steps = steps.swapaxes(0, 1) if time_major else steps
    batch, length, size = steps.shape
    features = weights.recurrent_kernel.shape[0]
    # Where one of them is None, `find_cudnn_obstacle` says so.
    input_kernel: Any = weights.input_kernel
    bias: Any = weights.bias
    if initial_state is None:
        initial_state = (jnp.zeros((batch, features), inputs.dtype),) * 2
    cell, hidden = (state[None].astype(inputs.dtype) for state in initial_state)
    packed = jnp.concatenate(
        [
            input_kernel.T.ravel(),
            weights.recurrent_kernel.T.ravel(),
            bias,
            jnp.zeros_like(bias),
        ]
    )
    lengths = jnp.full(batch, length, jnp.int32)
    outputs, hidden, cell = rnn.lstm(steps, hidden, cell, packed, lengths, size, features, 1, 0.0, False)
    outputs = outputs.swapaxes(0, 1) if time_major else outputs
    return RecurrentOutput(arrange(outputs), (cell[0], hidden[0]))
