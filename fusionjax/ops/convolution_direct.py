"""Convolution, ReLU and pooling by two in one loop of multiply-adds: for kernels of few channels."""

from functools import cache, partial, reduce
from operator import add

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, UInt8

from fusionjax.ops.micro_batches import sum_micro_batches
from fusionjax.ops.pooling_codes import largest_after_relu
from fusionjax.ops.shifts import Pads

_EXAMPLES_PER_STEP = 2  # of the gradient for the kernel; measured on a CPU
MOST_TERMS = (
    48  # of an output's sum: each is a multiplication in the loop's body, so compilation and registers limit it
)


@partial(jax.jit, static_argnames="pads", inline=True)  # traced once for the same shapes: it has hundreds of operations
def pool_direct(
    images: Float[Array, "batch height width channels"],
    kernel: Float[Array, "kernel_height kernel_width kernel_channels features"],
    bias: Float[Array, " features"],
    pads: Pads,
) -> tuple[Float[Array, "batch rows columns features"], UInt8[Array, "batch rows columns features"]]:
    """Computes the four outputs of every window and keeps the largest, without writing the others to memory.

    A term is a number of the image times a row of the kernel: a vector operation over the features. XLA makes one loop
    of the whole sum.

    Args:
        images: `[batch, height, width, channels]`.
        kernel: `[kernel_height, kernel_width, channels, features]`, at most `MOST_TERMS` numbers a feature.
        bias: `[features]`.
        pads: zeros to add, `((top, bottom), (left, right))`.

    Returns:
        As `fusionjax.ops.pooling_codes.largest_after_relu`.
    """
    kernel_height, kernel_width, channels, _ = kernel.shape
    wide = jnp.promote_types(images.dtype, jnp.float32)
    pairs = _pairs_of_pixels(images.astype(wide), kernel.shape, pads)
    kernel = kernel.astype(wide)
    rows, columns = _count_windows(images, kernel.shape, pads)

    # Windows share pixels, and outputs the kernel: each is cut out once.
    @cache
    def pixels(row: int, column: int, channel: int) -> Array:
        across = slice(column // 2, column // 2 + columns)
        return pairs[:, row // 2 : row // 2 + rows, row % 2, across, column % 2, channel, None]

    @cache
    def weights(row: int, column: int, channel: int) -> Array:
        return kernel[row, column, channel]

    def output(top: int, left: int) -> Array:
        terms = [
            pixels(top + row, left + column, channel) * weights(row, column, channel)
            for row in range(kernel_height)
            for column in range(kernel_width)
            for channel in range(channels)
        ]
        return reduce(add, terms)

    pooled, codes = largest_after_relu([output(top, left) for top in (0, 1) for left in (0, 1)], bias)
    return pooled.astype(images.dtype), codes


def patches_kernel_gradient(images: Array, codes: Array, gradient: Array, shape: tuple[int, ...], pads: Pads) -> Array:
    """The gradient for the kernel: one product of the patches that the windows read with the spread gradients.

    Args:
        images: `[batch, height, width, channels]`.
        codes: of the maxima, `[batch, rows, columns, features]`.
        gradient: for the maxima, likewise.
        shape: of the kernel.
        pads: zeros that were added.

    Returns:
        `[kernel_height, kernel_width, channels, features]`, float32.
    """
    height, width, channels, features = shape
    # [rows of a patch, its columns, channels, 2, 2, features]
    product = sum_micro_batches(
        lambda *parts: _multiply_patches(*parts, shape=shape, pads=pads), (images, codes, gradient), _EXAMPLES_PER_STEP
    )
    by_place = product.reshape(height + 1, -1, channels, 2, 2, features)
    places = [by_place[top : top + height, left : left + width, :, top, left] for top in (0, 1) for left in (0, 1)]
    return reduce(add, places)


def _multiply_patches(images: Array, codes: Array, gradient: Array, *, shape: tuple[int, ...], pads: Pads) -> Array:
    height, width, channels, features = shape
    rows, columns = gradient.shape[1:3]
    pairs = _pairs_of_pixels(images, shape, pads)
    pairs = pairs.reshape(*pairs.shape[:4], 2 * channels)
    parts = [
        pairs[:, row // 2 : row // 2 + rows, row % 2, pair : pair + columns]
        for row in range(height + 1)
        for pair in range(width // 2 + 1)
    ]
    # [batch, rows, columns, (kernel_height + 1) * even columns * channels]
    patches = jnp.concatenate(parts, -1)
    places = jnp.arange(4, dtype=jnp.uint8)[:, None]
    spread = jnp.where(codes.reshape(-1, 1, features) == places, gradient.reshape(-1, 1, features), 0)
    return jnp.einsum(
        "np,nq->pq",
        patches.reshape(-1, patches.shape[-1]),
        spread.reshape(-1, 4 * features),
        preferred_element_type=jnp.promote_types(gradient.dtype, jnp.float32),
    )


def _count_windows(images: Array, shape: tuple[int, ...], pads: Pads) -> tuple[int, int]:
    rows, columns = ((images.shape[axis + 1] + sum(pads[axis]) - shape[axis] + 1) // 2 for axis in (0, 1))
    return rows, columns


def _pairs_of_pixels(images: Array, shape: tuple[int, ...], pads: Pads) -> Array:
    """Pads to what the windows read, in even numbers: `[batch, height / 2, 2, width / 2, 2, channels]`."""
    windows = _count_windows(images, shape, pads)
    height, width = (2 * (count + span // 2) for count, span in zip(windows, shape[:2], strict=True))
    (top, _), (left, _) = pads
    below, beside = height - top - images.shape[1], width - left - images.shape[2]
    zero = jnp.zeros((), images.dtype)
    padded = lax.pad(images, zero, ((0, 0, 0), (top, below, 0), (left, beside, 0), (0, 0, 0)))
    return padded.reshape(-1, height // 2, 2, width // 2, 2, images.shape[3])
