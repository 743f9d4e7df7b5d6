"""Max-pooling that remembers where each maximum was."""

import itertools
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, UInt8

from fusionjax.ops.implementations import on_platform
from fusionjax.ops.shifts import Pair, pad_images, shift_images

NO_PLACE = 4  # the code of a 2x2 window whose maximum ReLU cut off
MOST_PLACES = 25  # of a window; more can take seconds to compile

_Residuals = tuple[Array, Array]  # the codes, and an empty array that carries the images' shape


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool2d_codes(
    images: Float[Array, "batch height width channels"], window: Pair, strides: Pair
) -> Float[Array, "batch out_height out_width channels"]:
    """Takes the maximum of every window; see `fusionjax.ops.max_pool2d`.

    Args:
        images: `[batch, height, width, channels]`.
        window: height and width, of at most `MOST_PLACES` pixels.
        strides: steps between windows.

    Returns:
        `[batch, (height - window) // stride + 1, likewise, channels]`.
    """
    if on_platform("cpu"):
        # Twice as fast as XLA's own loop for windows of 2x2, and six times for 3x3.
        return _largest(window_places(images, window, strides))
    return lax.reduce_window(images, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), "VALID")


def _forward(images: Array, window: Pair, strides: Pair) -> tuple[Array, _Residuals]:
    largest, codes = largest_of_places(window_places(images, window, strides))
    return largest, (codes, images[:0])


def _backward(window: Pair, strides: Pair, residuals: _Residuals, gradient: Array) -> tuple[Array]:
    codes, empty = residuals
    if on_platform("gpu") and window == strides == (2, 2):
        # One kernel that reads each code once.
        return (_crop(spread_by_code(codes, gradient), empty.shape),)
    (above, before) = (count - 1 for count in _count_cells(window, strides))
    pads = ((above, above), (before, before))
    codes, gradient = pad_images(codes, pads), pad_images(gradient, pads)
    phases = [
        [_sum_phase(codes, gradient, (row, column), window, strides) for column in range(min(strides[1], window[1]))]
        for row in range(min(strides[0], window[0]))
    ]
    return (_crop(_interleave(phases, strides), empty.shape),)


max_pool2d_codes.defvjp(_forward, _backward)


def window_places(
    images: Float[Array, "batch height width channels"], window: Pair = (2, 2), strides: Pair = (2, 2)
) -> list[Float[Array, "batch rows columns channels"]]:
    """Returns each place of every whole window, in reading order.

    Args:
        images: `[batch, height, width, channels]`.
        window: height and width.
        strides: steps between windows.

    Returns:
        As many arrays `[batch, (height - window) // stride + 1, likewise, channels]` as a window has pixels.
    """
    rows, columns = ((images.shape[1 + axis] - window[axis]) // strides[axis] + 1 for axis in (0, 1))
    places = itertools.product(range(window[0]), range(window[1]))
    return [shift_images(images, place, (rows, columns), strides) for place in places]


def largest_of_places(
    candidates: Sequence[Float[Array, "*shape"]],
) -> tuple[Float[Array, "*shape"], UInt8[Array, "..."]]:
    """Returns the largest of some arrays at each place, and which one it is; the first of equals.

    Args:
        candidates: arrays `[..., features]`: the places of a window in reading order.

    Returns:
        The largest, and codes from 0 on of the same shape.
    """
    largest = _largest(candidates)
    last = len(candidates) - 1
    codes = jnp.full(largest.shape, last, jnp.uint8)
    for code in reversed(range(last)):
        codes = jnp.where(largest == candidates[code], jnp.uint8(code), codes)
    return largest, codes


def largest_after_relu(
    candidates: Sequence[Float[Array, "*shape"]], bias: Float[Array, " features"]
) -> tuple[Float[Array, "*shape"], UInt8[Array, "..."]]:
    """Adds a bias to the largest of four arrays and takes ReLU, which keeps the order.

    Args:
        candidates: four arrays, as of `largest_of_places`.
        bias: `[features]`.

    Returns:
        max(largest + bias, 0), and codes 0 to 3, or `NO_PLACE` where ReLU gave zero.
    """
    largest, codes = largest_of_places(candidates)
    biased = largest + bias
    return jnp.maximum(biased, 0), jnp.where(biased > 0, codes, jnp.uint8(NO_PLACE))


def spread_by_code(
    codes: UInt8[Array, "batch rows columns features"], gradient: Float[Array, "batch rows columns features"]
) -> Float[Array, "batch height width features"]:
    """Puts each 2x2 window's gradient at the place of its maximum, and zero at the others.

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


def _largest(candidates: Sequence[Array]) -> Array:
    while len(candidates) > 1:
        pairs = itertools.zip_longest(candidates[::2], candidates[1::2])
        candidates = [left if right is None else jnp.maximum(left, right) for left, right in pairs]
    return candidates[0]


def _count_cells(window: Pair, strides: Pair) -> Pair:
    """Counts the cells, one step high and wide, that a window has pixels in; and so the windows that reach a cell."""
    return -(-window[0] // strides[0]), -(-window[1] // strides[1])


def _sum_phase(codes: Array, gradient: Array, phase: Pair, window: Pair, strides: Pair) -> Array:
    """Sums what the windows give to the pixel at one place of each cell; codes and gradient have zeros around them."""
    reach = _count_cells(window, strides)
    cells = (gradient.shape[1] - reach[0] + 1, gradient.shape[2] - reach[1] + 1)
    # Over the windows in float32 at least.
    wide = jnp.promote_types(gradient.dtype, jnp.float32)
    total = jnp.zeros((gradient.shape[0], *cells, gradient.shape[3]), wide)
    for row, column in itertools.product(*(range(phase[axis], window[axis], strides[axis]) for axis in (0, 1))):
        start = (reach[0] - 1 - row // strides[0], reach[1] - 1 - column // strides[1])
        is_largest = shift_images(codes, start, cells, (1, 1)) == row * window[1] + column
        total = total + jnp.where(is_largest, shift_images(gradient, start, cells, (1, 1)), 0)
    return total.astype(gradient.dtype)


def _interleave(phases: Sequence[Sequence[Array]], strides: Pair) -> Array:
    """Puts the pixels of each cell side by side, and zeros where no window has any.

    Stacked, not spread by padding: what reads the result, such as ReLU's gradient, then runs up to twice as fast.
    """
    batch, rows, columns, channels = phases[0][0].shape
    # [batch, rows, phases, columns, phases, channels]
    cells = jnp.stack([jnp.stack(line, 3) for line in phases], 2)
    gaps = [(0, 0, 0)] * 6
    for axis, stride in zip((2, 4), strides, strict=True):
        gaps[axis] = (0, stride - cells.shape[axis], 0)
    cells = lax.pad(cells, jnp.zeros((), cells.dtype), gaps)
    # [batch, rows * stride, columns * stride, channels]
    return cells.reshape(batch, rows * strides[0], columns * strides[1], channels)


def _crop(images: Array, shape: Sequence[int]) -> Array:
    """Takes rows and columns away below and to the right, or adds zeros there."""
    return pad_images(images, ((0, shape[1] - images.shape[1]), (0, shape[2] - images.shape[2])))
