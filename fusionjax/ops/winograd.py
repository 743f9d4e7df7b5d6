"""Winograd's minimal filtering for 3x3 kernels: 36 products for 16 outputs where the plain sum takes 144."""

from collections.abc import Sequence
from functools import reduce
from operator import add

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

SPAN = 3  # height and width of the kernels
TILE = 4  # outputs of a tile, vertically and horizontally; it reads TILE + 2 inputs each way

# The matrices B^T, G and A^T of F(4, 3), with the interpolation points 0, 1, -1, 2, -2 and infinity.
_FROM_INPUTS = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_FROM_KERNEL = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
_TO_OUTPUTS = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])

Grid = list[list[Array]]  # [row in the tile][column in the tile], each `[tiles, features]`


def transform_kernel(kernel: Float[Array, "3 3 channels features"]) -> Float[Array, "6 6 channels features"]:
    """Returns G k G^T for every channel and feature, `[6, 6, channels, features]`."""
    both = np.einsum("ai,bj->abij", _FROM_KERNEL, _FROM_KERNEL).reshape(36, 9).astype(np.float32)
    flat = jnp.matmul(both, kernel.reshape(9, -1), precision=lax.Precision.HIGHEST)
    return flat.reshape(6, 6, *kernel.shape[2:])


def transform_kernel_back(
    gradient: Float[Array, "6 6 channels features"],
) -> Float[Array, "3 3 channels features"]:
    """Returns G^T g G: the transpose of `transform_kernel`."""
    both = np.einsum("ai,bj->ijab", _FROM_KERNEL, _FROM_KERNEL).reshape(9, 36).astype(np.float32)
    flat = jnp.matmul(both, gradient.reshape(36, -1), precision=lax.Precision.HIGHEST)
    return flat.reshape(3, 3, *gradient.shape[2:])


def count_tiles(size: int) -> int:
    """Returns how many tiles cover so many outputs."""
    return -(-size // TILE)


def transform_inputs(
    images: Float[Array, "batch height width channels"], rows: int, columns: int
) -> list[Float[Array, "6 tiles channels"]]:
    """Returns B^T d B of every tile d of 6x6 inputs: for each of its rows, `[6 columns, tiles, channels]`.

    Args:
        images: `[batch, TILE * rows + 2, TILE * columns + 2, channels]`.
        rows: of tiles.
        columns: of tiles.

    Returns:
        Six arrays.
    """
    channels = images.shape[3]
    by_row = _combine(_FROM_INPUTS, [_every_fourth(images, row, 1, rows) for row in range(6)])
    tiles = []
    for part in by_row:
        across = _combine(_FROM_INPUTS, [_every_fourth(part, column, 2, columns) for column in range(6)])
        tiles.append(jnp.stack([array.reshape(-1, channels) for array in across]))
    return tiles


def transform_gradient(
    gradient: Float[Array, "batch height width features"], rows: int, columns: int
) -> list[Float[Array, "6 tiles features"]]:
    """Returns A g A^T of every tile g of 4x4 outputs: the transpose of `multiply`'s last step.

    Args:
        gradient: `[batch, TILE * rows, TILE * columns, features]`.
        rows: of tiles.
        columns: of tiles.

    Returns:
        For each of the six rows, `[6 columns, tiles, features]`.
    """
    features = gradient.shape[3]
    by_row = _combine(_TO_OUTPUTS.T, [_every_fourth(gradient, row, 1, rows) for row in range(TILE)])
    tiles = []
    for part in by_row:
        across = _combine(_TO_OUTPUTS.T, [_every_fourth(part, column, 2, columns) for column in range(TILE)])
        tiles.append(jnp.stack([array.reshape(-1, features) for array in across]))
    return tiles


def multiply(tiles: Sequence[Float[Array, "6 tiles channels"]], kernel: Float[Array, "6 6 channels features"]) -> Grid:
    """Returns A^T (U * V) A: the outputs, `[tiles, features]` for each of the 4x4 places in a tile.

    Args:
        tiles: of `transform_inputs`.
        kernel: of `transform_kernel`.

    Returns:
        A list of four rows of four arrays.
    """
    by_row = []
    for row in range(6):
        # [6, tiles, features]
        products = lax.dot_general(tiles[row], kernel[row], (((2,), (1,)), ((0,), (0,))))
        by_row.append(_combine(_TO_OUTPUTS, list(products)))
    # Or else XLA may compute a sum of one direction again in each of the other that takes it.
    by_row = lax.optimization_barrier(by_row)
    by_column = [_combine(_TO_OUTPUTS, [by_row[row][column] for row in range(6)]) for column in range(TILE)]
    return [[by_column[column][row] for column in range(TILE)] for row in range(TILE)]


def multiply_for_kernel(
    tiles: Sequence[Float[Array, "6 tiles channels"]], gradients: Sequence[Float[Array, "6 tiles features"]]
) -> Float[Array, "6 6 channels features"]:
    """Sums over the tiles: the gradient for the transformed kernel.

    Args:
        tiles: of `transform_inputs`.
        gradients: of `transform_gradient`.

    Returns:
        `[6, 6, channels, features]`.
    """
    dimensions = (((1,), (1,)), ((0,), (0,)))
    return jnp.stack([lax.dot_general(left, right, dimensions) for left, right in zip(tiles, gradients, strict=True)])


def assemble(grid: Sequence[Sequence[Array]], batch: int, rows: int, columns: int) -> Array:
    """Puts the places of the tiles beside each other.

    Args:
        grid: `[tiles, features]` for each place in a tile.
        batch: examples.
        rows: of tiles.
        columns: of tiles.

    Returns:
        `[batch, rows * places, columns * places, features]`.
    """
    places, features = len(grid), grid[0][0].shape[-1]
    # [batch, rows, columns, places, features] for each row of places
    joined = [jnp.stack([part.reshape(batch, rows, columns, features) for part in line], 3) for line in grid]
    # [batch, rows, places, columns, places, features]
    return jnp.stack(joined, 2).reshape(batch, rows * places, columns * places, features)


def _combine(matrix: np.ndarray, terms: Sequence[Array]) -> list[Array]:
    """Multiplies a constant matrix with a vector of arrays, without its zeros."""
    return [
        reduce(add, [_scale(float(factor), term) for factor, term in zip(row, terms, strict=True) if factor])
        for row in matrix
    ]


def _scale(factor: float, term: Array) -> Array:
    return term if factor == 1 else -term if factor == -1 else factor * term


def _every_fourth(array: Array, start: int, axis: int, count: int) -> Array:
    return lax.slice_in_dim(array, start, start + TILE * (count - 1) + 1, TILE, axis=axis)
