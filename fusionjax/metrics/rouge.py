"""ROUGE-L: the longest common subsequence."""

from collections.abc import Sequence

from fusionjax.metrics.text import Tokens, check_captions

_BETA = 1.2  # weight of recall against precision, as in the COCO tools


def rouge_l(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """Computes the mean ROUGE-L of a corpus.

    Of each image: (1 + b^2) P R / (R + b^2 P), b = 1.2, with P and R the highest of LCS / len(candidate) and of
    LCS / len(reference) over the references, which may be two different references. LCS is the length of the longest
    common subsequence, found by bit operations on Python's long integers. An empty caption counts as one empty word.

    Args:
        candidates: one caption per image, as words.
        references: all true captions of each image, as words.

    Returns:
        The mean over the images, in [0, 1].

    Raises:
        ValueError: no candidates, unequal numbers, or an image without references.
        TypeError: a caption is a string instead of a list of words.

    Example:
        >>> round(rouge_l([["a", "red", "dog"]], [[["a", "dog"], ["the", "dog"]]]), 4)
        0.8299

    References:
        Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", ACL 2004, equations 2 to 4.
        Hyyrö, "Bit-Parallel LCS-length Computation Revisited", AWOCA 2004, for the algorithm.
    """
    check_captions(candidates, references)
    scores = [_score(candidate, truths) for candidate, truths in zip(candidates, references, strict=True)]
    return sum(scores) / len(scores)


def _score(candidate: Tokens, truths: Sequence[Tokens]) -> float:
    candidate = candidate or [""]
    lengths = [len(truth) or 1 for truth in truths]
    common = [_common_length(candidate, truth or [""]) for truth in truths]
    precision = max(common) / len(candidate)
    recall = max(shared / length for shared, length in zip(common, lengths, strict=True))
    if not precision:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _common_length(first: Tokens, second: Tokens) -> int:
    """Length of the longest common subsequence; each zero bit of `row` is one word of it."""
    positions: dict[str, int] = {}
    for index, word in enumerate(first):
        positions[word] = positions.get(word, 0) | (1 << index)
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        matches = row & positions.get(word, 0)
        row = ((row + matches) | (row - matches)) & full
    return len(first) - row.bit_count()
