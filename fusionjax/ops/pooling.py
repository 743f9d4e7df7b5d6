"""Two-dimensional max-pooling."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from fusionjax.ops.dtypes import check_floating
from fusionjax.ops.implementations import on_platform, select_implementation
from fusionjax.ops.pooling_codes import MOST_PLACES, max_pool2d_codes
from fusionjax.ops.shape_classes import pooling_class


def max_pool2d(
    images: Float[Array, "batch height width channels"],
    window: tuple[int, int] = (2, 2),
    *,
    strides: tuple[int, int] | None = None,
    implementation: str | None = None,
) -> Float[Array, "batch out_height out_width channels"]:
    """Takes the maximum of every window; rows and columns that fill no whole window are left out.

    The gradient goes to the first maximum of a window, in reading order.

    Implementations: `"xla"` is XLA's windowed reduction and the reference. `"codes"` keeps the position of each maximum
    as one byte for the gradient, instead of searching again: many times faster on a CPU, for windows (2, 2) twice on a
    GPU. It needs windows of at most 25 pixels and has no forward-mode derivative (`jax.jvp`). None follows the table of
    choices (docs/speed.md); where that has no row: `"codes"` where it applies on a CPU, and for windows and strides
    (2, 2) on a GPU, otherwise `"xla"`.

    Args:
        images: `[batch, height, width, channels]`.
        window: height and width of the windows, in pixels.
        strides: steps between windows; None for the window's own size.
        implementation: `"xla"`, `"codes"`, or None to choose.

    Returns:
        `[batch, (height - window) // stride + 1, likewise, channels]`, in the dtype of the images.

    Raises:
        ValueError: the rank, the window, the strides or the name of the implementation do not fit.
        TypeError: the images are integers.
        NotImplementedError: the named implementation cannot serve this call.

    Example:
        >>> max_pool2d(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0]
        Array([[ 5.,  7.],
               [13., 15.]], dtype=float32)
    """
    strides = window if strides is None else strides
    if images.ndim != 4:
        raise ValueError(
            f"max_pool2d takes images [batch, height, width, channels]; got {images.shape}. Add the missing axes."
        )
    check_floating("max_pool2d", "images", images.dtype)
    if any(np.shape(pair) != (2,) or np.asarray(pair).dtype.kind not in "iu" for pair in (window, strides)):
        raise ValueError(
            f"window and strides must each be two whole numbers; got {window} and {strides}. Write (3, 3) and (2, 2)."
        )
    if min(*window, *strides) < 1:
        raise ValueError(
            f"window and strides must be at least 1; got {window} and {strides}. Use (1, 1) for no change."
        )
    if images.shape[1] < window[0] or images.shape[2] < window[1]:
        raise ValueError(
            f"images must be at least the window's size, {window}; got {images.shape[1:3]}. "
            "Use larger images or fewer poolings."
        )
    window, strides = (window[0], window[1]), (strides[0], strides[1])
    places = window[0] * window[1]
    obstacle = None if places <= MOST_PLACES else f"it takes windows of at most {MOST_PLACES} pixels; got {places}"
    is_preferred = on_platform("cpu") or (on_platform("gpu") and window == strides == (2, 2))
    obstacles = {"xla": None, "codes": obstacle}
    shape_class = pooling_class(images.shape, window, strides)
    chosen = select_implementation(
        "max_pool2d",
        implementation,
        obstacles,
        "codes" if is_preferred else "xla",
        shape_class=shape_class,
        dtype=images.dtype,
    )
    if chosen == "codes":
        return max_pool2d_codes(images, window, strides)
    return lax.reduce_window(images, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), "VALID")
