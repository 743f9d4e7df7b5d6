"""Recall and ranks of retrieval between images and texts, without the matrix of their similarities."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

RECALLS = (1, 5, 10)


class RetrievalRanks(NamedTuple):
    """The place of the first right answer to every query, from 1.

    Attributes:
        image_to_text: int64 `[images]`: of the best-placed of the image's texts among all texts.
        text_to_image: int64 `[texts]`: of the text's image among all images.
    """

    image_to_text: np.ndarray
    text_to_image: np.ndarray


def retrieval_ranks(
    images: Any, texts: Any, image_of_text: Any, *, block_size: int = 1024, mesh: Mesh | None = None
) -> RetrievalRanks:
    """Ranks all texts for each image and all images for each text by the products of their features.

    A rank is 1 + the number of wrong answers that score at least as much as the best right one, so that ties count
    against the model and equal features for everything find nothing. The products are computed once for both
    directions, a block of `[block_size, block_size]` at a time: beside the features, memory holds a few numbers for
    each image and text. Blocks in which an image meets a text of its own are computed once more, before the others.

    Args:
        images: features `[images, features]`, of length 1 to rank by the cosine.
        texts: features `[texts, features]`.
        image_of_text: integers `[texts]`: which image each text belongs to. Every image needs one text or more.
        block_size: images, and texts, of a block.
        mesh: of one axis: the devices that the images are split over; each holds all texts. None takes one device.

    Returns:
        The ranks.

    Raises:
        ValueError: shapes or counts do not fit, an image has no text, or features are not finite.

    Example:
        >>> images, texts = np.eye(2), np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> ranks = retrieval_ranks(images, texts, [0, 1, 1])
        >>> ranks.image_to_text.tolist(), ranks.text_to_image.tolist()
        ([1, 1], [1, 2, 1])

    References:
        Faghri et al., "VSE++: Improving Visual-Semantic Embeddings with Hard Negatives", 2018, arXiv:1707.05612,
        section 4.1, for the measures.
    """
    owners = np.asarray(image_of_text)
    _check(images, texts, owners, block_size)
    devices = 1 if mesh is None else mesh.size
    num_images, num_texts = len(images), len(texts)
    rows = min(block_size, -(-num_images // devices))
    columns = min(block_size, num_texts)
    row_blocks = -(-num_images // (rows * devices))
    column_blocks = -(-num_texts // columns)
    filled_images = _fill(images, rows * devices * row_blocks)
    filled_texts = _fill(texts, columns * column_blocks)
    filled_owners = np.full(len(filled_texts), -1, np.int32)
    filled_owners[:num_texts] = owners
    own_blocks = _own_blocks(owners, rows, columns, row_blocks, devices)
    first: Any = np.int32(0)
    if mesh is None:
        own_blocks = own_blocks[0]
    else:
        first = np.arange(devices, dtype=np.int32) * rows * row_blocks
    above = _compiled(rows, columns, mesh)(filled_images, filled_texts, filled_owners, own_blocks, first)
    of_images, of_texts, best_of_images, best_of_texts = (np.asarray(leaf) for leaf in above)
    # What was filled up scores 0.
    of_images = of_images - (best_of_images <= 0) * (len(filled_texts) - num_texts)
    of_texts = of_texts - (best_of_texts <= 0) * (len(filled_images) - num_images)
    return RetrievalRanks(1 + of_images[:num_images].astype(np.int64), 1 + of_texts[:num_texts].astype(np.int64))


def retrieval_scores(ranks: RetrievalRanks, recalls: Sequence[int] = RECALLS) -> dict[str, float]:
    """Sums up ranks.

    Args:
        ranks: from `retrieval_ranks`.
        recalls: how many of the first answers are looked at.

    Returns:
        For `image_to_text` and `text_to_image` each `.../recall_at_K`, the share of queries with a right answer among
        the first K, and `.../median_rank`; and `mean_recall` over all of them.

    Example:
        >>> scores = retrieval_scores(RetrievalRanks(np.array([1, 7]), np.array([2, 2, 11])))
        >>> scores["image_to_text/recall_at_5"], scores["text_to_image/median_rank"], round(scores["mean_recall"], 3)
        (0.5, 2.0, 0.556)
    """
    scores, found = {}, []
    for name, rank in ranks._asdict().items():
        for count in recalls:
            found.append(float((rank <= count).mean()))
            scores[f"{name}/recall_at_{count}"] = found[-1]
        scores[f"{name}/median_rank"] = float(np.median(rank))
    return {**scores, "mean_recall": sum(found) / len(found)}


def chance_recall(candidates: int, right: int, count: int) -> float:
    """The recall of a random order.

    Args:
        candidates: to choose from.
        right: how many of them are right answers.
        count: how many of the first are looked at.

    Returns:
        The probability of a right one among them, 1 - C(candidates - right, count) / C(candidates, count).

    Example:
        >>> round(chance_recall(100, 1, 10), 6)
        0.1
    """
    return 1 - math.comb(candidates - right, count) / math.comb(candidates, count)


@functools.lru_cache(maxsize=16)
def _compiled(rows: int, columns: int, mesh: Mesh | None) -> Any:
    """`_count` as one program, which a training's next look at the same sizes finds again."""
    count = functools.partial(
        _count, rows=rows, columns=columns, axis_name=None if mesh is None else mesh.axis_names[0]
    )
    if mesh is None:
        return jax.jit(count)
    split, copied = PartitionSpec(mesh.axis_names[0]), PartitionSpec()
    return jax.jit(
        jax.shard_map(
            lambda images, texts, owners, blocks, first: count(images, texts, owners, blocks[0], first[0]),
            mesh=mesh,
            in_specs=(split, copied, copied, split, split),
            out_specs=(split, copied, split, copied),
            check_vma=False,
        )
    )


def _count(
    images: jax.Array,
    texts: jax.Array,
    owners: jax.Array,
    own_blocks: jax.Array,
    first: jax.Array,
    *,
    rows: int,
    columns: int,
    axis_name: str | None,
) -> tuple[jax.Array, ...]:
    """Wrong answers at or above the best right one, of images and texts, and the score of that one."""
    blocks = images.reshape(-1, rows, images.shape[1]), texts.reshape(-1, columns, texts.shape[1])
    places = first + jnp.arange(len(images), dtype=jnp.int32).reshape(-1, rows)
    owners = owners.reshape(-1, columns)

    def meet(row: jax.Array, column: jax.Array) -> tuple[jax.Array, jax.Array]:
        # The same product both times: ties are then exact.
        scores = jax.lax.dot_general(
            blocks[0][row],
            blocks[1][column],
            (((1,), (1,)), ((), ())),
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )
        return jax.lax.optimization_barrier(scores), places[row][:, None] == owners[column]

    def find_best(best: tuple[jax.Array, jax.Array], place: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        scores, is_right = meet(place[0], place[1])
        scores = jnp.where(is_right, scores, -jnp.inf)
        return (best[0].at[place[0]].max(scores.max(1)), best[1].at[place[1]].max(scores.max(0))), None

    best = jnp.full(places.shape, -jnp.inf), jnp.full(owners.shape, -jnp.inf)
    best, _ = jax.lax.scan(find_best, best, own_blocks)
    if axis_name is not None:
        best = best[0], jax.lax.pmax(best[1], axis_name)

    def count_row(of_texts: jax.Array, row: jax.Array) -> tuple[jax.Array, jax.Array]:
        def count_block(of_images: jax.Array, column: jax.Array) -> tuple[jax.Array, jax.Array]:
            scores, is_right = meet(row, column)
            above_images = (scores >= best[0][row][:, None]) & ~is_right
            above_texts = (scores >= best[1][column]) & ~is_right
            return of_images + above_images.sum(1, dtype=jnp.int32), above_texts.sum(0, dtype=jnp.int32)

        of_images, added = jax.lax.scan(count_block, jnp.zeros(rows, jnp.int32), jnp.arange(len(owners)))
        return of_texts + added, of_images

    of_texts, of_images = jax.lax.scan(count_row, jnp.zeros(owners.shape, jnp.int32), jnp.arange(len(places)))
    if axis_name is not None:
        of_texts = jax.lax.psum(of_texts, axis_name)
    return of_images.reshape(-1), of_texts.reshape(-1), best[0].reshape(-1), best[1].reshape(-1)


def _own_blocks(owners: np.ndarray, rows: int, columns: int, row_blocks: int, devices: int) -> np.ndarray:
    """Blocks in which an image meets a text of its own, `[devices, blocks, 2]`, the row's of its device."""
    meetings = np.unique(np.stack([owners // rows, np.arange(len(owners)) // columns], axis=1), axis=0)
    lists = [meetings[meetings[:, 0] // row_blocks == device] for device in range(devices)]
    longest = max(map(len, lists))
    found = np.zeros((devices, longest, 2), np.int32)
    for device, own in enumerate(lists):
        own = own - [device * row_blocks, 0]
        # To meet twice changes nothing; a device without images of its own meets some block.
        found[device] = np.resize(own, (longest, 2)) if len(own) else 0
    return found


def _fill(features: Any, count: int) -> Any:
    short = count - len(features)
    return jnp.pad(jnp.asarray(features), ((0, short), (0, 0))) if short else jnp.asarray(features)


def _check(images: Any, texts: Any, owners: np.ndarray, block_size: int) -> None:
    shapes = np.shape(images), np.shape(texts)
    if any(len(shape) != 2 or not shape[0] for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise ValueError(
            "features of images and texts must have shapes [images, features] and [texts, features], one of each at "
            f"least; got {shapes[0]} and {shapes[1]}. Project both to one size."
        )
    count = shapes[0][0]
    if owners.shape != shapes[1][:1] or owners.dtype.kind not in "iu":
        raise ValueError(
            f"image_of_text must hold an integer for each of the {shapes[1][0]} texts; got {owners.dtype} "
            f"{owners.shape}. Give the place of each text's image."
        )
    if owners.min() < 0 or owners.max() >= count:
        raise ValueError(
            f"image_of_text must be places of the {count} images; got {owners.min()} to {owners.max()}. Correct them."
        )
    alone = np.setdiff1d(np.arange(count), owners)
    if len(alone):
        raise ValueError(
            f"every image must have a text; image {alone[0]} has none ({len(alone)} such). Add texts, or leave it out."
        )
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1; got {block_size}. 1024 is the default.")
    for name, features in (("images", images), ("texts", texts)):
        finite = np.asarray(jnp.isfinite(jnp.asarray(features)).all(1))
        if not finite.all():
            raise ValueError(
                f"features of {name} must be finite; row {int(np.flatnonzero(~finite)[0])} is not. Look at what the "
                "model was given, and at its training."
            )
