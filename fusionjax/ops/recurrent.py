"""What every recurrent operation shares: the scan over time, its masks, its checks and its implementations."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from fusionjax.ops.bias import add_bias
from fusionjax.ops.dtypes import check_floating, check_mask
from fusionjax.ops.implementations import count_devices, on_platform, select_implementation
from fusionjax.ops.manual_axes import vary_together
from fusionjax.ops.recurrent_cell import RecurrentCell, RecurrentWeights, State
from fusionjax.ops.recurrent_chunked import recur_in_chunks
from fusionjax.ops.recurrent_persistent import recur_persistently
from fusionjax.ops.recurrent_products import project_inputs
from fusionjax.ops.shape_classes import recurrence_class


class RecurrentOutput(NamedTuple):
    """What a recurrent operation returns.

    Attributes:
        outputs: the hidden state after every step, zero at masked steps; `[batch, length, features]`, or
            `[length, batch, features]` if time-major.
        final_state: the state after the last step that the mask keeps: hidden `[batch, features]`, or an `LSTMState`.
    """

    outputs: Float[Array, "..."]
    final_state: PyTree[Float[Array, "batch features"]]


def recur(
    cell: RecurrentCell,
    weights: RecurrentWeights,
    inputs: Float[Array, "first second inputs"],
    initial_state: State | None,
    *,
    mask: Bool[Array, "batch length"] | None,
    reverse: bool,
    time_major: bool,
    implementation: str,
) -> RecurrentOutput:
    """Runs a recurrence over time; masked steps leave the state as it is and put out zeros.

    Args:
        cell: the elementwise part.
        weights: the parameters.
        inputs: `[batch, length, inputs]`, or `[length, batch, inputs]` if time-major.
        initial_state: the state before the first step, `[batch, features]` each; None for zeros.
        mask: `[batch, length]`, also if time-major; True = keep; None keeps all.
        reverse: go from the last step to the first.
        time_major: inputs and outputs have time first.
        implementation: `"xla"`, a scan over steps, `"chunked"`, see `recur_in_chunks`, or `"pallas"`, see
            `recur_persistently`.

    Returns:
        The outputs, in the layout of the inputs, and the final state, in the common dtype of inputs and weights.
    """
    dtype = jnp.result_type(inputs, *jax.tree.leaves(weights))
    inputs = inputs if time_major else inputs.swapaxes(0, 1)
    if initial_state is None:
        zeros = jnp.zeros((inputs.shape[1], weights.recurrent_kernel.shape[0]), dtype)
        initial_state = (zeros,) * cell.num_states
    arrays = (weights, inputs, tuple(initial_state))
    weights, inputs, initial_state = jax.tree.map(lambda array: array.astype(dtype), arrays)
    mask = None if mask is None else mask.swapaxes(0, 1)
    weights, inputs, initial_state, mask = vary_together(weights, inputs, initial_state, mask)
    run = {"chunked": recur_in_chunks, "pallas": recur_persistently}.get(implementation, _scan_steps)
    outputs, final_state = run(cell, reverse, weights, inputs, initial_state, mask)
    return RecurrentOutput(outputs if time_major else outputs.swapaxes(0, 1), final_state)


def _scan_steps(
    cell: RecurrentCell, reverse: bool, weights: RecurrentWeights, inputs: Array, state: State, mask: Array | None
) -> tuple[Array, State]:
    projected = project_inputs(weights, inputs)

    def advance(state: State, step: tuple[Array, Array | None]) -> tuple[State, Array]:
        new = advance_projected(cell, state, step[0], weights.recurrent_kernel, weights.recurrent_bias)
        if step[1] is None:
            return new, new[-1]
        keep = step[1][:, None]
        return tuple(jnp.where(keep, *pair) for pair in zip(new, state, strict=True)), jnp.where(keep, new[-1], 0)

    final_state, outputs = lax.scan(advance, state, (projected, mask), reverse=reverse)
    return outputs, final_state


def advance_projected(
    cell: RecurrentCell,
    state: State,
    projected: Float[Array, "batch gates_features"],
    recurrent_kernel: Float[Array, "features gates_features"],
    recurrent_bias: Float[Array, " gates_features"] | None = None,
) -> State:
    """Advances a recurrence by one step whose inputs are already projected.

    Args:
        cell: the elementwise part.
        state: the state before, `[batch, features]` each.
        projected: x W_x + b, `[batch, num_gates * features]`.
        recurrent_kernel: W_h, `[features, num_gates * features]`.
        recurrent_bias: b_h, `[num_gates * features]`, if the cell has one.

    Returns:
        The state after.
    """
    recurrent = state[-1] @ recurrent_kernel
    if recurrent_bias is not None:
        recurrent = add_bias(recurrent, recurrent_bias)
    from_inputs, from_state = (tuple(jnp.split(joined, cell.num_gates, axis=-1)) for joined in (projected, recurrent))
    return cell.advance(state, from_inputs, from_state)[0]


def choose_recurrence(
    operation: str,
    implementation: str | None,
    inputs: Float[Array, "first second inputs"],
    recurrent_kernel: Float[Array, "features gates_features"],
    *,
    time_major: bool = False,
    others: Mapping[str, str | None] = MappingProxyType({}),
) -> str:
    """Returns the implementation to run; `select_implementation` for recurrent operations.

    Args:
        operation: the operation's name, for messages.
        implementation: what the caller asked for, or None for `"pallas"` in bfloat16 on one GPU where it applies,
            otherwise `"chunked"`, except for one step or one example, which are left to `"xla"`.
        inputs: `[batch, length, inputs]`, or `[length, batch, inputs]` if time-major.
        recurrent_kernel: `[features, gates * features]`.
        time_major: the inputs have time first.
        others: implementations beside `"xla"` and `"chunked"`, with None or the reason why one cannot serve.

    Returns:
        The name of an implementation.

    Raises:
        ValueError: there is no implementation of that name.
        NotImplementedError: the named implementation cannot serve this call.
    """
    obstacles = {"xla": None, "chunked": None, **others}
    length, batch = inputs.shape[:2] if time_major else inputs.shape[1::-1]
    shape_class = recurrence_class(batch, length, recurrent_kernel.shape[0])
    dtype = jnp.result_type(inputs, recurrent_kernel)
    # A single row or step has nothing to share in the products of a chunk.
    preferred = "chunked" if min(batch, length) > 1 else "xla"
    # XLA does not split a kernel over several devices.
    if on_platform("gpu") and length > 1 and dtype == jnp.bfloat16 and count_devices() == 1:
        preferred = "pallas" if others.get("pallas", "there is none") is None else preferred
    return select_implementation(operation, implementation, obstacles, preferred, shape_class=shape_class, dtype=dtype)


def check_recurrent_shapes(
    operation: str,
    inputs: Array,
    input_kernel: Array | None,
    recurrent_kernel: Array,
    *,
    gates: int,
    mask: Array | None,
    time_major: bool,
) -> None:
    """Raises an error that names the first shape or dtype that does not fit.

    Args:
        operation: the operation's name, for messages.
        inputs: `[batch, length, inputs]`, or `[length, batch, inputs]` if time-major.
        input_kernel: `[inputs, gates * features]`; None for inputs of gates * features that are projected already.
        recurrent_kernel: `[features, gates * features]`.
        gates: how many gates the kernels hold.
        mask: `[batch, length]` or None.
        time_major: the inputs have time first.

    Raises:
        ValueError: a shape does not fit.
        TypeError: inputs and kernels are all integers, or the mask is not boolean.
    """
    if inputs.ndim != 3:
        layout = "[length, batch, inputs]" if time_major else "[batch, length, inputs]"
        raise ValueError(
            f"{operation} takes inputs {layout}; got {inputs.shape}. Embed the tokens or add an axis first."
        )
    features = recurrent_kernel.shape[0]
    shapes = (inputs.shape[2], gates * features), (features, gates * features)
    if input_kernel is None and inputs.shape[2] != gates * features:
        raise ValueError(
            f"{operation} without an input_kernel takes inputs that are projected to {gates} * features = "
            f"{gates * features}; got {inputs.shape}. Project them, or pass the input_kernel."
        )
    input_shape = shapes[0] if input_kernel is None else input_kernel.shape
    if input_shape != shapes[0] or recurrent_kernel.shape != shapes[1]:
        raise ValueError(
            f"{operation} needs an input_kernel {shapes[0]} and a recurrent_kernel {shapes[1]}; "
            f"got {input_shape} and {recurrent_kernel.shape}. Join the {gates} gates along the last axis."
        )
    batch_and_length = inputs.shape[1::-1] if time_major else inputs.shape[:2]
    if mask is not None and mask.shape != batch_and_length:
        raise ValueError(
            f"mask must have shape [batch, length] = {batch_and_length}; got {mask.shape}. "
            "Pad it together with the inputs; it is batch-major also if they are time-major."
        )
    dtype = jnp.result_type(inputs, input_kernel, recurrent_kernel)
    check_floating(operation, "inputs and kernels together", dtype)
    check_mask(operation, mask)
