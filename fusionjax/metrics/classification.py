"""Accuracy and confusion matrix of a classifier."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped
from numpy.typing import ArrayLike, NDArray


class Accuracy(NamedTuple):
    """An accuracy as two sums, which add up exactly over batches and devices.

    Attributes:
        total: how many predictions were right; float32 scalar.
        weight: how many were counted; float32 scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> Accuracy(total=jnp.float32(3.0), weight=jnp.float32(4.0)).mean.item()
        0.75
    """

    total: Float[Array, ""]
    weight: Float[Array, ""]

    @property
    def mean(self) -> Float[Array, ""]:
        """`total / weight`, and 0 where the mask kept nothing."""
        return self.total / jnp.maximum(self.weight, 1.0)


def accuracy(
    logits: Float[Array, "... classes"], labels: Shaped[Array, "..."], mask: Shaped[Array, "..."] | None = None
) -> Accuracy:
    """Counts how often the highest logit is the label's.

    Of equal logits the first is the prediction, as in `jnp.argmax`.

    Args:
        logits: scores `[..., classes]`, any floating dtype.
        labels: the true classes `[...]`, integers.
        mask: booleans `[...]`, True = counted; None counts all.

    Returns:
        `Accuracy(total, weight)`, two float32 scalars.

    Raises:
        ValueError: labels or mask have another shape than the logits without their last axis.

    Example:
        >>> import jax.numpy as jnp
        >>> accuracy(jnp.array([[1.0, 2.0], [3.0, 0.0]]), jnp.array([1, 1])).mean.item()
        0.5
    """
    expected = logits.shape[:-1]
    for name, array in (("labels", labels), ("mask", mask)):
        if array is not None and array.shape != expected:
            raise ValueError(
                f"{name} must have the shape of the logits {logits.shape} without their last axis, {expected}; "
                f"got {array.shape}. Pass one entry per prediction."
            )
    right = logits.argmax(axis=-1) == labels
    if mask is None:
        return Accuracy(right.sum(dtype=jnp.float32), jnp.float32(right.size))
    return Accuracy((right & mask).sum(dtype=jnp.float32), mask.sum(dtype=jnp.float32))


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike, num_classes: int) -> NDArray[np.int64]:
    """Counts how often each class was predicted as each.

    Args:
        labels: the true classes `[examples]`, integers in [0, num_classes).
        predictions: the predicted classes `[examples]`, integers in [0, num_classes).
        num_classes: how many classes there are.

    Returns:
        Counts `[num_classes, num_classes]`, int64; the row is the true class, the column the predicted one.

    Raises:
        ValueError: the two lengths differ, or a class is outside [0, num_classes).

    Example:
        >>> confusion_matrix([0, 1, 1], [0, 1, 0], num_classes=2).tolist()
        [[1, 0], [1, 1]]
    """
    true, predicted = np.asarray(labels, dtype=np.int64), np.asarray(predictions, dtype=np.int64)
    if true.ndim != 1 or true.shape != predicted.shape:
        raise ValueError(
            f"labels and predictions must have the same shape [examples]; got {true.shape} and {predicted.shape}. "
            "Pass one of each per example."
        )
    for name, classes in (("labels", true), ("predictions", predicted)):
        outside = classes[(classes < 0) | (classes >= num_classes)]
        if outside.size:
            raise ValueError(
                f"{name} must lie in [0, num_classes) = [0, {num_classes}); got {outside[0]}. "
                "Raise num_classes or leave such examples out."
            )
    return np.bincount(true * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)
