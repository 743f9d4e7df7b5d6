"""Convolution as a layer."""

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from flax.typing import Dtype, Initializer
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from fusionjax.ops import conv2d
from fusionjax.ops.convolution import Padding


class Conv(nn.Module):
    """Convolves images with a learned kernel; see `fusionjax.ops.conv2d`.

    Attributes:
        features: number of output channels.
        kernel_size: height and width, in pixels.
        strides: steps between outputs, in pixels.
        padding: `"SAME"`, `"VALID"` or `((top, bottom), (left, right))`.
        use_bias: add a bias.
        dtype: dtype of the computation; None for the common one of inputs and parameters.
        param_dtype: dtype of the parameters.
        kernel_init: initializer of the kernel; the bias starts at zero.
        implementation: see `fusionjax.ops.conv2d`.
        dilation: pixels between neighbours in the kernel; 1 for none left out.
        groups: into which channels and features are cut; as many as channels for a depthwise convolution.

    Example:
        >>> images = jnp.ones((2, 8, 8, 3))
        >>> layer = Conv(features=5, padding="VALID")
        >>> layer.apply(layer.init(jax.random.key(0), images), images).shape
        (2, 6, 6, 5)
    """

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    padding: Padding = "SAME"
    use_bias: bool = True
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()
    implementation: str | None = None
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width features"]:
        """Convolves.

        Args:
            images: `[batch, height, width, channels]`.

        Returns:
            `[batch, out_height, out_width, features]`.
        """
        images, kernel, bias = promote_dtype(images, *self.parameters(images.shape[-1]), dtype=self.dtype)
        return conv2d(
            images,
            kernel,
            bias,
            strides=self.strides,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            implementation=self.implementation,
        )

    @nn.compact
    def parameters(self, channels: int) -> tuple[ArrayLike, ArrayLike | None]:
        """Returns the layer's kernel and bias, for operations that join the convolution with what follows it.

        Args:
            channels: of the images.

        Returns:
            The kernel `[kernel_height, kernel_width, channels / groups, features]`, and the bias `[features]` or None.
        """
        shape = (*self.kernel_size, channels // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        if not self.use_bias:
            return kernel, None
        return kernel, self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
