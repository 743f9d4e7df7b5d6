"""All caption metrics at once."""

from collections.abc import Sequence

from fusionjax.metrics.bleu import bleu
from fusionjax.metrics.cider import cider_d
from fusionjax.metrics.exact_match import exact_match
from fusionjax.metrics.rouge import rouge_l
from fusionjax.metrics.text import Tokens


def caption_metrics(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> dict[str, float]:
    """Computes every caption metric of a corpus, on every reference of every image.

    About 0.1 s for 100 images of 5 references, and in proportion for more.

    Args:
        candidates: one caption per image, as words (`tokenize_caption`).
        references: all true captions of each image, as words.

    Returns:
        `exact_match`, `bleu_1` to `bleu_4`, `rouge_l` (all in [0, 1]) and `cider_d` (in [0, 10]).

    Raises:
        ValueError: no candidates, unequal numbers, or an image without references.
        TypeError: a caption is a string instead of a list of words.

    Example:
        >>> scores = caption_metrics([["a", "dog"]], [[["a", "dog"]]])
        >>> list(scores)
        ['exact_match', 'bleu_1', 'bleu_2', 'bleu_3', 'bleu_4', 'rouge_l', 'cider_d']
    """
    scores = {"exact_match": exact_match(candidates, references)}
    scores |= {f"bleu_{order}": score for order, score in enumerate(bleu(candidates, references), start=1)}
    return scores | {"rouge_l": rouge_l(candidates, references), "cider_d": cider_d(candidates, references)}
