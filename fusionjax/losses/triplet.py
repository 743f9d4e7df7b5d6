"""The triplet loss of matching images and texts, over all wrong partners or the hardest one."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from fusionjax.losses.cross_entropy import Loss
from fusionjax.losses.forms import LOWEST, both_sides, check_mask, check_pairs, is_wrong_pair, similarities


def triplet(
    images: Float[Array, "batch features"],
    texts: Float[Array, "texts text_features"],
    *,
    margin: float = 0.2,
    negatives: str = "hardest",
    mask: Shaped[Array, " pairs"] | None = None,
) -> Loss:
    """Computes how far wrong partners come within a margin of the right one.

    With s_ij = images_i . texts_j, the loss of pair i over all wrong partners is
    sum_{j != i} [margin + s_ij - s_ii]+ + sum_{j != i} [margin + s_ji - s_ii]+, and with the hardest ones (VSE++) each
    sum is replaced by its largest term. The hardest ones learn better in the end and more slowly at first.

    Args:
        images: features, of length 1 as a rule; any floating dtype, summed in float32.
        texts: features of each image's text.
        margin: in units of the similarity; 0.2 in VSE++.
        negatives: `"hardest"` or `"all"`.
        mask: True = counted; a pair that does not count is nobody's wrong answer either.

    Returns:
        `Loss(total, weight)`, float32; the weight is the number of pairs that count.

    Raises:
        ValueError: shapes do not fit, the margin is negative, or the negatives are neither.
        TypeError: the mask is not boolean.

    Example:
        >>> images, texts = jnp.eye(2), jnp.array([[1.0, 0.9], [0.0, 1.0]])
        >>> round(float(triplet(images, texts).total), 4)
        0.2

    References:
        Faghri et al., "VSE++: Improving Visual-Semantic Embeddings with Hard Negatives", 2018, arXiv:1707.05612,
        eq. 5 and 6.
    """
    check_pairs(images, texts)
    check_mask(images, mask)
    if margin < 0:
        raise ValueError(f"margin must not be negative; got {margin}. 0.2 is usual.")
    if negatives not in ("hardest", "all"):
        raise ValueError(f'negatives must be "hardest" or "all"; got {negatives!r}. Choose one.')
    counts = jnp.ones(len(images), jnp.float32) if mask is None else mask.astype(jnp.float32)
    rows, columns = both_sides(images, texts, counts, None)
    scores = similarities(rows, columns)
    own, wrong = jnp.diagonal(scores), is_wrong_pair(rows, columns)
    of_images = jnp.where(wrong, scores - own[:, None], LOWEST)
    of_texts = jnp.where(wrong, scores - own[None, :], LOWEST)
    if negatives == "hardest":
        losses = jax.nn.relu(margin + of_images.max(axis=1)) + jax.nn.relu(margin + of_texts.max(axis=0))
    else:
        losses = jax.nn.relu(margin + of_images).sum(axis=1) + jax.nn.relu(margin + of_texts).sum(axis=0)
    return Loss(jnp.where(counts > 0, losses, 0.0).sum(), counts.sum())
