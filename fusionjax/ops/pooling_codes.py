"""Max-pooling by two that remembers where each maximum was."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, UInt8

from fusionjax.ops.implementations import on_platform

NO_PLACE = 4  # the code of a window whose maximum ReLU cut off

_Residuals = tuple[Array, Array]  # the codes, and an empty array that carries the images' shape


@jax.custom_vjp
def max_pool2d_codes(
    images: Float[Array, "batch height width channels"],
) -> Float[Array, "batch out_height out_width channels"]:
    """Takes the maximum of every 2x2 window; see `fusionjax.ops.max_pool2d`.

    Args:
        images: `[batch, height, width, channels]`.

    Returns:
        `[batch, height // 2, width // 2, channels]`.
    """
    return lax.reduce_window(images, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def _forward(images: Array) -> tuple[Array, _Residuals]:
    largest, codes = largest_of_four(window_places(images))
    return largest, (codes, images[:0])


def _backward(residuals: _Residuals, gradient: Array) -> tuple[Array]:
    codes, empty = residuals
    _, height, width, _ = empty.shape
    rows, columns = 2 * gradient.shape[1] - 1, 2 * gradient.shape[2] - 1
    zero = jnp.zeros((), gradient.dtype)
    if on_platform("gpu"):
        # One kernel that reads each code once.
        left_out = ((0, 0, 0), (0, height - rows - 1, 0), (0, width - columns - 1, 0), (0, 0, 0))
        return (lax.pad(spread_by_code(codes, gradient), zero, left_out),)
    total = jnp.zeros((gradient.shape[0], *empty.shape[1:]), gradient.dtype)
    for code in range(4):
        top, left = divmod(code, 2)
        spread = ((0, 0, 0), (top, height - rows - top, 1), (left, width - columns - left, 1), (0, 0, 0))
        total = total + lax.pad(jnp.where(codes == code, gradient, zero), zero, spread)
    return (total,)


max_pool2d_codes.defvjp(_forward, _backward)


def window_places(
    images: Float[Array, "batch height width channels"],
) -> list[Float[Array, "batch rows columns channels"]]:
    """Returns the four places of every whole 2x2 window, in reading order.

    Args:
        images: `[batch, height, width, channels]`.

    Returns:
        Four arrays `[batch, height // 2, width // 2, channels]`.
    """
    batch, height, width, channels = images.shape
    rows, columns = height // 2, width // 2
    # [batch, rows, 2, columns, 2, channels]
    windows = images[:, : 2 * rows, : 2 * columns].reshape(batch, rows, 2, columns, 2, channels)
    return [windows[:, :, row, :, column] for row in (0, 1) for column in (0, 1)]


def largest_of_four(candidates: Sequence[Float[Array, "*shape"]]) -> tuple[Float[Array, "*shape"], UInt8[Array, "..."]]:
    """Returns the largest of four arrays at each place, and which one it is; the first of equals.

    Args:
        candidates: four arrays `[..., features]`: the places of a 2x2 window in reading order.

    Returns:
        The largest, and codes 0 to 3 of the same shape.
    """
    largest = jnp.maximum(jnp.maximum(*candidates[:2]), jnp.maximum(*candidates[2:]))
    codes = jnp.full(largest.shape, 3, jnp.uint8)
    for code in (2, 1, 0):
        codes = jnp.where(largest == candidates[code], jnp.uint8(code), codes)
    return largest, codes


def largest_after_relu(
    candidates: Sequence[Float[Array, "*shape"]], bias: Float[Array, " features"]
) -> tuple[Float[Array, "*shape"], UInt8[Array, "..."]]:
    """Adds a bias to the largest of four arrays and takes ReLU, which keeps the order.

    Args:
        candidates: as of `largest_of_four`.
        bias: `[features]`.

    Returns:
        max(largest + bias, 0), and codes 0 to 3, or `NO_PLACE` where ReLU gave zero.
    """
    largest, codes = largest_of_four(candidates)
    biased = largest + bias
    return jnp.maximum(biased, 0), jnp.where(biased > 0, codes, jnp.uint8(NO_PLACE))


def spread_by_code(
    codes: UInt8[Array, "batch rows columns features"], gradient: Float[Array, "batch rows columns features"]
) -> Float[Array, "batch height width features"]:
    """Puts each window's gradient at the place of its maximum, and zero at the others.

    Args:
        codes: of the maxima.
        gradient: for the maxima.

    Returns:
        `[batch, 2 * rows, 2 * columns, features]`.
    """
    batch, rows, columns, features = gradient.shape
    places = jnp.arange(4, dtype=jnp.uint8).reshape(1, 1, 2, 1, 2, 1)
    spread = jnp.where(codes[:, :, None, :, None] == places, gradient[:, :, None, :, None], 0)
    return spread.reshape(batch, 2 * rows, 2 * columns, features)
