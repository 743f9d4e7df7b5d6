"""Long short-term memory as a layer."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from flax.typing import Dtype, Initializer, Shape
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from fusionjax.layers.initializers import input_kernel_init, per_gate, recurrent_kernel_init
from fusionjax.ops import LSTMState, RecurrentOutput, lstm, lstm_step, lstm_update


class LSTM(nn.Module):
    """One LSTM layer in one direction; see `fusionjax.ops.lstm`.

    Attributes:
        features: size of the cell and of the hidden state.
        forget_bias: initial bias of the forget gate; 1 lets gradients pass from the start (Jozefowicz et al., 2015).
        dtype: dtype of the computation; None for the common one of inputs and parameters.
        param_dtype: dtype of the parameters.
        input_kernel_init: initializer of each gate's block of the input kernel.
        recurrent_kernel_init: initializer of each gate's block of the recurrent kernel.
        implementation: see `fusionjax.ops.lstm`.
        is_projected: the inputs are x W_x + b already, `[..., 4 * features]`; there is no input kernel and no bias.

    Example:
        >>> layer, inputs = LSTM(features=4), jnp.ones((2, 5, 3))
        >>> variables = layer.init(jax.random.key(0), inputs)
        >>> layer.apply(variables, inputs).outputs.shape
        (2, 5, 4)
        >>> layer.apply(variables, inputs[:, 0], layer.initial_state(2), method="step").hidden.shape
        (2, 4)
    """

    num_gates: ClassVar[int] = 4

    features: int
    forget_bias: float = 1.0
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    input_kernel_init: Initializer = input_kernel_init
    recurrent_kernel_init: Initializer = recurrent_kernel_init
    implementation: str | None = None
    is_projected: bool = False

    def __call__(
        self,
        inputs: Float[Array, "first second inputs"],
        *,
        initial_state: LSTMState | None = None,
        mask: Bool[Array, "mask_batch mask_length"] | None = None,
        reverse: bool = False,
        time_major: bool = False,
    ) -> RecurrentOutput:
        """Runs over sequences.

        Args:
            inputs: `[batch, length, inputs]`, or `[length, batch, inputs]` if time-major.
            initial_state: the state before the first step; None for zeros.
            mask: `[batch, length]`; masked steps keep the state and put out zeros.
            reverse: go from the last step to the first.
            time_major: inputs and outputs have time first.

        Returns:
            A `RecurrentOutput` whose final state is an `LSTMState`.
        """
        inputs, *parameters = promote_dtype(inputs, *self._parameters(inputs.shape[-1]), dtype=self.dtype)
        return lstm(
            inputs,
            *parameters,
            initial_state=initial_state,
            mask=mask,
            reverse=reverse,
            time_major=time_major,
            implementation=self.implementation,
        )

    def step(self, inputs: Float[Array, "batch inputs"], state: LSTMState) -> LSTMState:
        """Advances by one step, with the same parameters.

        Args:
            inputs: `[batch, inputs]`.
            state: the state before.

        Returns:
            The state after; its `hidden` is the output.
        """
        inputs, *parameters = promote_dtype(inputs, *self._parameters(inputs.shape[-1]), dtype=self.dtype)
        state = jax.tree.map(lambda leaf: leaf.astype(inputs.dtype), state)
        if self.is_projected:
            return lstm_update(state, inputs, parameters[1])
        return lstm_step(state, inputs, *parameters)

    @nn.nowrap
    def initial_state(self, batch: int) -> LSTMState:
        """Returns zeros, `[batch, features]` each, in the dtype of the computation."""
        zeros = jnp.zeros((batch, self.features), self.dtype or self.param_dtype)
        return LSTMState(zeros, zeros)

    @nn.compact
    def _parameters(self, inputs: int) -> tuple[ArrayLike | None, ArrayLike, ArrayLike | None]:

        def initialize_bias(key: Array, shape: Shape, dtype: Dtype) -> Array:
            del key
            return jnp.zeros(shape, dtype).at[self.features : 2 * self.features].set(self.forget_bias)

        width, dtype = 4 * self.features, self.param_dtype
        shape = self.features, width
        if self.is_projected:
            return None, self.param("recurrent_kernel", per_gate(self.recurrent_kernel_init, 4), shape, dtype), None
        return (
            self.param("input_kernel", per_gate(self.input_kernel_init, 4), (inputs, width), dtype),
            self.param("recurrent_kernel", per_gate(self.recurrent_kernel_init, 4), shape, dtype),
            self.param("bias", initialize_bias, (width,), dtype),
        )
