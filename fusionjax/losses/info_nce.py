"""InfoNCE, the contrastive loss of CLIP."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Shaped

from fusionjax.losses.cross_entropy import Loss
from fusionjax.losses.forms import (
    LOWEST,
    Pairs,
    both_sides,
    feature_gradients,
    is_wrong_pair,
    own_similarities,
    per_pair_loss,
    similarities,
)
from fusionjax.losses.pairs import over_pairs


def info_nce(
    images: Float[Array, "batch features"],
    texts: Float[Array, "texts text_features"],
    scale: Float[Array, ""] | float,
    *,
    mask: Shaped[Array, " pairs"] | None = None,
    implementation: str | None = None,
    chunk_size: int = 512,
    mesh: Mesh | None = None,
    axis_name: str | None = None,
) -> Loss:
    """Computes the symmetric cross-entropy of finding each text by its image and each image by its text.

    With s_ij = scale x images_i . texts_j, the loss of pair i is
    (logsumexp_j s_ij + logsumexp_j s_ji) / 2 - s_ii. Three forms give the same value and gradients:

    - `"plain"` holds the matrix s, `[batch, batch]`;
    - `"chunked"` holds a block of it at a time, forward and backward, and as many numbers as the features beside it;
    - `"ring"` splits the batch over devices and sends the texts around them; none ever holds all features.

    The streamed forms sum up log(1 + sum_{j != i} exp(s_ij - s_ii)), which stays accurate where a pair is found with
    near certainty. Their second derivatives are not defined.

    Args:
        images: features, of length 1 in CLIP; any floating dtype, summed in float32.
        texts: features of each image's text.
        scale: 1 / temperature; CLIP starts at 1 / 0.07 and holds it at 100 or below.
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
        >>> round(float(info_nce(features, features, 1.0).mean), 4)
        0.5514

    References:
        van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018, arXiv:1807.03748,
        equation 4.
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021,
        arXiv:2103.00020, figure 3.
    """
    return per_pair_loss(
        _plain,
        _pair_losses,
        images,
        texts,
        (scale,),
        mask=mask,
        implementation=implementation,
        chunk_size=chunk_size,
        mesh=mesh,
        axis_name=axis_name,
    )


def _plain(images: jax.Array, texts: jax.Array, counts: jax.Array, scale: jax.Array) -> jax.Array:
    rows, columns = both_sides(images, texts, counts, None)
    scores = scale * similarities(rows, columns)
    scores = jnp.where((counts[:, None] > 0) & (counts[None, :] > 0), scores, LOWEST)
    both = jax.nn.logsumexp(scores, axis=1) + jax.nn.logsumexp(scores, axis=0)
    return both / 2 - jnp.diagonal(scores)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _pair_losses(
    images: jax.Array, texts: jax.Array, counts: jax.Array, scale: jax.Array, chunk_size: int, axis_name: str | None
) -> jax.Array:
    return _forward(images, texts, counts, scale, chunk_size, axis_name)[0]


class _Streams(NamedTuple):
    """The sum of exp(score) over wrong partners as maximum and sum of exp(score - maximum), `[count]` each."""

    maximum: jax.Array
    total: jax.Array

    def add(self, scores: jax.Array, axis: int) -> "_Streams":
        """Adds the scores of a block along an axis."""
        maximum = jnp.maximum(self.maximum, scores.max(axis))
        added = jnp.exp(scores - jnp.expand_dims(maximum, axis)).sum(axis)
        return _Streams(maximum, self.total * jnp.exp(self.maximum - maximum) + added)

    @property
    def log(self) -> jax.Array:
        """The logarithm of the sum; far below any score where it is empty."""
        return self.maximum + jnp.log(self.total)


def _forward(
    images: jax.Array, texts: jax.Array, counts: jax.Array, scale: jax.Array, chunk_size: int, axis_name: str | None
) -> tuple[jax.Array, Any]:
    def block(rows: Pairs, columns: Pairs, of_rows: _Streams, of_columns: _Streams) -> tuple[_Streams, _Streams]:
        scores = jnp.where(is_wrong_pair(rows, columns), scale * similarities(rows, columns), LOWEST)
        return of_rows.add(scores, 1), of_columns.add(scores, 0)

    rows, columns = both_sides(images, texts, counts, axis_name)
    empty = _Streams(jnp.full_like(counts, LOWEST), jnp.zeros_like(counts))
    sums = over_pairs(block, rows, columns, empty, empty, chunk_size=chunk_size, axis_name=axis_name)
    own = scale * own_similarities(images, texts)
    # How far the wrong partners are above the right one: log(sum of exp(s_ij - s_ii)).
    excess = [one.log - own for one in sums]
    losses = (jax.nn.softplus(excess[0]) + jax.nn.softplus(excess[1])) / 2
    return losses, (images, texts, counts, scale, own, excess)


def _backward(chunk_size: int, axis_name: str | None, saved: Any, slopes: jax.Array) -> tuple[Any, ...]:
    images, texts, counts, scale, own, excess = saved
    # log(sum over all partners) of each image and each text
    norms = [own + jax.nn.softplus(one) for one in excess]
    halves = slopes * counts / 2

    def block(rows: Any, columns: Any, of_rows: jax.Array, of_columns: jax.Array) -> tuple[jax.Array, jax.Array]:
        (row, row_norm, row_half), (column, column_norm, column_half) = rows, columns
        scores = jnp.where(is_wrong_pair(row, column), scale * similarities(row, column), LOWEST)
        shares = row_half[:, None] * jnp.exp(scores - row_norm[:, None])
        shares += column_half * jnp.exp(scores - column_norm)
        added = feature_gradients(shares, row, column)
        return of_rows + added[0], of_columns + added[1]

    row, column = both_sides(images, texts, counts, axis_name)
    zeros = jnp.zeros(images.shape, jnp.float32)
    of_images, of_texts = over_pairs(
        block,
        (row, norms[0], halves),
        (column, norms[1], halves),
        zeros,
        zeros,
        chunk_size=chunk_size,
        axis_name=axis_name,
    )
    missing = halves * (jax.nn.sigmoid(excess[0]) + jax.nn.sigmoid(excess[1]))
    of_images -= missing[:, None] * texts.astype(jnp.float32)
    of_texts -= missing[:, None] * images.astype(jnp.float32)
    of_scale = (of_images * images.astype(jnp.float32)).sum()
    return (
        (scale * of_images).astype(images.dtype),
        (scale * of_texts).astype(texts.dtype),
        jnp.zeros_like(counts),
        of_scale,
    )


_pair_losses.defvjp(_forward, _backward)
