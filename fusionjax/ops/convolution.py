"""Two-dimensional convolution."""

from collections.abc import Mapping, Sequence
from functools import partial

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from fusionjax.ops.bias import add_bias
from fusionjax.ops.convolution_depthwise import depthwise_conv2d, depthwise_obstacle
from fusionjax.ops.convolution_groups import conv2d_split
from fusionjax.ops.convolution_pointwise import conv2d_pointwise, pointwise_obstacle
from fusionjax.ops.convolution_taps import conv2d_taps
from fusionjax.ops.convolution_winograd import conv2d_winograd, winograd_obstacle
from fusionjax.ops.dtypes import check_floating
from fusionjax.ops.implementations import is_inside_loop, on_platform, select_implementation
from fusionjax.ops.manual_axes import vary_together
from fusionjax.ops.shape_classes import convolution_class
from fusionjax.ops.shifts import Pads

# Measured on a CPU: with larger kernels, strides or dilation XLA's own gradient for the kernel is as fast.
_LARGEST_FOR_TAPS = 3

Padding = str | Sequence[tuple[int, int]]


def conv2d(
    images: Float[Array, "batch height width channels"],
    kernel: Float[Array, "kernel_height kernel_width kernel_channels features"],
    bias: Float[Array, " bias_features"] | None = None,
    *,
    strides: tuple[int, int] = (1, 1),
    padding: Padding = "SAME",
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    implementation: str | None = None,
) -> Float[Array, "batch out_height out_width features"]:
    """Convolves images with a kernel, without flipping it, and adds a bias.

    output[b, y, x, o] = bias[o] + sum over i, j, c of
    image[b, y * stride + i * dilation, x * stride + j * dilation, c] * kernel[i, j, c, o].

    With groups, channels and features are cut in as many parts of equal size, and a part of the features sees its part
    of the channels only; as many groups as channels make a depthwise convolution.

    Implementations: `"xla"` is XLA's convolution and the reference. `"taps"` computes the same values, but its
    gradient for the kernel is one matrix product for each kernel row, summed over micro-batches: much faster on a CPU;
    for one group. `"winograd"` is Winograd's minimal filtering of tiles of 4x4, with a little more rounding; for
    kernels 3x3 in float32, strides and dilation (1, 1) and one group. `"pointwise"` is a matrix product, for kernels of
    one pixel and one group. `"shifted"` is a sum of shifted products, for depthwise convolutions with kernels of at
    most 256 pixels. `"split"` convolves a few groups at a time, in the way that None chooses. Those but `"pointwise"`
    have no forward-mode derivative (`jax.jvp`). None follows the table of choices (docs/speed.md); where that has no
    row: on a CPU with groups `"shifted"`, or else `"split"`; without, `"pointwise"` where it can serve, `"taps"`
    for kernels up to 3x3 with strides and dilation (1, 1) and for all `inside_loop`; otherwise `"xla"`.

    Args:
        images: `[batch, height, width, channels]`.
        kernel: `[kernel_height, kernel_width, channels / groups, features]`.
        bias: `[features]`, or None for none.
        strides: steps between outputs, in pixels, vertically and horizontally.
        padding: `"SAME"`, `"VALID"`, or zeros to add as `((top, bottom), (left, right))`.
        dilation: pixels between neighbours in the kernel, vertically and horizontally; 1 for none left out.
        groups: into which the channels and the features are cut.
        implementation: `"xla"`, `"taps"`, `"winograd"`, `"pointwise"`, `"shifted"`, `"split"`, or None to choose.

    Returns:
        `[batch, out_height, out_width, features]`, in the common dtype of the images and the kernel.

    Raises:
        ValueError: a shape or an option does not fit, or there is no implementation of that name.
        TypeError: images and kernel are both integers.
        NotImplementedError: the named implementation cannot serve this call.

    Example:
        >>> images, kernel = jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 3, 2))
        >>> conv2d(images, kernel, padding="VALID")[0, :, :, 0]
        Array([[27., 27.],
               [27., 27.]], dtype=float32)
    """
    check_convolution("conv2d", images, kernel, bias, groups)
    for name, steps in (("strides", strides), ("dilation", dilation)):
        if min(steps) < 1:
            raise ValueError(f"{name} must be at least 1; got {steps}. Use (1, 1) for neighbouring pixels.")
    reach = [(size - 1) * step + 1 for size, step in zip(kernel.shape[:2], dilation, strict=True)]
    pads = resolve_padding(padding, images.shape[1:3], reach, strides)
    strides, dilation = (strides[0], strides[1]), (dilation[0], dilation[1])  # a list would not do as a static argument
    dtype = jnp.result_type(images, kernel)
    check_floating("conv2d", "images and kernel together", dtype)
    images, kernel = images.astype(dtype), kernel.astype(dtype)
    one_group = None if groups == 1 else f"it needs one group; got {groups}"
    obstacles = {
        "xla": None,
        "taps": one_group,
        "winograd": _obstacle_of_steps(strides, dilation) or one_group or winograd_obstacle(kernel),
        "pointwise": one_group or pointwise_obstacle(kernel),
        "shifted": depthwise_obstacle(images, kernel),
        "split": None if groups > 1 else "it needs more than one group",
    }
    shape_class = convolution_class(images.shape, kernel.shape, strides=strides, dilation=dilation, groups=groups)
    preferred, avoided = "xla", None
    if on_platform("cpu"):
        preferred = _preferred(kernel, strides, dilation, obstacles)
        avoided = "xla" if is_inside_loop() else None
    chosen = select_implementation(
        "conv2d", implementation, obstacles, preferred, shape_class=shape_class, dtype=dtype, avoided=avoided
    )
    if chosen != "xla":
        images, kernel = vary_together(images, kernel)
    if chosen == "taps":
        outputs = conv2d_taps(images, kernel, pads, strides, dilation)
    elif chosen == "winograd":
        outputs = conv2d_winograd(images, kernel, pads)
    elif chosen == "pointwise":
        outputs = conv2d_pointwise(images, kernel, pads, strides)
    elif chosen == "shifted":
        outputs = depthwise_conv2d(images, kernel, strides, pads, dilation)
    elif chosen == "split":
        plainly = partial(conv2d, strides=strides, padding=pads, dilation=dilation)
        outputs = conv2d_split(plainly, images, kernel, groups)
    else:
        outputs = lax.conv_general_dilated(
            images,
            kernel,
            strides,
            pads,
            rhs_dilation=dilation,
            feature_group_count=groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
    return outputs if bias is None else add_bias(outputs, bias.astype(dtype))


def _preferred(
    kernel: Array, strides: tuple[int, int], dilation: tuple[int, int], obstacles: Mapping[str, str | None]
) -> str:
    """The rule for a CPU. With steps XLA's gradient for the kernel is as fast, as measured.

    In a loop it is never as fast.
    """
    if obstacles["split"] is None:
        return "split" if obstacles["shifted"] else "shifted"
    if obstacles["pointwise"] is None:
        return "pointwise"
    if is_inside_loop():
        return "taps"
    has_neighbours = strides == (1, 1) == dilation and max(kernel.shape[:2]) <= _LARGEST_FOR_TAPS
    return "taps" if has_neighbours else "xla"


def _obstacle_of_steps(strides: tuple[int, int], dilation: tuple[int, int]) -> str | None:
    for name, steps in (("strides", strides), ("dilation", dilation)):
        if steps != (1, 1):
            return f"it needs {name} (1, 1); got {steps}"
    return None


def check_convolution(operation: str, images: Array, kernel: Array, bias: Array | None, groups: int = 1) -> None:
    """Raises a ValueError that names the first shape that does not fit.

    Args:
        operation: the operation's name, for messages.
        images: `[batch, height, width, channels]`.
        kernel: `[kernel_height, kernel_width, channels / groups, features]`.
        bias: `[features]` or None.
        groups: into which the channels and the features are cut.

    Raises:
        ValueError: a shape does not fit.
    """
    if images.ndim != 4 or kernel.ndim != 4:
        raise ValueError(
            f"{operation} takes images [batch, height, width, channels] and a kernel [height, width, channels, "
            f"features]; got {images.shape} and {kernel.shape}. Add the missing axes, such as images[None]."
        )
    if groups < 1 or images.shape[3] % groups or kernel.shape[3] % groups:
        raise ValueError(
            f"groups must divide the {images.shape[3]} channels and the {kernel.shape[3]} features; got {groups}. "
            "Choose a common divisor, or 1."
        )
    if images.shape[3] != kernel.shape[2] * groups:
        raise ValueError(
            f"the kernel must take the images' {images.shape[3]} channels, of {groups} groups, on its third axis; "
            f"got {kernel.shape}. Images are [batch, height, width, channels]."
        )
    if bias is not None and bias.shape != kernel.shape[3:]:
        raise ValueError(
            f"the bias must have shape [features] = {kernel.shape[3:]}; got {bias.shape}. Give one number per feature."
        )


def resolve_padding(
    padding: Padding, image_size: Sequence[int], kernel_size: Sequence[int], strides: Sequence[int]
) -> Pads:
    """Returns the zeros to add, `((top, bottom), (left, right))`.

    Args:
        padding: as `conv2d` takes it.
        image_size: height and width.
        kernel_size: likewise.
        strides: likewise.

    Raises:
        ValueError: the padding is not one, or the padded image is smaller than the kernel.
    """
    if padding in ("SAME", "VALID"):
        vertical, horizontal = lax.padtype_to_pads(image_size, kernel_size, strides, padding)
    elif not isinstance(padding, str) and np.shape(padding) == (2, 2):
        vertical, horizontal = padding
    else:
        raise ValueError(
            f'padding must be "SAME", "VALID" or ((top, bottom), (left, right)); got {padding!r}. '
            "Give two pairs of numbers to pad each side."
        )
    for name, size, kernel, pair in zip(
        ("height", "width"), image_size, kernel_size, (vertical, horizontal), strict=True
    ):
        if size + sum(pair) < kernel:
            raise ValueError(
                f"the padded {name} must be at least the kernel's, {kernel}; got {size + sum(pair)}. "
                "Use larger images, a smaller kernel or more padding."
            )
    return (int(vertical[0]), int(vertical[1])), (int(horizontal[0]), int(horizontal[1]))
