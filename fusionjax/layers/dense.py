"""A linear map."""

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from flax.typing import Dtype, Initializer
from jaxtyping import Array, ArrayLike, Float

from fusionjax.ops import add_bias


class Dense(nn.Module):
    """Multiplies the last axis by a learned matrix and adds a bias: `flax.linen.Dense`, with the same parameters.

    It differs in that the gradient of the bias is summed in float32 whatever the dtype, see `fusionjax.ops.add_bias`.

    Attributes:
        features: size of the output.
        use_bias: add a bias.
        dtype: dtype of the computation; None for the common one of inputs and parameters.
        param_dtype: dtype of the parameters.
        kernel_init: initializer of the kernel.
        bias_init: initializer of the bias.

    Example:
        >>> layer, inputs = Dense(features=4), jnp.ones((2, 5, 3))
        >>> layer.apply(layer.init(jax.random.key(0), inputs), inputs).shape
        (2, 5, 4)
    """

    features: int
    use_bias: bool = True
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros

    def __call__(self, inputs: Float[Array, "*batch inputs"]) -> Float[Array, "*batch features"]:
        """Maps `[..., inputs]` to `[..., features]`.

        Args:
            inputs: `[..., inputs]`.

        Returns:
            `[..., features]`.
        """
        inputs, kernel, bias = promote_dtype(inputs, *self.parameters(inputs.shape[-1]), dtype=self.dtype)
        outputs = inputs @ kernel
        return outputs if bias is None else add_bias(outputs, bias)

    @nn.compact
    def parameters(self, inputs: int) -> tuple[ArrayLike, ArrayLike | None]:
        """Returns the layer's kernel and bias, for what computes with them in its own way.

        Args:
            inputs: size of what is mapped.

        Returns:
            The kernel `[inputs, features]`, and the bias `[features]` or None.
        """
        kernel = self.param("kernel", self.kernel_init, (inputs, self.features), self.param_dtype)
        if not self.use_bias:
            return kernel, None
        return kernel, self.param("bias", self.bias_init, (self.features,), self.param_dtype)
