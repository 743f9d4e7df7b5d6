"""Max-pooling by two that remembers where each maximum was."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

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
    batch, height, width, channels = images.shape
    rows, columns = height // 2, width // 2
    # [batch, rows, 2, columns, 2, channels]
    windows = images[:, : 2 * rows, : 2 * columns].reshape(batch, rows, 2, columns, 2, channels)
    candidates = [windows[:, :, row, :, column] for row in (0, 1) for column in (0, 1)]
    largest = jnp.maximum(jnp.maximum(*candidates[:2]), jnp.maximum(*candidates[2:]))
    codes = jnp.full(largest.shape, 3, jnp.uint8)
    for code in (2, 1, 0):
        codes = jnp.where(largest == candidates[code], jnp.uint8(code), codes)
    return largest, (codes, images[:0])


def _backward(residuals: _Residuals, gradient: Array) -> tuple[Array]:
    codes, empty = residuals
    _, height, width, _ = empty.shape
    rows, columns = 2 * gradient.shape[1] - 1, 2 * gradient.shape[2] - 1
    zero = jnp.zeros((), gradient.dtype)
    total = jnp.zeros((gradient.shape[0], *empty.shape[1:]), gradient.dtype)
    for code in range(4):
        top, left = divmod(code, 2)
        spread = ((0, 0, 0), (top, height - rows - top, 1), (left, width - columns - left, 1), (0, 0, 0))
        total = total + lax.pad(jnp.where(codes == code, gradient, zero), zero, spread)
    return (total,)


max_pool2d_codes.defvjp(_forward, _backward)
