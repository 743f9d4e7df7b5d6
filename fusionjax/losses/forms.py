"""What the contrastive losses share: their forms, the checks of their features, and the ring over a mesh."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from fusionjax.losses.cross_entropy import Loss
from fusionjax.ops import manual_axes

_PLAIN_UP_TO = 1024
LOWEST = -1e30  # A similarity that does not count: its exponential is 0, and differences of two stay finite.


class Pairs(NamedTuple):
    """One side of a batch of pairs, inside the sum over all of them.

    Attributes:
        features: `[count, features]`.
        place: of each pair in the whole batch, int32 `[count]`; the same for its image and its text.
        counts: 1 for what counts, float32 `[count]`.
    """

    features: jax.Array
    place: jax.Array
    counts: jax.Array


def per_pair_loss(
    plain: Callable[..., jax.Array],
    streamed: Callable[..., jax.Array],
    images: jax.Array,
    texts: jax.Array,
    scalars: tuple[jax.Array | float, ...],
    *,
    mask: jax.Array | None,
    implementation: str | None,
    chunk_size: int,
    mesh: Mesh | None,
    axis_name: str | None,
) -> Loss:
    """Checks the inputs of a contrastive loss, computes it in one of its forms, and adds it up.

    Args:
        plain: `(images, texts, counts, *scalars) -> losses [batch]` of the whole matrix of similarities.
        streamed: the same block by block, with `chunk_size` and `axis_name` after the scalars.
        images: `[batch, features]`.
        texts: `[batch, features]`.
        scalars: the learned ones.
        mask: boolean `[batch]`.
        implementation: the form.
        chunk_size: of a block.
        mesh: whose axis `axis_name`, or its only one, the batch is split over.
        axis_name: of the ring.

    Returns:
        The loss.

    Raises:
        ValueError: shapes do not fit, or the form cannot be computed with what is given.
        TypeError: the mask is not boolean.
    """
    form = _form(implementation, len(images), mesh, axis_name)
    _check(images, texts, mask, chunk_size)
    numbers = [jnp.asarray(scalar, jnp.float32) for scalar in scalars]
    counts = jnp.ones(len(images), jnp.float32) if mask is None else mask.astype(jnp.float32)
    if form == "plain":
        losses = plain(images, texts, counts, *numbers)
    elif mesh is None:
        losses = _varying(streamed, chunk_size, axis_name, images, texts, counts, *numbers)
    else:
        axis = _axis(mesh, axis_name, len(images))
        split, copied = PartitionSpec(axis), PartitionSpec()
        losses = jax.shard_map(
            functools.partial(_varying, streamed, chunk_size, axis),
            mesh=mesh,
            in_specs=(split, split, split, *[copied] * len(numbers)),
            out_specs=split,
        )(images, texts, counts, *numbers)
    return Loss(jnp.where(counts > 0, losses, 0.0).sum(), counts.sum())


def _varying(
    streamed: Callable[..., jax.Array], chunk_size: int, axis_name: str | None, *arrays: jax.Array
) -> jax.Array:
    """A scalar that all devices share gets the sum of their gradients."""
    return streamed(*manual_axes.vary_together(*arrays), chunk_size, axis_name)


def both_sides(images: jax.Array, texts: jax.Array, counts: jax.Array, axis_name: str | None) -> tuple[Pairs, Pairs]:
    """The rows and the columns of the sum over all pairs; those of this device, where there is an axis."""
    place = jnp.arange(len(images), dtype=jnp.int32)
    if axis_name is not None:
        place += jax.lax.axis_index(axis_name) * len(images)
    return Pairs(images, place, counts), Pairs(texts, place, counts)


def similarities(rows: Pairs, columns: Pairs) -> jax.Array:
    """The products of all features of a block, `[rows, columns]` in float32."""
    return jax.lax.dot_general(
        rows.features, columns.features, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
    )


def own_similarities(images: jax.Array, texts: jax.Array) -> jax.Array:
    """The product of each image's features with those of its own text, `[batch]` in float32."""
    return (images.astype(jnp.float32) * texts.astype(jnp.float32)).sum(axis=1)


def is_wrong_pair(rows: Pairs, columns: Pairs) -> jax.Array:
    """Whether a pair of a block counts and is not of one example, `[rows, columns]`."""
    counts = (rows.counts[:, None] > 0) & (columns.counts[None, :] > 0)
    return counts & (rows.place[:, None] != columns.place[None, :])


def feature_gradients(slopes: jax.Array, rows: Pairs, columns: Pairs) -> tuple[jax.Array, jax.Array]:
    """What a block adds to the gradients of its rows' and columns' features, by those of the similarities."""
    of_rows = slopes @ columns.features.astype(jnp.float32)
    of_columns = slopes.T @ rows.features.astype(jnp.float32)
    return of_rows, of_columns


def _form(implementation: str | None, count: int, mesh: Mesh | None, axis_name: str | None) -> str:
    has_ring = mesh is not None or axis_name is not None
    if implementation is None:
        return "ring" if has_ring else "plain" if count <= _PLAIN_UP_TO else "chunked"
    if implementation not in ("plain", "chunked", "ring"):
        raise ValueError(f'implementation must be "plain", "chunked" or "ring"; got {implementation!r}. Choose one.')
    if has_ring != (implementation == "ring"):
        given = "one" if has_ring else "neither"
        raise ValueError(
            f"a ring, and nothing else, takes a mesh or the axis_name of one; got {implementation!r} and {given}. "
            'Give both implementation="ring" and the mesh, or leave both out.'
        )
    return implementation


def _axis(mesh: Mesh, axis_name: str | None, count: int) -> str:
    names = mesh.axis_names
    if axis_name not in names and (axis_name is not None or len(names) > 1):
        raise ValueError(
            f"axis_name must be an axis of the mesh, {', '.join(map(str, names))}; got {axis_name!r}. Name the one "
            "that the batch is split over."
        )
    axis = names[0] if axis_name is None else axis_name
    if count % mesh.shape[axis]:
        raise ValueError(
            f"the batch must divide over the {mesh.shape[axis]} devices of the mesh's axis {axis!r}; got {count} "
            "pairs. Fill it up and mask what was added, or change its size."
        )
    return str(axis)


def _check(images: jax.Array, texts: jax.Array, mask: jax.Array | None, chunk_size: int) -> None:
    check_pairs(images, texts)
    check_mask(images, mask)
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1; got {chunk_size}. 512 is the default.")


def check_pairs(images: Any, texts: Any) -> None:
    """Checks that features are those of as many images as texts.

    Args:
        images: `[batch, features]`.
        texts: `[batch, features]`.

    Raises:
        ValueError: they are not.
    """
    if images.ndim != 2 or images.shape != texts.shape:
        raise ValueError(
            "features of images and texts must both have shape [batch, features], one text for each image; got "
            f"{images.shape} and {texts.shape}. Repeat or drop what has no partner, or project to one size."
        )


def check_mask(images: Any, mask: Any) -> None:
    """Checks the mask of pairs.

    Args:
        images: `[batch, features]`.
        mask: boolean `[batch]`, or None.

    Raises:
        ValueError: it has another shape.
        TypeError: it is not boolean.
    """
    if mask is not None and mask.shape != images.shape[:1]:
        raise ValueError(f"mask must have shape [batch] = {images.shape[:1]}; got {mask.shape}. One for each pair.")
    if mask is not None and mask.dtype != jnp.bool_:
        raise TypeError(f"mask must be boolean, True = counted; got {mask.dtype}. Compare, for example weight > 0.")
