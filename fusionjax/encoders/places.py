"""Where the tokens of a grid lie."""

import itertools
from collections.abc import Sequence

import numpy as np


def grid_places(grid: Sequence[int]) -> np.ndarray:
    """Gives the coordinates of every token, from -1 to 1 along each axis; 0 where an axis has one place.

    Args:
        grid: of `Features`.

    Returns:
        `[length, axes]`, float32, in the order of the tokens.

    Example:
        >>> grid_places((2, 1)).tolist()
        [[-1.0, 0.0], [1.0, 0.0]]
    """
    axes = [np.linspace(-1, 1, size) if size > 1 else np.zeros(1) for size in grid]
    return np.array(list(itertools.product(*axes)), np.float32)
