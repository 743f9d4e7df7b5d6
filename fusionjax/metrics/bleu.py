"""BLEU: precision of n-grams."""

import math
from collections import Counter
from collections.abc import Sequence

from fusionjax.metrics.text import NGram, Tokens, check_captions, count_ngrams

# The two numbers by which pycocoevalcap keeps a quotient of zeros defined; without them equality to 1e-6 is lost.
_TINY = 1e-15
_SMALL = 1e-9


def bleu(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> tuple[float, float, float, float]:
    """Computes BLEU-1 to BLEU-4 of a corpus.

    BLEU-n = min(1, exp(1 - r / c)) (p_1 ... p_n)^(1/n); p_k is the share of the candidates' k-grams that occur in a
    reference (each counted at most as often as in one reference), c all candidates' words, and r the sum of the lengths
    of the references nearest in length, of two equally near the shorter. Sums run over the corpus before any division.

    Args:
        candidates: one caption per image, as words.
        references: all true captions of each image, as words.

    Returns:
        BLEU-1, -2, -3 and -4, each in [0, 1].

    Raises:
        ValueError: no candidates, unequal numbers, or an image without references.
        TypeError: a caption is a string instead of a list of words.

    Example:
        >>> scores = bleu([["a", "red", "dog", "runs"]], [[["a", "red", "dog", "sits"]]])
        >>> [round(score, 4) for score in scores]
        [0.75, 0.7071, 0.63, 0.0001]

    References:
        Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation", ACL 2002, section 2.
    """
    check_captions(candidates, references)
    orders = (1, 2, 3, 4)
    correct, guessed = dict.fromkeys(orders, 0), dict.fromkeys(orders, 0)
    words, reference_words = 0, 0
    for candidate, truths in zip(candidates, references, strict=True):
        words += len(candidate)
        reference_words += min((abs(len(truth) - len(candidate)), len(truth)) for truth in truths)[1]
        for order in orders:
            guessed[order] += max(0, len(candidate) - order + 1)
            correct[order] += _count_matches(candidate, truths, order)

    ratio = (words + _TINY) / (reference_words + _SMALL)
    brevity_penalty = math.exp(1.0 - 1.0 / ratio) if ratio < 1.0 else 1.0
    product, scores = 1.0, []
    for order in orders:
        product *= (correct[order] + _TINY) / (guessed[order] + _SMALL)
        scores.append(brevity_penalty * product ** (1.0 / order))
    return scores[0], scores[1], scores[2], scores[3]


def _count_matches(candidate: Tokens, truths: Sequence[Tokens], order: int) -> int:
    """How many n-grams of the candidate occur in a reference, each at most as often as in the reference with most."""
    highest: Counter[NGram] = Counter()
    for truth in truths:
        highest |= count_ngrams(truth, order)
    return (count_ngrams(candidate, order) & highest).total()
