"""Learned embeddings of the places of a grid, brought to grids of other sizes."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

Interpolation = Literal["bicubic", "bilinear"]

_SHARPNESS = -0.75  # of the cubic kernel, as PyTorch has it


def resize_positions(
    positions: jax.Array,
    grid: tuple[int, int],
    kept: tuple[jax.Array, jax.Array] | None = None,
    interpolation: Interpolation = "bicubic",
) -> jax.Array:
    """Interpolates embeddings of positions to a grid of another size, or for each image to its part of the grid.

    Place i of n lies at (i + 1/2) m / n - 1/2 among m learned ones, and what would lie beyond the border is the border
    itself. `"bicubic"` weighs the four nearest along each axis by Keys' kernel with a = -0.75, `"bilinear"` the two
    nearest; nothing is smoothed where the grid is smaller. So do PyTorch's `interpolate` and with it transformers.

    Args:
        positions: `[rows, columns, features]`, as learned.
        grid: rows and columns of the result.
        kept: how many rows and how many columns each image has, `[batch]` both, from 1; what lies beyond continues.
            None for all of the grid.
        interpolation: the kind.

    Returns:
        `[*grid, features]`, or `[batch, *grid, features]` with `kept`; float32 at least.

    Raises:
        ValueError: there is no such interpolation.

    Example:
        >>> resize_positions(jnp.array([[[0.0], [4.0]]]), (1, 4), interpolation="bilinear").ravel().tolist()
        [0.0, 1.0, 3.0, 4.0]

    References:
        Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021, arXiv:2010.11929, section 3.2. Keys, "Cubic
        convolution interpolation for digital image processing", 1981, equation 15.
    """
    if interpolation not in get_args(Interpolation):
        raise ValueError(
            f"interpolation must be one of {', '.join(get_args(Interpolation))}; got {interpolation!r}. Choose one."
        )
    learned = positions.astype(jnp.promote_types(positions.dtype, jnp.float32))
    if kept is None and grid == positions.shape[:2]:
        return learned
    sizes = grid if kept is None else kept
    down, across = (
        _weights(have, length, jnp.asarray(size), interpolation)
        for have, length, size in zip(positions.shape[:2], grid, sizes, strict=True)
    )
    # [(batch,) rows, columns, features]
    return jnp.einsum("...rh,...cw,hwf->...rcf", down, across, learned, precision="highest")


def _weights(have: int, length: int, size: jax.Array, interpolation: Interpolation) -> jax.Array:
    """The share of each of `have` learned places in each of `length` places of which `size` are one whole."""
    places = (jnp.arange(length) + 0.5) * (have / size[..., None]) - 0.5
    first = jnp.floor(places)
    away = places - first
    if interpolation == "bilinear":
        shares = {0: 1 - away, 1: away}
    else:
        shares = {-1: _far(1 + away), 0: _near(away), 1: _near(1 - away), 2: _far(2 - away)}
    # [..., length, have]
    return sum(
        (
            share[..., None] * (jnp.clip(first + step, 0, have - 1)[..., None] == jnp.arange(have))
            for step, share in shares.items()
        ),
        start=jnp.zeros((*first.shape, have)),
    )


def _near(away: jax.Array) -> jax.Array:
    """The cubic kernel up to a distance of 1."""
    return ((_SHARPNESS + 2) * away - (_SHARPNESS + 3)) * away * away + 1


def _far(away: jax.Array) -> jax.Array:
    """The cubic kernel between distances of 1 and 2."""
    return ((_SHARPNESS * away - 5 * _SHARPNESS) * away + 8 * _SHARPNESS) * away - 4 * _SHARPNESS
