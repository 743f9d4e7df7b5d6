"""The simple recurrent network of Elman as a layer."""

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from flax.typing import Dtype, Initializer
from jaxtyping import Array, Bool, Float

from fusionjax.layers.dense import Dense
from fusionjax.layers.initializers import input_kernel_init, recurrent_kernel_init
from fusionjax.ops import RecurrentOutput, elman


class Elman(nn.Module):
    """One simple recurrent layer in one direction: h_t = f(W_hh h_{t-1} + W_xh x_t + b_h), y_t = W_hy h_t + b_y.

    Without `output_features` there is no W_hy and y_t = h_t; see `fusionjax.ops.elman`.

    Attributes:
        features: size of the hidden state.
        activation: f, `"tanh"` or `"relu"`.
        output_features: size of y_t; None for the hidden state itself.
        dtype: dtype of the computation; None for the common one of inputs and parameters.
        param_dtype: dtype of the parameters.
        input_kernel_init: initializer of the input kernel and of the output kernel.
        recurrent_kernel_init: initializer of the recurrent kernel; the biases start at zero.
        implementation: see `fusionjax.ops.elman`.
        is_projected: the inputs are x W_x + b already, `[..., features]`; there is no input kernel and no bias.

    Example:
        >>> layer, inputs = Elman(features=4, output_features=7), jnp.ones((2, 5, 3))
        >>> layer.apply(layer.init(jax.random.key(0), inputs), inputs).outputs.shape
        (2, 5, 7)

    References:
        Elman, "Finding Structure in Time", 1990.
    """

    num_gates: ClassVar[int] = 1

    features: int
    activation: str = "tanh"
    output_features: int | None = None
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
            A `RecurrentOutput`: outputs y, final hidden state `[batch, features]`.
        """
        dtype = self.param_dtype
        input_kernel: Any = None
        bias: Any = None
        if not self.is_projected:
            shape = inputs.shape[-1], self.features
            input_kernel = self.param("input_kernel", self.input_kernel_init, shape, dtype)
            bias = self.param("bias", nn.initializers.zeros, (self.features,), dtype)
        shape = self.features, self.features
        recurrent_kernel = self.param("recurrent_kernel", self.recurrent_kernel_init, shape, dtype)
        inputs, *promoted = promote_dtype(inputs, input_kernel, recurrent_kernel, bias, dtype=self.dtype)
        output = elman(
            inputs,
            *promoted,
            activation=self.activation,
            initial_state=initial_state,
            mask=mask,
            reverse=reverse,
            time_major=time_major,
            implementation=self.implementation,
        )
        if self.output_features is None:
            return output
        outputs = Dense(
            self.output_features,
            dtype=self.dtype,
            param_dtype=dtype,
            kernel_init=self.input_kernel_init,
            name="output",
        )(output.outputs)
        if mask is not None:
            keep = mask.T if time_major else mask
            outputs = jnp.where(keep[:, :, None], outputs, 0)
        return RecurrentOutput(outputs, output.final_state)
