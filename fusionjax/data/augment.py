"""Changes of pictures that leave their captions true, for training: crops, flips, colours. uint8 in, uint8 out."""

import math

import numpy as np

from fusionjax._extras import require

# The weights of red, green and blue in the brightness that the eye sees (ITU-R BT.601).
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def random_crop(image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Cuts a square out of a picture, anywhere.

    Args:
        image: `[height, width, channels]`.
        size: side of the square in pixels, at most the picture's smaller side.
        rng: chooses the place.

    Returns:
        `[size, size, channels]`, a view.

    Raises:
        ValueError: the picture is smaller than the square.

    Example:
        >>> random_crop(np.zeros((9, 7, 3), np.uint8), 5, np.random.default_rng(0)).shape
        (5, 5, 3)
    """
    height, width = _check_crop(image, size)
    top, left = int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))
    return image[top : top + size, left : left + size]


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
    """Cuts a square out of the middle of a picture: what evaluation does where training crops at random.

    Args:
        image: `[height, width, channels]`.
        size: side of the square in pixels, at most the picture's smaller side.

    Returns:
        `[size, size, channels]`, a view.

    Raises:
        ValueError: the picture is smaller than the square.

    Example:
        >>> center_crop(np.arange(5)[:, None, None] * np.ones((5, 5, 1), int), 3)[:, 0, 0].tolist()
        [1, 2, 3]
    """
    height, width = _check_crop(image, size)
    top, left = (height - size) // 2, (width - size) // 2
    return image[top : top + size, left : left + size]


def random_flip(image: np.ndarray, rng: np.random.Generator, probability: float = 0.5) -> np.ndarray:
    """Mirrors a picture left to right, some of the time. Not for captions that say left or right.

    Args:
        image: `[height, width, channels]`.
        rng: decides.
        probability: share of the pictures that are mirrored.

    Returns:
        The same shape; a view.

    Example:
        >>> random_flip(np.arange(3).reshape(1, 3, 1), np.random.default_rng(0), probability=1.0).ravel().tolist()
        [2, 1, 0]
    """
    return image[:, ::-1] if rng.random() < probability else image


def random_resized_crop(
    image: np.ndarray,
    size: int,
    rng: np.random.Generator,
    *,
    scale: tuple[float, float] = (0.35, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> np.ndarray:
    """Cuts out a rectangle of a share of the picture's area and brings it to a square.

    Where ten draws give no rectangle that fits, the largest one in the middle that keeps to `ratio` is taken.

    Args:
        image: uint8 `[height, width, 3]`.
        size: side of the result in pixels.
        rng: chooses the rectangle.
        scale: smallest and largest share of the area.
        ratio: smallest and largest width divided by height.

    Returns:
        uint8 `[size, size, 3]`.

    Example:
        >>> random_resized_crop(np.zeros((40, 30, 3), np.uint8), 8, np.random.default_rng(0)).shape
        (8, 8, 3)

    References:
        Szegedy et al., "Going deeper with convolutions", 2015, arXiv:1409.4842, section 6.
    """
    pillow = require("PIL.Image", extra="data")
    height, width = image.shape[:2]
    for _ in range(10):
        area = rng.uniform(*scale) * height * width
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        box_width, box_height = math.sqrt(area * shape), math.sqrt(area / shape)
        if box_width <= width and box_height <= height:
            left, top = rng.uniform(0, width - box_width), rng.uniform(0, height - box_height)
            break
    else:
        box_width, box_height = min(width, height * ratio[1]), min(height, width / ratio[0])
        left, top = (width - box_width) / 2, (height - box_height) / 2
    box = (left, top, min(left + box_width, width), min(top + box_height, height))
    return np.array(pillow.fromarray(image).resize((size, size), pillow.Resampling.BILINEAR, box=box))


def color_jitter(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    brightness: float = 0.2,
    contrast: float = 0.2,
    saturation: float = 0.2,
) -> np.ndarray:
    """Changes brightness, contrast and saturation, each by a factor between 1 - value and 1 + value.

    Contrast is about the picture's mean brightness and saturation about each pixel's own. Not for captions that name
    colours where the values are large.

    Args:
        image: uint8 `[height, width, 3]`.
        rng: chooses the three factors.
        brightness: largest change of the factor, in [0, 1]; 0 leaves it as it is.
        contrast: the same for contrast.
        saturation: the same for saturation.

    Returns:
        uint8, the same shape.

    Raises:
        ValueError: a value is not in [0, 1].

    Example:
        >>> image = np.full((2, 2, 3), 100, np.uint8)
        >>> bool((color_jitter(image, np.random.default_rng(0), brightness=0, contrast=0, saturation=0) == image).all())
        True
    """
    amounts = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    for name, amount in amounts.items():
        if not 0 <= amount <= 1:
            raise ValueError(f"{name} must lie in [0, 1]; got {amount}. It is the largest change of the factor 1.")
    brighter, harder, deeper = (rng.uniform(1 - amount, 1 + amount) for amount in amounts.values())
    pixels = image.astype(np.float32) * brighter
    # [height, width, 1]
    luma = (pixels @ _LUMA)[:, :, None]
    pixels = luma + deeper * (pixels - luma)
    pixels = luma.mean() + harder * (pixels - luma.mean())
    return np.clip(pixels + 0.5, 0, 255).astype(np.uint8)


def _check_crop(image: np.ndarray, size: int) -> tuple[int, int]:
    height, width = image.shape[:2]
    if not 0 < size <= min(height, width):
        raise ValueError(
            f"size must lie in [1, {min(height, width)}], the smaller side of the picture; got {size}. "
            "Load the picture larger than the crop."
        )
    return height, width
