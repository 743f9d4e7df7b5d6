"""The share of captions that are exactly right."""

from collections.abc import Sequence

from fusionjax.metrics.text import Tokens, check_captions


def exact_match(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """Computes the share of candidates that equal one of their references, word for word.

    Useful where the references are all that is true, as in `fusionjax.data.Scenes`; close to 0 on real photographs.

    Args:
        candidates: one caption per image, as words.
        references: all true captions of each image, as words.

    Returns:
        The share, in [0, 1].

    Raises:
        ValueError: no candidates, unequal numbers, or an image without references.
        TypeError: a caption is a string instead of a list of words.

    Example:
        >>> exact_match([["a", "dog"], ["cats"]], [[["one", "dog"], ["a", "dog"]], [["two", "cats"]]])
        0.5
    """
    check_captions(candidates, references)
    hits = sum(
        any(list(candidate) == list(truth) for truth in truths)
        for candidate, truths in zip(candidates, references, strict=True)
    )
    return hits / len(candidates)
