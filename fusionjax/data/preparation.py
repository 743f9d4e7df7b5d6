"""Photographs at the size that published weights were trained with."""

from typing import Literal, get_args

import numpy as np

from fusionjax._extras import require

Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Rounding = Literal["even", "down"]


def prepare_image(
    image: np.ndarray,
    size: tuple[int, int],
    *,
    shorter_side: int | None = None,
    scaled_size: tuple[int, int] | None = None,
    interpolation: Interpolation,
    rounding: Rounding = "even",
) -> np.ndarray:
    """Scales a photograph and cuts out its centre, as torchvision, timm and transformers do, to the same pixels.

    Scaling averages over the pixels that fall together, as Pillow does. A centre that is larger than the scaled
    photograph is filled up with black.

    Args:
        image: uint8 `[height, width, 3]`.
        size: height and width of the result, in pixels.
        shorter_side: the photograph is scaled until its shorter side has so many pixels, and the centre is cut out.
        scaled_size: the photograph is scaled to this height and width, whatever its shape, and the centre is cut out;
            None, without a shorter side, scales it to `size`.
        interpolation: of the scaling, a filter of Pillow.
        rounding: of the centre's place where it does not lie between pixels: to the `"even"` one, as torchvision and
            timm, or `"down"`, as transformers.

    Returns:
        uint8 `[*size, 3]`.

    Raises:
        ValueError: both a shorter side and a scaled size are given, or the interpolation is unknown.

    Example:
        >>> prepare_image(np.zeros((30, 50, 3), np.uint8), (8, 8), shorter_side=10, interpolation="bilinear").shape
        (8, 8, 3)
    """
    pillow = require("PIL.Image", extra="data")
    if interpolation not in get_args(Interpolation):
        names = ", ".join(get_args(Interpolation))
        raise ValueError(f"interpolation must be one of {names}; got {interpolation!r}. Choose one.")
    if shorter_side is not None and scaled_size is not None:
        raise ValueError(
            f"a photograph is scaled by its shorter side or to a size; got {shorter_side} and {scaled_size}. Leave one."
        )
    rows, columns = image.shape[:2]
    height, width = scaled_size or size
    if shorter_side is not None:
        # The longer side is rounded down.
        height = shorter_side if rows <= columns else shorter_side * rows // columns
        width = shorter_side if columns <= rows else shorter_side * columns // rows
    picture = pillow.fromarray(image).resize((width, height), pillow.Resampling[interpolation.upper()])
    top, left = (_offset(scaled - wanted, rounding) for scaled, wanted in zip((height, width), size, strict=True))
    return np.array(picture.crop((left, top, left + size[1], top + size[0])))


def _offset(spare: int, rounding: Rounding) -> int:
    """Where the centre begins; below 0 where the photograph is smaller than it."""
    if rounding == "down":
        return spare // 2
    return round(spare / 2) if spare > 0 else -(-spare // 2)
