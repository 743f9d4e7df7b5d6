"""Grouped convolution as plain convolutions of a few groups each."""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

# Measured on a CPU: convolutions of fewer channels cost more than the zeros that fill a joint kernel up.
_FEWEST_CHANNELS = 16
# Each is a convolution of its own in the program, so compilation limits them.
_MOST_PARTS = 64


def conv2d_split(
    convolve: Callable[[Array, Array], Array],
    images: Float[Array, "batch height width channels"],
    kernel: Float[Array, "kernel_height kernel_width kernel_channels features"],
    groups: int,
) -> Float[Array, "batch out_height out_width features"]:
    """Convolves a few groups at a time, by kernels that are zero between the groups.

    Args:
        convolve: a convolution in one group, of images and a kernel.
        images: `[batch, height, width, channels]`.
        kernel: `[kernel_height, kernel_width, channels / groups, features]`.
        groups: into which the channels and the features are cut.

    Returns:
        `[batch, out_height, out_width, features]`.

    Example:
        >>> double = lambda images, kernel: images @ kernel[0, 0]
        >>> conv2d_split(double, jnp.ones((1, 1, 1, 40)), 2 * jnp.ones((1, 1, 1, 40)), 40).mean()
        Array(2., dtype=float32)
    """
    channels, features = kernel.shape[2], kernel.shape[3] // groups
    size = max(math.ceil(_FEWEST_CHANNELS / channels), math.ceil(groups / _MOST_PARTS))
    outputs = []
    for first in range(0, groups, size):
        last = min(first + size, groups)
        part = images[..., first * channels : last * channels]
        outputs.append(convolve(part, _join(kernel[..., first * features : last * features], last - first)))
    return jnp.concatenate(outputs, axis=-1)


def _join(kernel: Array, groups: int) -> Array:
    """Returns the kernel in one group, `[kernel_height, kernel_width, channels, features]`."""
    height, width, channels, features = kernel.shape
    apart = kernel.reshape(height, width, 1, channels, groups, features // groups)
    # [kernel_height, kernel_width, group of the channel, channel, group of the feature, feature]
    joined = apart * jnp.eye(groups, dtype=kernel.dtype)[:, None, :, None]
    return joined.reshape(height, width, groups * channels, features)
