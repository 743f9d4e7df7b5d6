"""Convolution whose kernel gradient is a sum of matrix products over micro-batches."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fusionjax.ops.micro_batches import sum_micro_batches
from fusionjax.ops.shifts import Pads, Pair, gradient_pads, pad_images, shift_images, spread_images

# Outputs (rows of the matrix product) per micro-batch and device. Measured on a CPU: fewer waste the product's
# set-up, more fall out of the cache.
_ROWS_PER_STEP = 2048
# Measured on a CPU. For small images to turn the kernel takes longer than to convolve with it, if it is wide.
_MOST_OUTPUTS_FOR_PRODUCTS = 256
_LEAST_KERNEL_FOR_PRODUCTS = 2**16  # channels times features


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def conv2d_taps(
    images: Float[Array, "batch height width channels"],
    kernel: Float[Array, "kernel_height kernel_width channels features"],
    pads: Pads,
    strides: Pair,
    dilation: Pair,
) -> Float[Array, "batch out_height out_width features"]:
    """Convolves in one group; see `fusionjax.ops.conv2d`.

    Args:
        images: `[batch, height, width, channels]`.
        kernel: `[kernel_height, kernel_width, channels, features]`, of the images' dtype.
        pads: zeros to add, `((top, bottom), (left, right))`.
        strides: steps between outputs, vertically and horizontally.
        dilation: steps between the kernel's pixels, likewise.

    Returns:
        `[batch, out_height, out_width, features]`.
    """
    return lax.conv_general_dilated(
        images, kernel, strides, pads, rhs_dilation=dilation, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _forward(
    images: Array, kernel: Array, pads: Pads, strides: Pair, dilation: Pair
) -> tuple[Array, tuple[Array, Array]]:
    return conv2d_taps(images, kernel, pads, strides, dilation), (images, kernel)


def _backward(
    pads: Pads, strides: Pair, dilation: Pair, residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    images, kernel = residuals
    size = (kernel.shape[0], kernel.shape[1])
    return (
        image_gradient(gradient, kernel, pads, (images.shape[1], images.shape[2]), strides, dilation),
        kernel_gradient(images, gradient, size, pads, strides, dilation),
    )


conv2d_taps.defvjp(_forward, _backward)


def image_gradient(
    gradient: Array, kernel: Array, pads: Pads, size: Pair, strides: Pair = (1, 1), dilation: Pair = (1, 1)
) -> Array:
    """Convolves the output's gradient with the kernel turned by half a turn, channels and features exchanged.

    Where the kernel is wide and the images small, one product of the gradient and the kernel as it lies gives what each
    output adds to every pixel that it read, and these are added up.

    Args:
        gradient: `[batch, out_height, out_width, features]`.
        kernel: `[kernel_height, kernel_width, channels, features]`.
        pads: zeros that were added to the images.
        size: height and width of the images.
        strides: of the convolution, vertically and horizontally.
        dilation: likewise.

    Returns:
        `[batch, *size, channels]`.
    """
    outputs = gradient.shape[1] * gradient.shape[2]
    if outputs <= _MOST_OUTPUTS_FOR_PRODUCTS and kernel.shape[2] * kernel.shape[3] >= _LEAST_KERNEL_FOR_PRODUCTS:
        return _image_gradient_of_products(gradient, kernel, pads, size, strides, dilation)
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    full = gradient_pads(gradient.shape[1:3], size, kernel.shape[:2], strides, pads, dilation)
    if min(*full[0], *full[1]) < 0:
        # Cropped beforehand: with negative padding XLA's convolution reads outside of the array on some CPUs.
        gradient, full, strides = pad_images(spread_images(gradient, strides), full), ((0, 0), (0, 0)), (1, 1)
    return lax.conv_general_dilated(
        gradient,
        turned,
        (1, 1),
        full,
        lhs_dilation=strides,
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _image_gradient_of_products(
    gradient: Array, kernel: Array, pads: Pads, size: Pair, strides: Pair, dilation: Pair
) -> Array:
    kernel_height, kernel_width, channels, features = kernel.shape
    rows = gradient.reshape(-1, features)
    wide = jnp.promote_types(gradient.dtype, jnp.float32)
    # [batch, out_height, out_width, kernel_height, kernel_width, channels]
    terms = jnp.einsum("no,to->nt", rows, kernel.reshape(-1, features), preferred_element_type=wide)
    terms = terms.reshape(*gradient.shape[:3], kernel_height, kernel_width, channels)
    padded = [count + sum(pair) for count, pair in zip(size, pads, strict=True)]
    total = jnp.zeros((), wide)
    for row, column in product(range(kernel_height), range(kernel_width)):
        first = row * dilation[0], column * dilation[1]
        spread = spread_images(terms[:, :, :, row, column], strides)
        after = [whole - start - part for whole, start, part in zip(padded, first, spread.shape[1:3], strict=True)]
        total = total + pad_images(spread, ((first[0], after[0]), (first[1], after[1])))
    return pad_images(total, ((-pads[0][0], -pads[0][1]), (-pads[1][0], -pads[1][1]))).astype(gradient.dtype)


def kernel_gradient(
    images: Array, gradient: Array, kernel_size: Pair, pads: Pads, strides: Pair = (1, 1), dilation: Pair = (1, 1)
) -> Array:
    """Sums the products of shifted images and the output's gradient, a few examples at a time, in float32.

    Args:
        images: `[batch, height, width, channels]`.
        gradient: `[batch, out_height, out_width, features]`.
        kernel_size: height and width.
        pads: zeros that were added to the images.
        strides: of the convolution, vertically and horizontally.
        dilation: likewise.

    Returns:
        `[*kernel_size, channels, features]`, in the images' dtype.
    """
    images = pad_images(images, pads)
    height, width = gradient.shape[1:3]
    examples = max(2, _ROWS_PER_STEP // (height * width))
    products = partial(_kernel_gradient_of_part, kernel_size=kernel_size, strides=strides, dilation=dilation)
    return sum_micro_batches(products, (images, gradient), examples).astype(images.dtype)


def _kernel_gradient_of_part(
    images: Array, gradient: Array, *, kernel_size: Pair, strides: Pair, dilation: Pair
) -> Array:
    _, height, width, features = gradient.shape
    columns = gradient.reshape(-1, features)
    # [part, padded_height, out_width, kernel_width * channels]: the taps of a kernel row side by side
    taps = jnp.concatenate(
        [
            shift_images(images, (0, column * dilation[1]), (images.shape[1], width), (1, strides[1]))
            for column in range(kernel_size[1])
        ],
        axis=-1,
    )
    products = []
    for row in range(kernel_size[0]):
        read = shift_images(taps, (row * dilation[0], 0), (height, width), (strides[0], 1))
        wide = jnp.promote_types(read.dtype, jnp.float32)
        products.append(jnp.einsum("nc,no->co", read.reshape(-1, read.shape[-1]), columns, preferred_element_type=wide))
    return jnp.stack(products).reshape(*kernel_size, images.shape[3], features)
