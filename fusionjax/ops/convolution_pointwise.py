"""Convolution with a kernel of one pixel, as a matrix product."""

from jaxtyping import Array, Float

from fusionjax.ops.shifts import Pads, Pair, pad_images


def conv2d_pointwise(
    images: Float[Array, "batch height width channels"],
    kernel: Float[Array, "1 1 channels features"],
    pads: Pads,
    strides: Pair,
) -> Float[Array, "batch out_height out_width features"]:
    """Multiplies the pixels that the strides keep with the kernel; see `fusionjax.ops.conv2d`.

    XLA's convolution computes the same, but on a CPU its gradients are those of a convolution, too: with strides they
    spread the output's gradient over all pixels first.

    Args:
        images: `[batch, height, width, channels]`.
        kernel: `[1, 1, channels, features]`, of the images' dtype.
        pads: zeros to add, `((top, bottom), (left, right))`.
        strides: steps between outputs, vertically and horizontally.

    Returns:
        `[batch, out_height, out_width, features]`.
    """
    images = pad_images(images, pads)[:, :: strides[0], :: strides[1]]
    # One axis of pixels: the kernel's gradient, summed over three, would not be a plain product.
    outputs = images.reshape(-1, images.shape[3]) @ kernel[0, 0]
    return outputs.reshape(*images.shape[:3], -1)


def pointwise_obstacle(kernel: Array) -> str | None:
    """Returns why a matrix product cannot serve a kernel, or None."""
    if kernel.shape[:2] == (1, 1):
        return None
    return f"it takes kernels 1x1; got {kernel.shape[0]}x{kernel.shape[1]}"
