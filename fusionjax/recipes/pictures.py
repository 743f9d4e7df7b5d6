"""Pictures for a report: embedded in the page, alone or under the heat map of where a model looked."""

import base64
import io

import numpy as np
from numpy.typing import NDArray

from fusionjax._extras import require

# Nine steps of matplotlib's "inferno", whose lightness rises evenly from black to pale yellow.
_INFERNO = np.array(
    [
        (0, 0, 4),
        (31, 12, 72),
        (85, 15, 109),
        (136, 34, 106),
        (186, 54, 85),
        (227, 89, 51),
        (249, 140, 10),
        (249, 201, 50),
        (252, 255, 164),
    ],
    dtype=np.float32,
)
_WEAKEST, _STRONGEST = 0.4, 0.7  # how much the colours hide of the picture


def check_picture(image: NDArray[np.uint8]) -> None:
    """Checks that an array is one colour picture.

    Args:
        image: `[height, width, 3]` uint8.

    Raises:
        ValueError: it has another shape.
        TypeError: it has another dtype.
    """
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            f"image must have shape [height, width, 3]; got {image.shape}. "
            "Pass one colour picture, without a batch axis."
        )
    if image.dtype != np.uint8:
        raise TypeError(f"image must be uint8, 0 to 255; got {image.dtype}. Scale and cast it.")


def embed_picture(image: NDArray[np.uint8], *, longest: int = 320) -> str:
    """Encodes a picture as a JPEG in a data URI, which a page shows without any other file.

    Args:
        image: `[height, width, 3]` uint8.
        longest: length in pixels to which the longer side is scaled.

    Returns:
        The URI, `data:image/jpeg;base64,...`.

    Example:
        >>> import numpy as np
        >>> embed_picture(np.zeros((2, 3, 3), np.uint8))[:23]
        'data:image/jpeg;base64,'
    """
    buffer = io.BytesIO()
    pillow = require("PIL.Image", extra="data")
    pillow.fromarray(scale_picture(image, longest)).save(buffer, format="JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def scale_picture(image: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """Scales a picture so that its longer side has a given length; the sides keep their ratio.

    Args:
        image: `[height, width, 3]` uint8.
        longest: length of the longer side, in pixels.

    Returns:
        The scaled picture, uint8.

    Example:
        >>> import numpy as np
        >>> scale_picture(np.zeros((2, 4, 3), np.uint8), 8).shape
        (4, 8, 3)
    """
    pillow = require("PIL.Image", extra="data")
    factor = longest / max(image.shape[:2])
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    return np.asarray(pillow.fromarray(image).resize((width, height), pillow.Resampling.BICUBIC))


def overlay_attention(
    image: NDArray[np.uint8], weights: NDArray[np.floating], *, longest: int = 168
) -> NDArray[np.uint8]:
    """Lays a heat map over a picture and rings the middle of the cell of the highest weight.

    The weights are spread smoothly (bicubic) over the picture and coloured from 0 (black) to their highest (pale
    yellow); the colours hide more of the picture where the weights are high.

    Args:
        image: `[height, width, 3]` uint8.
        weights: of the cells of the picture, `[rows, columns]`, not negative.
        longest: length in pixels of the result's longer side.

    Returns:
        The picture under its heat map, uint8.

    Example:
        >>> import numpy as np
        >>> overlay_attention(np.zeros((6, 6, 3), np.uint8), np.eye(2), longest=12).shape
        (12, 12, 3)
    """
    pillow, drawing = require("PIL.Image", extra="data"), require("PIL.ImageDraw", extra="data")
    picture = scale_picture(image, longest)
    height, width = picture.shape[:2]
    cells = np.nan_to_num(np.asarray(weights, np.float32))
    heat = np.asarray(pillow.fromarray(cells).resize((width, height), pillow.Resampling.BICUBIC))
    # [height, width, 1]
    heat = np.clip(heat / max(float(cells.max()), 1e-12), 0.0, 1.0)[..., None]
    opacity = _WEAKEST + (_STRONGEST - _WEAKEST) * heat
    blended = (1.0 - opacity) * picture + opacity * colour(heat[..., 0])

    result = pillow.fromarray(np.round(blended).astype(np.uint8))
    row, column = np.unravel_index(int(cells.argmax()), cells.shape)
    middle = ((column + 0.5) * width / cells.shape[1], (row + 0.5) * height / cells.shape[0])
    draw, radius = drawing.Draw(result), longest / 24
    draw.circle(middle, radius + 1, outline=(0, 0, 0), width=3)
    draw.circle(middle, radius, outline=(255, 255, 255), width=1)
    return np.asarray(result)


def colour(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Colours numbers by a map whose lightness rises evenly.

    Args:
        values: any shape, in [0, 1].

    Returns:
        Red, green and blue in [0, 255], in a new last axis; float32.

    Example:
        >>> import numpy as np
        >>> colour(np.array([0.0, 1.0])).tolist()
        [[0.0, 0.0, 4.0], [252.0, 255.0, 164.0]]
    """
    steps = np.linspace(0.0, 1.0, len(_INFERNO))
    channels = [np.interp(values, steps, _INFERNO[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)
