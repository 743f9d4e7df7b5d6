"""Depthwise convolution as a sum of shifted products."""

import math
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fusionjax.ops.apart import compute_apart, is_number_or_not
from fusionjax.ops.implementations import count_devices, on_platform
from fusionjax.ops.manual_axes import vary_together
from fusionjax.ops.micro_batches import sum_micro_batches
from fusionjax.ops.shifts import Pads, Pair, gradient_pads, pad_images, shift_images, spread_images

# Measured on a CPU. From this size on the C library takes an array's pages from the system anew, so that a padded copy
# of the images costs more than to compute the borders apart.
_BYTES_WORTH_NO_COPY = 2**25
# Products that one loop over a row sums up: fewer write the sums more often, more make the loop too long.
_ROWS_PER_SUM = 14
# Each pixel of a kernel is a product in the loop's body, so compilation limits them.
_MOST_PIXELS = 256


def depthwise_conv2d(
    images: Float[Array, "batch height width channels"],
    kernel: Float[Array, "kernel_height kernel_width 1 features"],
    strides: Pair,
    pads: Pads,
    dilation: Pair = (1, 1),
) -> Float[Array, "batch out_height out_width features"]:
    """Convolves every channel with kernels of its own: one shifted product for each pixel of the kernel.

    output[b, y, x, c * m + j] = sum over i, k of image[b, y * s + i * d, x * s + k * d, c] * kernel[i, k, 0, c * m + j]
    with m features for each channel, strides s and dilation d, as XLA's convolution with `feature_group_count=channels`
    has it. Sums are in float32. It has no forward-mode derivative (`jax.jvp`); a gradient has.

    Args:
        images: `[batch, height, width, channels]`.
        kernel: `[kernel_height, kernel_width, 1, channels * m]`, of the images' dtype.
        strides: steps between outputs, vertically and horizontally.
        pads: zeros to add, `((top, bottom), (left, right))`.
        dilation: steps between the kernel's pixels, vertically and horizontally.

    Returns:
        `[batch, out_height, out_width, channels * m]`.

    Raises:
        ValueError: the kernel has another shape.

    Example:
        >>> images, kernel = jnp.ones((1, 3, 3, 2)), jnp.ones((2, 2, 1, 4))
        >>> depthwise_conv2d(images, kernel, (1, 1), ((0, 0), (0, 0)))[0, :, :, 3]
        Array([[4., 4.],
               [4., 4.]], dtype=float32)

    References:
        Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017,
        arXiv:1704.04861, section 3.1.
    """
    channels, features = images.shape[3], kernel.shape[3]
    if kernel.shape[2] != 1 or features % channels:
        raise ValueError(
            "the kernel of a depthwise convolution must have shape [height, width, 1, features] with a multiple of "
            f"{channels} features for as many channels; got {kernel.shape}. Give every channel as many kernels."
        )
    if features > channels:
        images = jnp.repeat(images, features // channels, axis=3)
    return _depthwise(*vary_together(images, kernel[:, :, 0]), strides, pads, dilation)


def depthwise_obstacle(images: Array, kernel: Array) -> str | None:
    """Returns why shifted products cannot serve a convolution, or shall not, or None.

    Args:
        images: `[batch, height, width, channels]`.
        kernel: `[kernel_height, kernel_width, channels / groups, features]`.

    Returns:
        None or the reason, for messages.
    """
    if kernel.shape[2] != 1:
        return f"it needs as many groups as channels; got {images.shape[3] // kernel.shape[2]} for {images.shape[3]}"
    if math.prod(kernel.shape[:2]) > _MOST_PIXELS:
        return f"it takes kernels of at most {_MOST_PIXELS} pixels; got {kernel.shape[0]}x{kernel.shape[1]}"
    return None


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _depthwise(images: Array, kernel: Array, strides: Pair, pads: Pads, dilation: Pair) -> Array:
    return _convolve(images, kernel, strides, pads, dilation)


def _forward(
    images: Array, kernel: Array, strides: Pair, pads: Pads, dilation: Pair
) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(images, kernel, strides, pads, dilation), (images, kernel)


def _backward(
    strides: Pair, pads: Pads, dilation: Pair, residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    images, kernel = residuals
    return (
        _image_gradient(gradient, kernel, strides, pads, dilation, images.shape),
        _kernel_gradient(images, gradient, kernel, strides, pads, dilation),
    )


_depthwise.defvjp(_forward, _backward)


def _convolve(images: Array, kernel: Array, strides: Pair, pads: Pads, dilation: Pair) -> Array:
    convolve = partial(_convolve_plainly, strides=strides, pads=pads, dilation=dilation)
    if not on_platform("cpu"):
        return convolve(images, kernel)
    # What reads the result, such as the statistics of a normalization, must not repeat the products.
    return compute_apart(is_number_or_not(kernel[0, 0, 0]), convolve, images, kernel)


def _convolve_plainly(images: Array, kernel: Array, strides: Pair, pads: Pads, dilation: Pair) -> Array:
    reach = [(size - 1) * step for size, step in zip(kernel.shape[:2], dilation, strict=True)]
    has_inner = all(size > ends for size, ends in zip(images.shape[1:3], reach, strict=True))
    pads_only = all(0 <= pad <= ends for pair, ends in zip(pads, reach, strict=True) for pad in pair)
    if images.nbytes >= _BYTES_WORTH_NO_COPY and strides == (1, 1) and has_inner and pads_only:
        return _convolve_inner_and_borders(images, kernel, pads, dilation, reach)
    return _convolve_padded(images, kernel, strides, pads, dilation)


def _convolve_padded(images: Array, kernel: Array, strides: Pair, pads: Pads, dilation: Pair) -> Array:
    images = pad_images(images, pads)
    size = [
        (padded - 1 - (count - 1) * apart) // step + 1
        for padded, count, apart, step in zip(images.shape[1:3], kernel.shape[:2], dilation, strides, strict=True)
    ]
    wide = jnp.promote_types(images.dtype, jnp.float32)
    total = jnp.zeros((), wide)
    for row, column in product(*map(range, kernel.shape[:2])):
        shifted = shift_images(images, (row * dilation[0], column * dilation[1]), (size[0], size[1]), strides)
        total = total + shifted.astype(wide) * kernel[row, column].astype(wide)
    return total.astype(images.dtype)


def _convolve_inner_and_borders(images: Array, kernel: Array, pads: Pads, dilation: Pair, reach: list[int]) -> Array:
    """Convolves without a padded copy of the images: what needs no padding at once, then the four borders."""
    (top, bottom), (left, right) = pads
    high, wide = reach
    convolve = partial(_convolve_padded, kernel=kernel, strides=(1, 1), dilation=dilation)
    inner = convolve(images, pads=((0, 0), (0, 0)))
    outputs = pad_images(inner, pads)
    bottom_row, right_column = images.shape[1] - high, images.shape[2] - wide
    borders = (
        (top, images[:, :high], ((top, 0), (left, right)), (0, 0)),
        (bottom, images[:, bottom_row:], ((0, bottom), (left, right)), (top + bottom_row, 0)),
        (left, images[:, :, :wide], ((0, 0), (left, 0)), (top, 0)),
        (right, images[:, :, right_column:], ((0, 0), (0, right)), (top, left + right_column)),
    )
    for depth, part, part_pads, corner in borders:
        if depth:
            outputs = lax.dynamic_update_slice(outputs, convolve(part, pads=part_pads), (0, *corner, 0))
    return outputs


def _image_gradient(
    gradient: Array,
    kernel: Array,
    strides: Pair,
    pads: Pads,
    dilation: Pair,
    shape: tuple[int, ...],
) -> Array:
    """Convolves the output's gradient, spread by the strides, with the kernel turned by half a turn."""
    full = gradient_pads(gradient.shape[1:3], shape[1:3], kernel.shape[:2], strides, pads, dilation)
    if strides != (1, 1):
        gradient = spread_images(gradient, strides)
    return _convolve(gradient, kernel[::-1, ::-1], (1, 1), full, dilation)


def _kernel_gradient(images: Array, gradient: Array, kernel: Array, strides: Pair, pads: Pads, dilation: Pair) -> Array:
    """Sums the products of shifted images and the output's gradient, an image at a time and row upon row."""
    height, width = gradient.shape[1:3]
    sums = math.ceil(height / _ROWS_PER_SUM)
    terms = math.ceil(height / sums)
    taps = list(product(*map(range, kernel.shape[:2])))

    def pad(images: Array, gradient: Array) -> tuple[Array, Array]:
        # Rows of zeros fill the last sum up.
        missing = terms * sums - height
        (top, bottom), sides = pads
        images = pad_images(images, ((top, bottom + missing * strides[0]), sides))
        return images, pad_images(gradient, ((0, missing), (0, 0)))

    def sum_products(images: Array, gradient: Array) -> tuple[Array, ...]:
        return tuple(jnp.sum(add_rows(images, gradient, *tap), axis=0) for tap in taps)

    def add_rows(images: Array, gradient: Array, row: int, column: int) -> Array:
        wide = jnp.promote_types(gradient.dtype, jnp.float32)
        # [part, sums, width, channels]
        total = jnp.zeros((), wide)
        for first in range(0, terms * sums, sums):
            top = row * dilation[0] + first * strides[0]
            shifted = shift_images(images, (top, column * dilation[1]), (sums, width), strides)
            total = total + shifted.astype(wide) * gradient[:, first : first + sums].astype(wide)
        return total

    if images.shape[0] == 1 and on_platform("cpu") and count_devices() == 1:
        # A loop of one turn is none, and what sums over a row would compute the products, and pad for each of them.
        parts = compute_apart(is_number_or_not(gradient[0, 0, 0, 0]), sum_products, *pad(images, gradient))
    else:
        parts = _sum_images(lambda *part: sum_products(*pad(*part)), images, gradient)
    return jnp.stack([jnp.sum(part, axis=(0, 1)) for part in parts]).reshape(kernel.shape).astype(kernel.dtype)


def _sum_images(function: Callable[[Array, Array], tuple[Array, ...]], images: Array, gradient: Array) -> Any:
    """Adds what the function returns for one image after the other."""
    if count_devices() > 1 or not images.shape[0]:
        return sum_micro_batches(function, (images, gradient), 1)
    shapes = jax.eval_shape(function, images[:1], gradient[:1])
    zeros, _ = vary_together(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes), (images, gradient))

    def take(index: Array, *arrays: Array) -> tuple[Array, ...]:
        return tuple(lax.dynamic_slice_in_dim(array, index, 1) for array in arrays)

    def add(index: Array, total: Any) -> Any:
        part = compute_apart(index >= 0, take, index, images, gradient)
        return jax.tree.map(jnp.add, total, function(*part))

    return lax.fori_loop(0, images.shape[0], add, zeros)
