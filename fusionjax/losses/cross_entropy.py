"""Categorical cross-entropy over the last axis."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped


class Loss(NamedTuple):
    """A loss as two sums, which add up exactly over micro-batches and devices.

    The mean over everything is `sum of totals / sum of weights`; a mean of means would weigh a short batch too much.

    Attributes:
        total: sum of the losses of what the mask keeps; float32 scalar.
        weight: how many that were; float32 scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> Loss(total=jnp.float32(6.0), weight=jnp.float32(4.0)).mean.item()
        1.5
    """

    total: Float[Array, ""]
    weight: Float[Array, ""]

    @property
    def mean(self) -> Float[Array, ""]:
        """`total / weight`, and 0 where the mask kept nothing."""
        return self.total / jnp.maximum(self.weight, 1.0)


def cross_entropy(
    logits: Float[Array, "... classes"],
    labels: Shaped[Array, "..."],
    *,
    mask: Shaped[Array, "..."] | None = None,
    label_smoothing: float = 0.0,
) -> Loss:
    """Computes the categorical cross-entropy -log softmax(logits)[label], summed over what the mask keeps.

    With label smoothing e the target is (1 - e) on the label plus e / classes on every class, as in the paper.
    Computed as logsumexp(logits) - (1 - e) logits[label] - e mean(logits), in float32 whatever the dtype of the logits,
    so that no array of probabilities is needed. Use it for classes and, with the padding masked, for words.

    Args:
        logits: unnormalised scores `[..., classes]`, any floating dtype.
        labels: the true classes `[...]`, integers in [0, classes).
        mask: booleans `[...]`, True = counted; None counts all.
        label_smoothing: the share e of the target that is spread over all classes, in [0, 1).

    Returns:
        `Loss(total, weight)`, two float32 scalars.

    Raises:
        ValueError: labels or mask have another shape than the logits without their last axis, or e is not in [0, 1).
        TypeError: the labels are not integers, or the mask is not boolean.

    Example:
        >>> import jax.numpy as jnp
        >>> loss = cross_entropy(jnp.zeros((2, 4)), jnp.array([1, 3]), mask=jnp.array([True, False]))
        >>> round(float(loss.total), 4), float(loss.weight)
        (1.3863, 1.0)

    References:
        Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2015, arXiv:1512.00567, section 7.
    """
    _check(logits, labels, mask, label_smoothing)
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    losses = jax.nn.logsumexp(logits, axis=-1) - (1.0 - label_smoothing) * chosen
    if label_smoothing:
        losses -= label_smoothing * logits.mean(axis=-1)
    if mask is None:
        return Loss(losses.sum(), jnp.float32(losses.size))
    return Loss(jnp.where(mask, losses, 0.0).sum(), mask.sum(dtype=jnp.float32))


def _check(logits: Array, labels: Array, mask: Array | None, label_smoothing: float) -> None:
    expected = logits.shape[:-1]
    if labels.shape != expected:
        raise ValueError(
            f"labels must have the shape of the logits {logits.shape} without their last axis, {expected}; "
            f"got {labels.shape}. Pass class numbers, not one-hot rows."
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integers; got {labels.dtype}. Cast them with labels.astype(jnp.int32).")
    if mask is not None and mask.shape != expected:
        raise ValueError(
            f"mask must have the shape of the labels {expected}; got {mask.shape}. Pad it like the labels."
        )
    if mask is not None and mask.dtype != jnp.bool_:
        raise TypeError(f"mask must be boolean, True = counted; got {mask.dtype}. Compare, for example tokens != 0.")
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing must lie in [0, 1); got {label_smoothing}. Typical values are 0 and 0.1.")
