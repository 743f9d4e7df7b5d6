"""Perplexity from summed losses."""

import math

from jaxtyping import Array, Float


def perplexity(total: float | Float[Array, ""], weight: float | Float[Array, ""]) -> float:
    """Computes exp(total / weight), the number of words among which a model is, in effect, undecided.

    Sum the `Loss` of all batches first: the perplexity of a corpus is not the mean of its batches' perplexities.
    Only meaningful without label smoothing.

    Args:
        total: summed cross-entropy, in nats.
        weight: how many words were summed.

    Returns:
        The perplexity, at least 1 for a cross-entropy; infinite beyond what a float holds.

    Raises:
        ValueError: the weight is not positive.

    Example:
        >>> round(perplexity(4.1588831, 2.0), 3)
        8.0
    """
    words = float(weight)
    if not words > 0.0:
        raise ValueError(f"weight must be positive; got {words}. Evaluate at least one batch with words that are kept.")
    try:
        return math.exp(float(total) / words)
    except OverflowError:
        return math.inf
