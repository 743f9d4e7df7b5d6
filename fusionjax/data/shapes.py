"""Filled shapes drawn with smooth edges, in NumPy alone."""

import math
from collections.abc import Callable

import numpy as np

_CIRCLE, _SQUARE, _CROSS_LENGTH, _CROSS_WIDTH = 0.93, 0.83, 0.97, 0.36
_TRIANGLE_TOP, _TRIANGLE_BOTTOM, _TRIANGLE_SIDE = 0.95, 0.75, 1.0
# The five half-planes of a five-pointed star with one point up: unit normals, and their distance from the centre.
_STAR_RADIUS = 1.12
_STAR_ANGLES = -math.pi / 2 + 2 * math.pi * np.arange(5) / 5
_STAR_NORMALS = np.stack([np.cos(_STAR_ANGLES), np.sin(_STAR_ANGLES)], axis=1)
_STAR_APOTHEM = _STAR_RADIUS * math.cos(math.radians(72))
_STAR_SIDE = _STAR_RADIUS * math.sin(math.radians(72))
_STAR_BOTTOM = _STAR_RADIUS * math.cos(math.radians(36))


def _circle(across: np.ndarray, down: np.ndarray) -> np.ndarray:
    return _CIRCLE - np.hypot(across, down)


def _square(across: np.ndarray, down: np.ndarray) -> np.ndarray:
    return _SQUARE - np.maximum(np.abs(across), np.abs(down))


def _triangle(across: np.ndarray, down: np.ndarray) -> np.ndarray:
    height = _TRIANGLE_TOP + _TRIANGLE_BOTTOM
    slope = math.hypot(height, _TRIANGLE_SIDE)
    # The distance from the two slanted sides, then from the base.
    slanted = ((down + _TRIANGLE_TOP) * _TRIANGLE_SIDE - np.abs(across) * height) / slope
    return np.minimum(slanted, _TRIANGLE_BOTTOM - down)


def _cross(across: np.ndarray, down: np.ndarray) -> np.ndarray:
    across, down = np.abs(across), np.abs(down)
    upright = np.minimum(_CROSS_LENGTH - down, _CROSS_WIDTH - across)
    flat = np.minimum(_CROSS_LENGTH - across, _CROSS_WIDTH - down)
    return np.maximum(upright, flat)


def _star(across: np.ndarray, down: np.ndarray) -> np.ndarray:
    normals = _STAR_NORMALS
    # [5, height, width]; a point is in the star if it is inside at least four of the five half-planes.
    distances = _STAR_APOTHEM - (normals[:, 0, None, None] * across + normals[:, 1, None, None] * down)
    return np.partition(distances, 1, axis=0)[1]


# name: the signed distance from the edge (positive inside, radius 1); how far it reaches left, up, right and down.
_SHAPES: dict[str, tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], tuple[float, float, float, float]]] = {
    "circle": (_circle, (_CIRCLE, _CIRCLE, _CIRCLE, _CIRCLE)),
    "square": (_square, (_SQUARE, _SQUARE, _SQUARE, _SQUARE)),
    "triangle": (_triangle, (_TRIANGLE_SIDE, _TRIANGLE_TOP, _TRIANGLE_SIDE, _TRIANGLE_BOTTOM)),
    "cross": (_cross, (_CROSS_LENGTH, _CROSS_LENGTH, _CROSS_LENGTH, _CROSS_LENGTH)),
    "star": (_star, (_STAR_SIDE, _STAR_RADIUS, _STAR_SIDE, _STAR_BOTTOM)),
}

SHAPES: tuple[str, ...] = tuple(_SHAPES)


def shape_box(shape: str, center: tuple[float, float], radius: float) -> tuple[float, float, float, float]:
    """Computes the tight box (left, top, right, bottom) of a shape around `center` (across, down), in the same units.

    Example:
        >>> shape_box("square", (10.0, 20.0), 1.0)
        (9.17, 19.17, 10.83, 20.83)
    """
    left, top, right, bottom = _SHAPES[shape][1]
    across, down = center
    return (across - left * radius, down - top * radius, across + right * radius, down + bottom * radius)


def paint_shape(
    canvas: np.ndarray, shape: str, color: np.ndarray, center: tuple[float, float], radius: float
) -> tuple[float, float, float, float]:
    """Paints a filled shape over a picture, in place, the edges blended by the share of each pixel that it covers.

    The share is the signed distance of the pixel's centre from the edge, plus a half, clipped to [0, 1]: no
    oversampling.

    Args:
        canvas: the picture `[height, width, 3]`, float; changed in place.
        shape: a name out of `SHAPES`.
        color: `[3]`, in the canvas's range.
        center: pixels from the left and from the top.
        radius: pixels; every shape fits in a circle of little more than this radius.

    Returns:
        The box (left, top, right, bottom) of the shape, in pixels.

    Example:
        >>> canvas = np.zeros((5, 5, 3))
        >>> _ = paint_shape(canvas, "square", np.ones(3), center=(2.5, 2.5), radius=1.9)
        >>> canvas[2, :, 0].round(2).tolist()
        [0.08, 1.0, 1.0, 1.0, 0.08]
    """
    box = shape_box(shape, center, radius)
    left, top = max(math.floor(box[0]) - 1, 0), max(math.floor(box[1]) - 1, 0)
    right, bottom = min(math.ceil(box[2]) + 1, canvas.shape[1]), min(math.ceil(box[3]) + 1, canvas.shape[0])
    across = (np.arange(left, right, dtype=np.float32) + 0.5 - center[0])[None, :] / radius
    down = (np.arange(top, bottom, dtype=np.float32) + 0.5 - center[1])[:, None] / radius
    cover = np.clip(_SHAPES[shape][0](across, down) * radius + 0.5, 0, 1)[:, :, None]
    window = canvas[top:bottom, left:right]
    window += cover * (color - window)
    return box
