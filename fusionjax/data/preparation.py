"""Photographs at the size that published weights were trained with."""

from typing import Literal

import numpy as np

from fusionjax._extras import require

Interpolation = Literal["bilinear", "bicubic", "lanczos"]


def prepare_image(
    image: np.ndarray, size: tuple[int, int], *, shorter_side: int | None = None, interpolation: Interpolation
) -> np.ndarray:
    """Scales a photograph and cuts out its centre, as torchvision and transformers do, to the same pixels.

    Scaling averages over the pixels that fall together, as Pillow does. Where the centre does not lie between pixels,
    torchvision's rounding is taken.

    Args:
        image: uint8 `[height, width, 3]`.
        size: height and width of the result, in pixels.
        shorter_side: the photograph is scaled until its shorter side has so many pixels, and the centre is cut out;
            None scales it to `size`, whatever its shape.
        interpolation: of the scaling.

    Returns:
        uint8 `[*size, 3]`.

    Raises:
        ValueError: the centre does not fit into the scaled photograph, or the interpolation is unknown.

    Example:
        >>> prepare_image(np.zeros((30, 50, 3), np.uint8), (8, 8), shorter_side=10, interpolation="bilinear").shape
        (8, 8, 3)
    """
    pillow = require("PIL.Image", extra="data")
    if interpolation not in ("bilinear", "bicubic", "lanczos"):
        raise ValueError(f"interpolation must be bilinear, bicubic or lanczos; got {interpolation!r}. Choose one.")
    method = pillow.Resampling[interpolation.upper()]
    height, width = size
    picture = pillow.fromarray(image)
    if shorter_side is None:
        return np.array(picture.resize((width, height), method))
    if shorter_side < max(size):
        raise ValueError(
            f"a centre of {height}x{width} needs a shorter side of {max(size)}; got {shorter_side}. Enlarge."
        )
    rows, columns = image.shape[:2]
    # The longer side is rounded down.
    if rows <= columns:
        scaled = (max(1, shorter_side * columns // rows), shorter_side)
    else:
        scaled = (shorter_side, max(1, shorter_side * rows // columns))
    picture = picture.resize(scaled, method)
    left, top = round((scaled[0] - width) / 2), round((scaled[1] - height) / 2)
    return np.array(picture.crop((left, top, left + width, top + height)))
