"""Convolution, ReLU and max-pooling by two as one operation."""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fusionjax.ops import convolution_taps, convolution_winograd, winograd
from fusionjax.ops.bias import add_bias
from fusionjax.ops.convolution import Padding, check_convolution, conv2d, resolve_padding
from fusionjax.ops.convolution_direct import MOST_TERMS, patches_kernel_gradient, pool_direct
from fusionjax.ops.convolution_stacked import pool_stacked, stacked_gradients
from fusionjax.ops.dtypes import check_floating
from fusionjax.ops.implementations import on_platform, select_implementation
from fusionjax.ops.manual_axes import vary_together
from fusionjax.ops.micro_batches import count_batch_devices, map_micro_batches
from fusionjax.ops.pooling import max_pool2d
from fusionjax.ops.pooling_codes import NO_PLACE, largest_after_relu, spread_by_code, window_places
from fusionjax.ops.shape_classes import pooled_convolution_class
from fusionjax.ops.shifts import Pads

# Outputs before the pooling of a micro-batch and device. Measured on a CPU: fewer waste the products' set-up, more
# leave the cache.
_OUTPUTS_PER_STEP = 3 << 19
# Below so many channels or features the transforms of Winograd's filtering cost more than they save.
_FEWEST_FOR_WINOGRAD = 16
_FEWEST_FOR_IMAGE_GRADIENT = 64  # channels of the image
# By XLA's estimates for TPU v5e and v6e. With more images a chip, it lays the images along the lanes of its own accord.
_MOST_IMAGES_FOR_STACKED = 32
# On an H200: three channels train 3.6 times as fast as by XLA's own operations, 32 1.8 times.
_MOST_CHANNELS_FOR_STACKED = 32


def conv2d_relu_max_pool(
    images: Float[Array, "batch height width channels"],
    kernel: Float[Array, "kernel_height kernel_width kernel_channels features"],
    bias: Float[Array, " bias_features"],
    *,
    padding: Padding = "VALID",
    implementation: str | None = None,
) -> Float[Array, "batch rows columns features"]:
    """Convolves, adds a bias, takes ReLU and the maximum of every 2x2 window.

    The same as `max_pool2d(relu(conv2d(images, kernel, bias, padding=padding)))`. Rows and columns that fill no whole
    window are left out; the gradient goes to the first maximum of a window.

    Implementations: `"xla"` is that, by XLA's operations, and the reference. `"separate"` is that by the fastest
    implementations of the two. `"direct"` is one loop of multiply-adds which writes only the maxima; for kernels of at
    most 48 numbers a feature, such as 3x3 over three channels. `"winograd"` is Winograd's minimal filtering of tiles of
    4x4, with about four units of the last place more rounding; for kernels 3x3 in float32. `"stacked"` is one
    convolution with stride 2 to four times the features, the places of a window. These three keep a byte for each
    maximum for their own gradients, and have no forward-mode derivative (`jax.jvp`). None follows the table of choices
    (docs/speed.md); where that has no row it chooses on a CPU among all but the last, by the sizes; on a TPU
    `"stacked"` where `"direct"` applies, up to 32 images a chip, and otherwise `"separate"`; on a GPU `"stacked"` up to
    32 channels, and otherwise `"separate"`.

    Args:
        images: `[batch, height, width, channels]`.
        kernel: `[kernel_height, kernel_width, channels, features]`.
        bias: `[features]`.
        padding: `"SAME"`, `"VALID"`, or zeros to add as `((top, bottom), (left, right))`.
        implementation: `"xla"`, `"separate"`, `"direct"`, `"winograd"`, `"stacked"`, or None to choose.

    Returns:
        `[batch, out_height // 2, out_width // 2, features]`, in the common dtype of the images and the kernel.

    Raises:
        ValueError: ranks, channels, bias, padding, sizes or the name of the implementation do not fit.
        TypeError: images and kernel are both integers.
        NotImplementedError: the named implementation cannot serve this call.

    Example:
        >>> images, kernel = jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 2))
        >>> conv2d_relu_max_pool(images, kernel, jnp.array([1.0, -30.0]))[0, 1, 1]
        Array([28.,  0.], dtype=float32)

    References:
        Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015, arXiv:1509.09308, section 4.
    """
    check_convolution("conv2d_relu_max_pool", images, kernel, bias)
    pads = resolve_padding(padding, images.shape[1:3], kernel.shape[:2], (1, 1))
    height, width = _output_size(images.shape[1:3], kernel, pads)
    if min(height, width) < 2:
        raise ValueError(
            f"the convolution must leave at least 2x2 for the pooling; got {height}x{width}. "
            "Use larger images, a smaller kernel or more padding."
        )
    dtype = jnp.result_type(images, kernel)
    check_floating("conv2d_relu_max_pool", "images and kernel together", dtype)
    images, kernel, bias = images.astype(dtype), kernel.astype(dtype), bias.astype(dtype)
    chosen = _choose(images, kernel, implementation)
    if chosen in ("xla", "separate"):
        return _convolve_then_pool(images, kernel, bias, pads, "xla" if chosen == "xla" else None)
    images, kernel, bias = vary_together(images, kernel, bias)
    if chosen in ("direct", "stacked"):
        return _pooled(images, kernel, bias, pads, chosen)
    return map_micro_batches(
        lambda part: _pooled(part, kernel, bias, pads, "winograd"), (images,), _examples((height, width), kernel)
    )


def conv2d_relu_max_pool_stages(
    images: Float[Array, "batch height width channels"],
    kernels: Sequence[Float[Array, "_ _ _ _"]],
    biases: Sequence[Float[Array, " _"]],
    *,
    padding: Padding = "VALID",
) -> Float[Array, "batch rows columns features"]:
    """Applies `conv2d_relu_max_pool` with one kernel and bias after the other.

    On a CPU all stages of a few examples come before the next examples, so that what lies between the stages stays in
    the cache.

    Args:
        images: `[batch, height, width, channels]`.
        kernels: of each stage.
        biases: of each stage.
        padding: of every stage.

    Returns:
        `[batch, rows, columns, features of the last stage]`.

    Raises:
        ValueError: a stage's shapes do not fit, or there are not as many biases as kernels.

    Example:
        >>> kernels, biases = [jnp.ones((3, 3, 1, 5)), jnp.ones((3, 3, 5, 7))], [jnp.ones(5), jnp.ones(7)]
        >>> conv2d_relu_max_pool_stages(jnp.ones((2, 18, 18, 1)), kernels, biases).shape
        (2, 3, 3, 7)
    """
    if len(kernels) != len(biases):
        raise ValueError(
            f"conv2d_relu_max_pool_stages takes a bias for each kernel; got {len(kernels)} kernels and {len(biases)} "
            "biases. Pass zeros for a stage without one."
        )

    def run(grid: Array) -> Array:
        for kernel, bias in zip(kernels, biases, strict=True):
            grid = conv2d_relu_max_pool(grid, kernel, bias, padding=padding)
        return grid

    if not on_platform("cpu") or not kernels:
        return run(images)
    check_convolution("conv2d_relu_max_pool", images, kernels[0], biases[0])
    sizes = _output_sizes(images.shape[1:3], kernels[:2], padding)
    # The direct loop writes nothing but its result: alone it is faster at once, otherwise the stage after it must fit.
    is_direct = _choose(images, kernels[0].astype(jnp.result_type(images, kernels[0]))) == "direct"
    if is_direct and len(kernels) == 1:
        return run(images)
    fitted = int(is_direct)
    return map_micro_batches(run, (images,), _examples(sizes[fitted], kernels[fitted]))


def _convolve_then_pool(images: Array, kernel: Array, bias: Array, pads: Pads, name: str | None) -> Array:
    if name is None and not on_platform("cpu"):
        # The bias is the same for all places of a window; after the pooling its gradient sums a quarter as much.
        return jax.nn.relu(add_bias(max_pool2d(conv2d(images, kernel, padding=pads)), bias))
    outputs = conv2d(images, kernel, bias, padding=pads, implementation=name)
    return jax.nn.relu(max_pool2d(outputs, implementation=name))


def _choose(images: Array, kernel: Array, implementation: str | None = None) -> str:
    """Returns the implementation to run; the kernel has the dtype of the computation."""
    terms = kernel.shape[0] * kernel.shape[1] * kernel.shape[2]
    direct = None if terms <= MOST_TERMS else f"it takes at most {MOST_TERMS} numbers a feature; got {terms}"
    winograd = convolution_winograd.winograd_obstacle(kernel)
    obstacles = {"xla": None, "separate": None, "direct": direct, "winograd": winograd, "stacked": None}
    preferred = _preferred(images, kernel, obstacles)
    shape_class = pooled_convolution_class(images.shape, kernel.shape)
    return select_implementation(
        "conv2d_relu_max_pool", implementation, obstacles, preferred, shape_class=shape_class, dtype=kernel.dtype
    )


def _preferred(images: Array, kernel: Array, obstacles: dict[str, str | None]) -> str:
    if on_platform("tpu"):
        # With more channels four times the features are more work than the windows cost.
        few = images.shape[0] <= _MOST_IMAGES_FOR_STACKED * count_batch_devices()
        return "stacked" if few and obstacles["direct"] is None else "separate"
    if on_platform("gpu"):
        return "stacked" if kernel.shape[2] <= _MOST_CHANNELS_FOR_STACKED else "separate"
    if obstacles["direct"] is None and kernel.shape[0] * kernel.shape[1] > 1:
        return "direct"
    wide = min(kernel.shape[2:]) >= _FEWEST_FOR_WINOGRAD
    return "winograd" if wide and obstacles["winograd"] is None else "separate"


def _examples(size: Sequence[int], kernel: Array) -> int:
    return _OUTPUTS_PER_STEP // max(1, math.prod(size) * kernel.shape[-1])


def _output_sizes(size: Sequence[int], kernels: Sequence[Array], padding: Padding) -> list[tuple[int, int]]:
    """Returns height and width of each stage's convolution."""
    sizes = []
    for kernel in kernels:
        sizes.append(_output_size(size, kernel, resolve_padding(padding, size, kernel.shape[:2], (1, 1))))
        size = [side // 2 for side in sizes[-1]]
    return sizes


def _output_size(size: Sequence[int], kernel: Array, pads: Pads) -> tuple[int, int]:
    height, width = (size[axis] + sum(pads[axis]) - kernel.shape[axis] + 1 for axis in (0, 1))
    return height, width


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _pooled(images: Array, kernel: Array, bias: Array, pads: Pads, method: str) -> Array:
    return _POOL[method](images, kernel, bias, pads, False)[0]


def _forward(
    images: Array, kernel: Array, bias: Array, pads: Pads, method: str
) -> tuple[Array, tuple[Array, Array, Array]]:
    pooled, codes = _POOL[method](images, kernel, bias, pads, True)
    return pooled, (images, kernel, codes)


def _backward(
    pads: Pads, method: str, residuals: tuple[Array, Array, Array], gradient: Array
) -> tuple[Array, Array, Array]:
    images, kernel, codes = residuals
    wide = jnp.promote_types(gradient.dtype, jnp.float32)
    bias_gradient = jnp.where(codes < NO_PLACE, gradient, 0).sum((0, 1, 2), dtype=wide).astype(gradient.dtype)
    if method == "stacked":
        image_gradient, kernel_gradient = stacked_gradients(images, kernel, codes, gradient, pads)
        return image_gradient, kernel_gradient, bias_gradient
    spread = spread_by_code(codes, gradient)
    # Outputs that fill no window have no gradient: as if less were padded below and to the right.
    cut = [
        (low, 2 * count - 1 + span - low - image)
        for (low, _), count, span, image in zip(
            pads, codes.shape[1:3], kernel.shape[:2], images.shape[1:3], strict=True
        )
    ]
    plainly = partial(convolution_taps.image_gradient, size=(images.shape[1], images.shape[2]))
    if method == "direct":
        kernel_gradient = patches_kernel_gradient(images, codes, gradient, kernel.shape, pads)
        image_gradient = plainly(spread, kernel, (cut[0], cut[1]))
    else:
        kernel_gradient = convolution_winograd.kernel_gradient(images, spread, (cut[0], cut[1]))
        many = kernel.shape[2] >= _FEWEST_FOR_IMAGE_GRADIENT
        by_tiles_or_plainly = convolution_winograd.image_gradient if many else plainly
        image_gradient = by_tiles_or_plainly(spread, kernel, (cut[0], cut[1]))
    return image_gradient, kernel_gradient.astype(kernel.dtype), bias_gradient


_pooled.defvjp(_forward, _backward)


def _pool_direct(images: Array, kernel: Array, bias: Array, pads: Pads, needs_codes: bool) -> tuple[Array, ...]:
    """Runs the direct loop as a branch, or else XLA repeats it within every operation that reads the result."""

    def loop(images: Array, kernel: Array, bias: Array) -> tuple[Array, ...]:
        return pool_direct(images, kernel, bias, pads)[: 1 + needs_codes]

    def plain(images: Array, kernel: Array, bias: Array) -> tuple[Array, ...]:
        outputs = conv2d(images, kernel, padding=pads, implementation="xla")
        candidates = window_places(outputs)
        return largest_after_relu(candidates, bias)[: 1 + needs_codes]

    # Both compute the same; which one runs must not be known before the run.
    return lax.cond(jnp.isnan(bias[0]), plain, loop, images, kernel, bias)


def _pool_winograd(images: Array, kernel: Array, bias: Array, pads: Pads, needs_codes: bool) -> tuple[Array, ...]:
    height, width = (size // 2 for size in _output_size(images.shape[1:3], kernel, pads))
    rows, columns = winograd.count_tiles(2 * height), winograd.count_tiles(2 * width)
    padded = convolution_winograd.pad_to_tiles(images, pads, rows, columns)
    places = winograd.multiply(winograd.transform_inputs(padded, rows, columns), winograd.transform_kernel(kernel))

    def pool(row: int, column: int) -> tuple[Array, Array]:
        window = [places[2 * row + top][2 * column + left] for top in (0, 1) for left in (0, 1)]
        return largest_after_relu(window, bias)

    pools = [[pool(row, column) for column in (0, 1)] for row in (0, 1)]
    parts = range(1 + needs_codes)
    grids = [[[pair[part] for pair in line] for line in pools] for part in parts]
    return tuple(winograd.assemble(grid, images.shape[0], rows, columns)[:, :height, :width] for grid in grids)


def _pool_stacked(images: Array, kernel: Array, bias: Array, pads: Pads, needs_codes: bool) -> tuple[Array, ...]:
    height, width = _output_size(images.shape[1:3], kernel, pads)
    return pool_stacked(images, kernel, bias, pads, (height // 2, width // 2))[: 1 + needs_codes]


_POOL = {"direct": _pool_direct, "winograd": _pool_winograd, "stacked": _pool_stacked}
