"""Padded and shifted images: what a pixel of a kernel reads, and what its gradient goes back to."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Num

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]


def pad_images(images: Num[Array, "batch height width channels"], pads: Pads) -> Num[Array, "batch _ _ channels"]:
    """Adds zeros around images; negative numbers take rows and columns away.

    Args:
        images: `[batch, height, width, channels]`.
        pads: zeros to add, `((top, bottom), (left, right))`.

    Returns:
        `[batch, top + height + bottom, left + width + right, channels]`.

    Example:
        >>> pad_images(jnp.ones((1, 2, 2, 1)), ((0, 1), (0, -1)))[0, :, :, 0]
        Array([[1.],
               [1.],
               [0.]], dtype=float32)
    """
    return lax.pad(images, jnp.zeros((), images.dtype), [(0, 0, 0), *[(*pair, 0) for pair in pads], (0, 0, 0)])


def shift_images(
    images: Num[Array, "batch height width channels"], start: Pair, size: Pair, strides: Pair
) -> Num[Array, "batch _ _ channels"]:
    """Takes every stride-th pixel from a first one on.

    Args:
        images: `[batch, height, width, channels]`.
        start: row and column of the first pixel.
        size: pixels to take, vertically and horizontally.
        strides: steps between them, likewise.

    Returns:
        `[batch, *size, channels]`.

    Example:
        >>> shift_images(jnp.arange(5.0).reshape(1, 1, 5, 1), (0, 1), (1, 2), (1, 3)).ravel()
        Array([1., 4.], dtype=float32)
    """
    ends = [first + (count - 1) * step + 1 for first, count, step in zip(start, size, strides, strict=True)]
    limits = (images.shape[0], *ends, images.shape[3])
    return lax.slice(images, (0, *start, 0), limits, (1, *strides, 1))


def spread_images(
    images: Float[Array, "batch height width channels"], strides: Pair
) -> Float[Array, "batch _ _ channels"]:
    """Puts zeros between pixels, so that neighbours come to lie a stride apart.

    Args:
        images: `[batch, height, width, channels]`.
        strides: steps between the pixels, vertically and horizontally.

    Returns:
        `[batch, (height - 1) * stride + 1, (width - 1) * stride + 1, channels]`.

    Example:
        >>> spread_images(jnp.ones((1, 1, 2, 1)), (1, 3)).ravel()
        Array([1., 0., 0., 1.], dtype=float32)
    """
    between = [(0, 0, 0), *[(0, 0, stride - 1) for stride in strides], (0, 0, 0)]
    return lax.pad(images, jnp.zeros((), images.dtype), between)


def gradient_pads(
    out_size: Sequence[int],
    size: Sequence[int],
    kernel_size: Sequence[int],
    strides: Pair,
    pads: Pads,
    dilation: Pair,
) -> Pads:
    """Returns the zeros around an output's spread gradient for the convolution that makes the images' gradient of it.

    That convolution has steps of one, the same dilation, and the kernel turned by half a turn: the output y reads the
    padded rows y * stride + i * dilation, so row r is read by those y that r - i * dilation is a multiple of.

    Args:
        out_size: height and width of the output.
        size: height and width of the images.
        kernel_size: likewise.
        strides: of the convolution, vertically and horizontally.
        pads: zeros that were added to the images.
        dilation: of the convolution.

    Returns:
        The zeros to add, `((top, bottom), (left, right))`, which may be negative.

    Example:
        >>> gradient_pads((3, 3), (3, 3), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))
        ((1, 1), (1, 1))
    """
    full = []
    for axis in range(2):
        reach = (kernel_size[axis] - 1) * dilation[axis]
        # So many as give the image's size back; the last rows may have been left out by the strides.
        low = reach - pads[axis][0]
        full.append((low, size[axis] + reach - low - ((out_size[axis] - 1) * strides[axis] + 1)))
    return full[0], full[1]
