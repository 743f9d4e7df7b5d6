"""Gated recurrent unit as a layer."""

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from flax.typing import Dtype, Initializer
from jaxtyping import Array, Bool, Float

from fusionjax.layers.initializers import input_kernel_init, per_gate, recurrent_kernel_init
from fusionjax.ops import RecurrentOutput, gru


class GRU(nn.Module):
    """One GRU layer in one direction; see `fusionjax.ops.gru`.

    Attributes:
        features: size of the hidden state.
        dtype: dtype of the computation; None for the common one of inputs and parameters.
        param_dtype: dtype of the parameters.
        input_kernel_init: initializer of each gate's block of the input kernel.
        recurrent_kernel_init: initializer of each gate's block of the recurrent kernel; the biases start at zero.
        implementation: see `fusionjax.ops.gru`.
        is_projected: the inputs are x W_x + b already, `[..., 3 * features]`; there is no input kernel and no bias.

    Example:
        >>> layer, inputs = GRU(features=4), jnp.ones((2, 5, 3))
        >>> layer.apply(layer.init(jax.random.key(0), inputs), inputs).outputs.shape
        (2, 5, 4)
    """

    num_gates: ClassVar[int] = 3

    features: int
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    input_kernel_init: Initializer = input_kernel_init
    recurrent_kernel_init: Initializer = recurrent_kernel_init
    implementation: str | None = None
    is_projected: bool = False

    @nn.compact
    def __call__(
        self,
        inputs: Float[Array, "first second inputs"],
        *,
        initial_state: Float[Array, "batch features"] | None = None,
        mask: Bool[Array, "mask_batch mask_length"] | None = None,
        reverse: bool = False,
        time_major: bool = False,
    ) -> RecurrentOutput:
        """Runs over sequences.

        Args:
            inputs: `[batch, length, inputs]`, or `[length, batch, inputs]` if time-major.
            initial_state: hidden state before the first step, `[batch, features]`; None for zeros.
            mask: `[batch, length]`; masked steps keep the state and put out zeros.
            reverse: go from the last step to the first.
            time_major: inputs and outputs have time first.

        Returns:
            A `RecurrentOutput` whose final state is the hidden state `[batch, features]`.
        """
        width, zeros, dtype = 3 * self.features, nn.initializers.zeros, self.param_dtype
        input_kernel: Any = None
        bias: Any = None
        if not self.is_projected:
            shape = inputs.shape[-1], width
            input_kernel = self.param("input_kernel", per_gate(self.input_kernel_init, 3), shape, dtype)
            bias = self.param("bias", zeros, (width,), dtype)
        shape = self.features, width
        recurrent_kernel = self.param("recurrent_kernel", per_gate(self.recurrent_kernel_init, 3), shape, dtype)
        recurrent_bias = self.param("recurrent_bias", zeros, (width,), dtype)
        inputs, *promoted = promote_dtype(
            inputs, input_kernel, recurrent_kernel, bias, recurrent_bias, dtype=self.dtype
        )
        return gru(
            inputs,
            *promoted,
            initial_state=initial_state,
            mask=mask,
            reverse=reverse,
            time_major=time_major,
            implementation=self.implementation,
        )
