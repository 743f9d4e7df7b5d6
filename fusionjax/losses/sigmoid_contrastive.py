"""The pairwise sigmoid loss of SigLIP."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Shaped

from fusionjax.losses.cross_entropy import Loss
from fusionjax.losses.forms import (
    Pairs,
    both_sides,
    feature_gradients,
    is_wrong_pair,
    own_similarities,
    per_pair_loss,
    similarities,
)
from fusionjax.losses.pairs import over_pairs


def sigmoid_contrastive(
    images: Float[Array, "batch features"],
    texts: Float[Array, "texts text_features"],
    scale: Float[Array, ""] | float,
    bias: Float[Array, ""] | float,
    *,
    mask: Shaped[Array, " pairs"] | None = None,
    implementation: str | None = None,
    chunk_size: int = 512,
    mesh: Mesh | None = None,
    axis_name: str | None = None,
) -> Loss:
    """Computes the loss of telling for each image and each text whether they belong together.

    With s_ij = scale x images_i . texts_j + bias, the loss of image i is
    softplus(-s_ii) + sum_{j != i} softplus(s_ij): one yes-or-no question for each pair, so that no sum over the batch
    has to be known first. The forms are those of `info_nce`.

    Args:
        images: features, of length 1 in SigLIP; any floating dtype, summed in float32.
        texts: features of each image's text.
        scale: SigLIP starts at 10.
        bias: SigLIP starts at -10, since nearly all pairs are wrong ones.
        mask: True = counted; a pair that does not count is nobody's wrong answer either.
        implementation: the form; None takes the ring where there is one, else the plain form up to 1,024 pairs.
        chunk_size: rows and columns of a block.
        mesh: for global arrays under `jit`: the devices that the batch is split over.
        axis_name: inside `pmap` or `shard_map`: the axis of the ring, for the features of this device; with a mesh of
            several axes, which one.

    Returns:
        `Loss(total, weight)`, float32; the weight is the number of pairs that count. Inside `pmap` or `shard_map` these
        are this device's share, to be summed.

    Raises:
        ValueError: shapes do not fit, the batch does not divide over the mesh, or the form lacks its mesh.
        TypeError: the mask is not boolean.

    Example:
        >>> features = jnp.eye(3)
        >>> round(float(sigmoid_contrastive(features, features, 10.0, -10.0).mean), 4)
        0.6932

    References:
        Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023, arXiv:2303.15343, eq. 2 and section 3.3.
    """
    return per_pair_loss(
        _plain,
        _pair_losses,
        images,
        texts,
        (scale, bias),
        mask=mask,
        implementation=implementation,
        chunk_size=chunk_size,
        mesh=mesh,
        axis_name=axis_name,
    )


def _plain(images: jax.Array, texts: jax.Array, counts: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    rows, columns = both_sides(images, texts, counts, None)
    scores = scale * similarities(rows, columns) + bias
    wrong = jnp.where(is_wrong_pair(rows, columns), jax.nn.softplus(scores), 0.0)
    return wrong.sum(axis=1) + jax.nn.softplus(-jnp.diagonal(scores))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _pair_losses(
    images: jax.Array,
    texts: jax.Array,
    counts: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    chunk_size: int,
    axis_name: str | None,
) -> jax.Array:
    return _forward(images, texts, counts, scale, bias, chunk_size, axis_name)[0]


def _forward(
    images: jax.Array,
    texts: jax.Array,
    counts: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    chunk_size: int,
    axis_name: str | None,
) -> tuple[jax.Array, Any]:
    def block(rows: Pairs, columns: Pairs, of_rows: jax.Array, of_columns: Any) -> tuple[jax.Array, Any]:
        scores = scale * similarities(rows, columns) + bias
        wrong = jnp.where(is_wrong_pair(rows, columns), jax.nn.softplus(scores), 0.0)
        return of_rows + wrong.sum(axis=1), of_columns

    rows, columns = both_sides(images, texts, counts, axis_name)
    wrong, _ = over_pairs(
        block, rows, columns, jnp.zeros_like(counts), None, chunk_size=chunk_size, axis_name=axis_name
    )
    own = scale * own_similarities(images, texts) + bias
    return wrong + jax.nn.softplus(-own), (images, texts, counts, scale, bias, own)


def _backward(chunk_size: int, axis_name: str | None, saved: Any, slopes: jax.Array) -> tuple[Any, ...]:
    images, texts, counts, scale, bias, own = saved
    slopes = slopes * counts

    def block(rows: Any, columns: Pairs, of_rows: Any, of_columns: jax.Array) -> tuple[Any, jax.Array]:
        (row, slope), (of_row, of_bias) = rows, of_rows
        scores = scale * similarities(row, columns) + bias
        shares = slope[:, None] * jnp.where(is_wrong_pair(row, columns), jax.nn.sigmoid(scores), 0.0)
        added = feature_gradients(shares, row, columns)
        return (of_row + added[0], of_bias + shares.sum(axis=1)), of_columns + added[1]

    rows, columns = both_sides(images, texts, counts, axis_name)
    zeros = jnp.zeros(images.shape, jnp.float32)
    (of_images, of_bias), of_texts = over_pairs(
        block,
        (rows, slopes),
        columns,
        (zeros, jnp.zeros_like(counts)),
        zeros,
        chunk_size=chunk_size,
        axis_name=axis_name,
    )
    missing = slopes * jax.nn.sigmoid(-own)
    of_images -= missing[:, None] * texts.astype(jnp.float32)
    of_texts -= missing[:, None] * images.astype(jnp.float32)
    of_scale = (of_images * images.astype(jnp.float32)).sum()
    return (
        (scale * of_images).astype(images.dtype),
        (scale * of_texts).astype(texts.dtype),
        jnp.zeros_like(counts),
        of_scale,
        (of_bias - missing).sum(),
    )


_pair_losses.defvjp(_forward, _backward)
