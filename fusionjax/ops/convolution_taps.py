"""Convolution whose kernel gradient is a sum of matrix products over micro-batches."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fusionjax.ops.micro_batches import sum_micro_batches

Pads = tuple[tuple[int, int], tuple[int, int]]

# Outputs (rows of the matrix product) per micro-batch and device. Measured on a CPU: fewer waste the product's
# set-up, more fall out of the cache.
_ROWS_PER_STEP = 2048


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv2d_taps(
    images: Float[Array, "batch height width channels"],
    kernel: Float[Array, "kernel_height kernel_width channels features"],
    pads: Pads,
) -> Float[Array, "batch out_height out_width features"]:
    """Convolves with strides (1, 1); see `fusionjax.ops.conv2d`.

    Args:
        images: `[batch, height, width, channels]`.
        kernel: `[kernel_height, kernel_width, channels, features]`, of the images' dtype.
        pads: zeros to add, `((top, bottom), (left, right))`.

    Returns:
        `[batch, out_height, out_width, features]`.
    """
    return lax.conv_general_dilated(images, kernel, (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _forward(images: Array, kernel: Array, pads: Pads) -> tuple[Array, tuple[Array, Array]]:
    return conv2d_taps(images, kernel, pads), (images, kernel)


def _backward(pads: Pads, residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    images, kernel = residuals
    return image_gradient(gradient, kernel, pads), kernel_gradient(
        images, gradient, (kernel.shape[0], kernel.shape[1]), pads
    )


conv2d_taps.defvjp(_forward, _backward)


def image_gradient(gradient: Array, kernel: Array, pads: Pads) -> Array:
    """Convolves the output's gradient with the kernel turned by half a turn, channels and features exchanged."""
    # An output at y reads the padded rows y .. y + size - 1, so row y is read by the outputs y - size + 1 .. y.
    full = [(size - 1 - low, size - 1 - high) for size, (low, high) in zip(kernel.shape[:2], pads, strict=True)]
    # Cropped beforehand: with negative padding XLA's convolution reads outside of the array on some CPUs (jax 0.10).
    crop = [(min(low, 0), min(high, 0), 0) for low, high in full]
    gradient = lax.pad(gradient, jnp.zeros((), gradient.dtype), ((0, 0, 0), *crop, (0, 0, 0)))
    grow = [(max(low, 0), max(high, 0)) for low, high in full]
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    return lax.conv_general_dilated(gradient, turned, (1, 1), grow, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def kernel_gradient(images: Array, gradient: Array, kernel_size: tuple[int, int], pads: Pads) -> Array:
    """Sums the products of shifted images and the output's gradient, a few examples at a time, in float32."""
    images = jnp.pad(images, ((0, 0), *pads, (0, 0)))
    height, width = gradient.shape[1:3]
    examples = max(2, _ROWS_PER_STEP // (height * width))
    product = partial(_kernel_gradient_of_part, kernel_size=kernel_size)
    return sum_micro_batches(product, (images, gradient), examples).astype(images.dtype)


def _kernel_gradient_of_part(images: Array, gradient: Array, kernel_size: tuple[int, int]) -> Array:
    _, height, width, features = gradient.shape
    kernel_height, kernel_width = kernel_size
    # [part, padded_height, out_width, kernel_width * channels]: the taps of a kernel row side by side
    taps = jnp.concatenate([images[:, :, left : left + width] for left in range(kernel_width)], axis=-1)
    columns = gradient.reshape(-1, features)
    rows = [taps[:, top : top + height].reshape(-1, taps.shape[-1]) for top in range(kernel_height)]
    products = [
        jnp.einsum("nc,no->co", row, columns, preferred_element_type=jnp.promote_types(row.dtype, jnp.float32))
        for row in rows
    ]
    return jnp.stack(products).reshape(kernel_height, kernel_width, images.shape[3], features)
