"""Photographs of any kind and size, as uint8 arrays of one size."""

import functools
import io
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fusionjax._extras import require
from fusionjax.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

Fit = Literal["squeeze", "crop", "pad"]

_FITS = ("squeeze", "crop", "pad")
# Formats of pictures alone: others that Pillow knows start programs (EPS) or hold what is no photograph.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "PPM", "JPEG2000", "AVIF", "TGA")
# What the commonest kinds begin with, to tell an image cut inside its header from no image.
_BEGINNINGS = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n", "GIF": b"GIF8"}
_MODES_16_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_open_lock = threading.Lock()


def load_image(
    source: str | Path | bytes | np.ndarray,
    size: int | None = None,
    *,
    fit: Fit = "squeeze",
    max_megapixels: float = 100.0,
) -> np.ndarray:
    """Reads a picture of any common kind as red, green and blue, upright, and brings it to a square of one size.

    Turned as its EXIF orientation says; grey, palette, CMYK, 1-bit and 16-bit pictures become 8-bit RGB; what is
    transparent becomes white; of an animation the first frame is taken. Scaling averages over the pixels that fall
    together (bilinear, antialiased).

    Args:
        source: a path, the bytes of a file, or an array `[height, width]` or `[height, width, 1, 3 or 4]` of uint8,
            uint16, bool, or float in [0, 1].
        size: side of the square result in pixels; None keeps the picture's own size.
        fit: "squeeze" scales both sides to `size`; "crop" keeps the largest square in the middle; "pad" keeps all of
            the picture, in its own proportions, between black bars.
        max_megapixels: the largest picture, in millions of pixels, that is decoded: a small file can hold a huge
            picture.

    Returns:
        uint8 `[size, size, 3]`, or `[height, width, 3]` where `size` is None.

    Raises:
        InputError: the file is missing, empty, truncated, not a picture or too large; the message names it.
        ValueError: `size` or `fit` is not one of the above, or an array's shape or range.
        TypeError: an array's dtype is none of the above.

    Example:
        >>> load_image(np.zeros((10, 20), np.uint8), 8).shape
        (8, 8, 3)
    """
    if fit not in _FITS:
        raise ValueError(f"fit must be one of {', '.join(_FITS)}; got {fit!r}. Choose one of these.")
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1 pixel; got {size}. Give the side of the square in pixels.")
    require("PIL.Image", extra="data")
    if isinstance(source, np.ndarray):
        pixels = _image_from_array(source)
        return np.array(_fit_image(pixels, size, fit))
    name = "image bytes" if isinstance(source, bytes) else str(source)
    data = source if isinstance(source, bytes) else _read_file(Path(source))
    if not data:
        raise InputError(f"{name}: expected an image, got an empty file. Replace or remove it.")
    return _decode(data, name, size, fit, max_megapixels)


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: expected an image, but there is no such file. Check the path.") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: expected an image file, got a folder. Give the path of a picture in it.") from error
    except OSError as error:
        raise InputError(f"{path}: the image cannot be read: {error.strerror}. Check its permissions.") from error


@functools.cache
def _known_formats() -> tuple[str, ...]:
    pillow = require("PIL.Image", extra="data")
    pillow.init()
    return tuple(name for name in _FORMATS if name in pillow.OPEN)


def _open(data: bytes) -> "Image":
    """Reads the header alone. Pillow's own limit of pixels is global and warns; `_decode` checks the size itself."""
    pillow: Any = require("PIL.Image", extra="data")
    formats = _known_formats()
    with _open_lock:
        limit = pillow.MAX_IMAGE_PIXELS
        pillow.MAX_IMAGE_PIXELS = None
        try:
            return pillow.open(io.BytesIO(data), formats=formats)
        finally:
            pillow.MAX_IMAGE_PIXELS = limit


def _decode(data: bytes, name: str, size: int | None, fit: Fit, max_megapixels: float) -> np.ndarray:
    # Pillow's decoders raise errors of a dozen kinds on damaged files, all with the same meaning here.
    try:
        image = _open(data)
    except Exception as error:
        begun = next((kind for kind, start in _BEGINNINGS.items() if data.startswith(start)), None)
        if begun is not None:
            message = (
                f"{name}: the {begun} image is truncated or damaged (its header ends early). Replace or remove it."
            )
            raise InputError(message) from error
        kinds = ", ".join(_known_formats())
        message = (
            f"{name}: expected an image ({kinds}), got a file that is none ({_kind_of(data)}). Replace or remove it."
        )
        raise InputError(message) from error
    megapixels = image.width * image.height / 1e6
    if megapixels > max_megapixels:
        raise InputError(
            f"{name}: expected at most {max_megapixels:g} megapixels, got {image.width} x {image.height} = "
            f"{megapixels:.0f} (a decompression bomb?). Scale it down, or raise max_megapixels if you trust it."
        )
    try:
        if size is not None:
            # JPEG decodes at a half, a quarter or an eighth of its size for almost nothing.
            image.draft(None, (2 * size, 2 * size))
        image.load()
        return np.array(_fit_image(_to_rgb(_turn_upright(image)), size, fit))
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        message = f"{name}: the {image.format} image is truncated or damaged ({reason}). Replace or remove it."
        raise InputError(message) from error


def _kind_of(data: bytes) -> str:
    """Describes what the first bytes look like, for the message."""
    start = data[:32]
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError:
        return f"it begins with the bytes {start[:8].hex(' ')}"
    return (
        f"it begins with {text!r}" if text.isprintable() or text.isspace() else f"it begins with {text.split()[:1]!r}"
    )


def _turn_upright(image: "Image") -> "Image":
    operations = require("PIL.ImageOps", extra="data")
    try:
        return operations.exif_transpose(image)
    except Exception:  # A damaged EXIF block says nothing about the pixels: the picture stays as it is.
        return image


def _to_rgb(image: "Image") -> "Image":
    pillow = require("PIL.Image", extra="data")
    if image.mode in _MODES_16_BIT:
        image = pillow.fromarray((np.clip(np.asarray(image), 0, 65535) // 257).astype(np.uint8))
    elif image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        scale = 255 if values.max(initial=0) <= 1 else 1
        image = pillow.fromarray(np.clip(values * scale + 0.5, 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = pillow.new("RGBA", image.size, "white")
        image = pillow.alpha_composite(white, image)
    return image.convert("RGB")


def _image_from_array(array: np.ndarray) -> "Image":
    pillow = require("PIL.Image", extra="data")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or 0 in array.shape:
        raise ValueError(
            "an image array must have shape [height, width] or [height, width, 1, 3 or 4], none of them 0; got "
            f"{array.shape}. Give one picture at a time, channels last."
        )
    array = _to_uint8(array)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return _to_rgb(pillow.fromarray(np.ascontiguousarray(array)))


def _to_uint8(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return (array // 257).astype(np.uint8)
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if not np.issubdtype(array.dtype, np.floating):
        raise TypeError(
            f"an image array must be uint8, uint16, bool or float in [0, 1]; got {array.dtype}. Convert it to uint8."
        )
    if not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(
            f"a float image must lie in [0, 1]; got {array.min():g} to {array.max():g}. Divide it by its range."
        )
    return (array * 255 + 0.5).astype(np.uint8)


def _fit_image(image: "Image", size: int | None, fit: Fit) -> "Image":
    if size is None:
        return image
    pillow = require("PIL.Image", extra="data")
    bilinear = pillow.Resampling.BILINEAR
    width, height = image.size
    if fit == "squeeze":
        return image.resize((size, size), bilinear)
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return image.resize((size, size), bilinear, box=(left, top, left + side, top + side))
    scale = size / max(width, height)
    inner = image.resize((max(1, round(width * scale)), max(1, round(height * scale))), bilinear)
    square = pillow.new("RGB", (size, size))
    square.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
    return square
