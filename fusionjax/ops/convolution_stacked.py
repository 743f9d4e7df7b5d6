"""The four places of each pooling window as one convolution with stride 2 to four times the features."""

from collections.abc import Sequence
from itertools import product

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, UInt8

from fusionjax.ops.implementations import on_platform
from fusionjax.ops.pooling_codes import largest_after_relu
from fusionjax.ops.shifts import Pads

_PLACES = tuple(product((0, 1), (0, 1)))


def pool_stacked(
    images: Float[Array, "batch height width channels"],
    kernel: Float[Array, "kernel_height kernel_width channels features"],
    bias: Float[Array, " features"],
    pads: Pads,
    size: tuple[int, int],
) -> tuple[Float[Array, "batch rows columns features"], UInt8[Array, "batch rows columns features"]]:
    """Convolves, adds a bias, takes ReLU and the maximum of every 2x2 window.

    The kernel, moved to each place of a window, is stacked to four times the features, so that a matrix unit of 128
    columns is full from 32 features on, and the windows need not be gathered from neighbouring pixels.

    Args:
        images: `[batch, height, width, channels]`.
        kernel: `[kernel_height, kernel_width, channels, features]`.
        bias: `[features]`.
        pads: zeros to add, `((top, bottom), (left, right))`.
        size: rows and columns of the result.

    Returns:
        The maxima and the codes of their places, `[batch, rows, columns, features]`.
    """
    stacked = _convolve(images, kernel, pads, size)
    return largest_after_relu(jnp.split(stacked, len(_PLACES), axis=-1), bias)


def stacked_gradients(
    images: Float[Array, "batch height width channels"],
    kernel: Float[Array, "kernel_height kernel_width channels features"],
    codes: UInt8[Array, "batch rows columns features"],
    gradient: Float[Array, "batch rows columns features"],
    pads: Pads,
) -> tuple[Float[Array, "batch height width channels"], Float[Array, "kernel_height kernel_width channels features"]]:
    """Differentiates `pool_stacked`.

    Args:
        images: `[batch, height, width, channels]`.
        kernel: `[kernel_height, kernel_width, channels, features]`.
        codes: that `pool_stacked` returned.
        gradient: for its maxima.
        pads: of the convolution.

    Returns:
        The gradients of the images and of the kernel.
    """
    size = codes.shape[1], codes.shape[2]
    spread = jnp.concatenate([jnp.where(codes == code, gradient, 0) for code in range(len(_PLACES))], axis=-1)
    return jax.vjp(lambda images, kernel: _convolve(images, kernel, pads, size), images, kernel)[1](spread)


def _convolve(images: Array, kernel: Array, pads: Pads, size: tuple[int, int]) -> Array:
    """Returns the outputs of all places of the windows, `[batch, rows, columns, 4 * features]`."""
    stacked = jnp.concatenate(
        [jnp.pad(kernel, [(top, 1 - top), (left, 1 - left), (0, 0), (0, 0)]) for top, left in _PLACES], axis=-1
    )
    # What the windows read; below and to the right perhaps less than there is.
    reach = [2 * (count - 1) + span for count, span in zip(size, stacked.shape[:2], strict=True)]
    ends = [count - low - image for count, (low, _), image in zip(reach, pads, images.shape[1:3], strict=True)]
    images = images[:, : images.shape[1] + min(ends[0], 0), : images.shape[2] + min(ends[1], 0)]
    padding = [(low, max(end, 0)) for (low, _), end in zip(pads, ends, strict=True)]
    strides = 2, 2
    if on_platform("gpu"):
        images, stacked = _join_blocks(images, stacked, padding)
        strides, padding = (1, 1), [(0, 0), (0, 0)]
    return lax.conv_general_dilated(images, stacked, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _join_blocks(images: Array, kernel: Array, pads: Sequence[tuple[int, int]]) -> tuple[Array, Array]:
    """Makes blocks of 2x2 pixels one pixel with all their channels, of the images and of the kernel.

    A convolution of one with the other, without strides, is then that with stride 2. cuDNN takes pixels of whole 16
    bytes, and pads fewer channels by kernels of its own, which cost more than the convolution.
    """
    odd = [size % 2 for size in kernel.shape[:2]]
    missing = (0, kernel.shape[2] % 2)
    kernel = jnp.pad(kernel, [(0, odd[0]), (0, odd[1]), missing, (0, 0)])
    images = jnp.pad(
        images, [(0, 0), *((low, high + more) for (low, high), more in zip(pads, odd, strict=True)), missing]
    )
    height, width, channels, features = kernel.shape
    batch, rows, columns, _ = images.shape
    kernel = kernel.reshape(height // 2, 2, width // 2, 2, channels, features).transpose(0, 2, 1, 3, 4, 5)
    images = images.reshape(batch, rows // 2, 2, columns // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    return (
        images.reshape(batch, rows // 2, columns // 2, 4 * channels),
        kernel.reshape(height // 2, width // 2, 4 * channels, features),
    )
