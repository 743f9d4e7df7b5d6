"""CIDEr-D: agreement of n-grams weighted by how rare they are."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from fusionjax.metrics.text import NGram, Tokens, check_captions, count_ngrams

_ORDERS = (1, 2, 3, 4)
_SIGMA = 6.0


class _Vector(NamedTuple):
    """Weights of the n-grams of one caption by order, their norms, and the number of word pairs, its length."""

    weights: list[dict[NGram, float]]
    norms: list[float]
    pairs: int


def cider_d(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """Computes the mean CIDEr-D of a corpus, with document frequencies from the references given.

    An n-gram weighs count x log(images / images whose references have it). Of each reference and n = 1..4: the cosine
    of the two weight vectors, the candidate's clipped to the reference's, times exp(-(difference in length)^2 / 72);
    the mean over n and references, times 10. Words are not stemmed, and the length is the number of word pairs, both
    as in pycocoevalcap (whose class `Cider` this equals). One image alone scores 0: all its n-grams are in all images.

    Args:
        candidates: one caption per image, as words.
        references: all true captions of each image, as words.

    Returns:
        The mean over the images, in [0, 10].

    Raises:
        ValueError: no candidates, unequal numbers, or an image without references.
        TypeError: a caption is a string instead of a list of words.

    Example:
        >>> truths = [[["a", "red", "dog", "runs"]], [["two", "cats"]]]
        >>> round(cider_d([["a", "red", "dog", "runs"], ["two", "dogs"]], truths), 4)
        5.625

    References:
        Vedantam et al., "CIDEr: Consensus-based Image Description Evaluation", 2014, arXiv:1411.5726, equations 1 to 5.
    """
    check_captions(candidates, references)
    scorer = CiderScorer(references)
    return sum(scorer.score(candidate, image) for image, candidate in enumerate(candidates)) / len(candidates)


class CiderScorer:
    """Scores captions one at a time against references that are counted once, as a reward of training needs it.

    Args:
        references: all true captions of each image, as words; document frequencies are theirs. Words may be numbers.

    Example:
        >>> scorer = CiderScorer([[["a", "red", "dog", "runs"]], [["two", "cats"]]])
        >>> scorer.score(["a", "red", "dog", "runs"], 0), round(scorer.score(["two", "dogs"], 1), 4)
        (10.0, 1.25)
    """

    def __init__(self, references: Sequence[Sequence[Tokens]]) -> None:
        counts = [[_count_all(truth) for truth in truths] for truths in references]
        frequencies: Counter[NGram] = Counter()
        for image in counts:
            frequencies.update({ngram for caption in image for order in caption for ngram in order})
        self._log_images = math.log(len(references))
        self._rarities = {ngram: self._log_images - math.log(images) for ngram, images in frequencies.items()}
        self._truths = [[_weigh(caption, self._rarities, self._log_images) for caption in image] for image in counts]

    def score(self, candidate: Tokens, image: int) -> float:
        """Gives the CIDEr-D of one caption.

        Args:
            candidate: the words.
            image: whose references they are compared with.

        Returns:
            The score, in [0, 10].
        """
        vector = _weigh(_count_all(candidate), self._rarities, self._log_images)
        similarities = [_compare(vector, truth) for truth in self._truths[image]]
        return 10.0 * sum(similarities) / len(similarities)


def _count_all(tokens: Tokens) -> list[Counter[NGram]]:
    return [count_ngrams(tokens, order) for order in _ORDERS]


def _weigh(counts: list[Counter[NGram]], rarities: dict[NGram, float], log_images: float) -> _Vector:
    """An n-gram that no reference has is as rare as one that a single image has."""
    weights = [{ngram: count * rarities.get(ngram, log_images) for ngram, count in order.items()} for order in counts]
    norms = [math.sqrt(sum(weight * weight for weight in order.values())) for order in weights]
    return _Vector(weights, norms, counts[1].total())


def _compare(candidate: _Vector, truth: _Vector) -> float:
    similarity = 0.0
    for mine, theirs, my_norm, their_norm in zip(
        candidate.weights, truth.weights, candidate.norms, truth.norms, strict=True
    ):
        product = sum(min(weight, theirs[ngram]) * theirs[ngram] for ngram, weight in mine.items() if ngram in theirs)
        if product:
            similarity += product / (my_norm * their_norm)
    difference = candidate.pairs - truth.pairs
    return similarity / len(_ORDERS) * math.exp(-(difference**2) / (2 * _SIGMA**2))
