"""Convolution 3x3 by Winograd's minimal filtering, with its gradients by the same."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fusionjax.ops import winograd
from fusionjax.ops.apart import compute_apart, is_number_or_not
from fusionjax.ops.micro_batches import map_micro_batches, sum_micro_batches
from fusionjax.ops.shifts import Pads

# Outputs of a micro-batch and device. Measured on a CPU: fewer waste the products' set-up, more leave the cache.
_OUTPUTS_PER_STEP = 3 << 19


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv2d_winograd(
    images: Float[Array, "batch height width channels"], kernel: Float[Array, "3 3 channels features"], pads: Pads
) -> Float[Array, "batch out_height out_width features"]:
    """Convolves with strides (1, 1); see `fusionjax.ops.conv2d`.

    Args:
        images: `[batch, height, width, channels]`, float32.
        kernel: `[3, 3, channels, features]`, float32.
        pads: zeros to add, `((top, bottom), (left, right))`.

    Returns:
        `[batch, out_height, out_width, features]`.

    References:
        Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015, arXiv:1509.09308, section 4.
    """
    transformed = winograd.transform_kernel(kernel)
    height, width = _output_size(images, pads)
    examples = _OUTPUTS_PER_STEP // (height * width * kernel.shape[3])

    def convolve(part: Array) -> Array:
        # Or else XLA computes the outputs while it crops them, or writes them into those of all examples, one number at
        # a time.
        tiled = partial(_convolve_tiles, pads=pads)
        outputs = compute_apart(is_number_or_not(kernel[0, 0, 0, 0]), tiled, part, transformed)
        return outputs[:, :height, :width]

    return map_micro_batches(convolve, (images,), examples)


def _forward(images: Array, kernel: Array, pads: Pads) -> tuple[Array, tuple[Array, Array]]:
    return conv2d_winograd(images, kernel, pads), (images, kernel)


def _backward(pads: Pads, residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    images, kernel = residuals
    return image_gradient(gradient, kernel, pads), kernel_gradient(images, gradient, pads)


conv2d_winograd.defvjp(_forward, _backward)


def image_gradient(gradient: Array, kernel: Array, pads: Pads) -> Array:
    """Convolves the output's gradient with the kernel turned by half a turn, channels and features exchanged."""
    # An output at y reads the padded rows y .. y + 2, so row y is read by the outputs y - 2 .. y.
    (top, bottom), (left, right) = pads
    return conv2d_winograd(gradient, kernel[::-1, ::-1].swapaxes(2, 3), ((2 - top, 2 - bottom), (2 - left, 2 - right)))


def kernel_gradient(images: Array, gradient: Array, pads: Pads) -> Array:
    """Sums the products of transformed images and transformed gradients over tiles and examples."""
    examples = _OUTPUTS_PER_STEP // gradient[0].size
    total = sum_micro_batches(partial(_kernel_gradient_of_part, pads=pads), (images, gradient), examples)
    return winograd.transform_kernel_back(total)


def winograd_obstacle(kernel: Array) -> str | None:
    """Returns why Winograd's filtering cannot serve a kernel, or None."""
    if kernel.shape[:2] != (winograd.SPAN, winograd.SPAN):
        return f"it takes kernels 3x3; got {kernel.shape[0]}x{kernel.shape[1]}"
    if kernel.dtype != jnp.float32:
        return f"it takes float32, since it would round other dtypes too much; got {kernel.dtype}"
    return None


def pad_to_tiles(images: Array, pads: Pads, rows: int, columns: int) -> Array:
    """Pads images, and crops or pads them further below and to the right so that they fill the tiles."""
    (top, _), (left, _) = pads
    height, width = winograd.TILE * rows + 2, winograd.TILE * columns + 2
    below, beside = height - top - images.shape[1], width - left - images.shape[2]
    zero = jnp.zeros((), images.dtype)
    return jax.lax.pad(images, zero, ((0, 0, 0), (top, below, 0), (left, beside, 0), (0, 0, 0)))


def _output_size(images: Array, pads: Pads) -> tuple[int, int]:
    return images.shape[1] + sum(pads[0]) - 2, images.shape[2] + sum(pads[1]) - 2


def _convolve_tiles(images: Array, transformed: Array, pads: Pads) -> Array:
    rows, columns = (winograd.count_tiles(size) for size in _output_size(images, pads))
    tiles = winograd.transform_inputs(pad_to_tiles(images, pads, rows, columns), rows, columns)
    # A place of the tiles is computed whole, not again and again while the places are put beside each other.
    places = jax.lax.optimization_barrier(winograd.multiply(tiles, transformed))
    return winograd.assemble(places, images.shape[0], rows, columns)


def _kernel_gradient_of_part(images: Array, gradient: Array, pads: Pads) -> Array:
    _, height, width, _ = gradient.shape
    rows, columns = winograd.count_tiles(height), winograd.count_tiles(width)
    below, beside = winograd.TILE * rows - height, winograd.TILE * columns - width
    padded = jnp.pad(gradient, ((0, 0), (0, below), (0, beside), (0, 0)))
    return winograd.multiply_for_kernel(
        winograd.transform_inputs(pad_to_tiles(images, pads, rows, columns), rows, columns),
        winograd.transform_gradient(padded, rows, columns),
    )
