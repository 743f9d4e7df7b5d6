"""Words and n-grams of captions, the common ground of the caption metrics."""

import string
from collections import Counter
from collections.abc import Sequence

Tokens = Sequence[str]
NGram = tuple[str, ...]

_DELETE_PUNCTUATION = str.maketrans("", "", string.punctuation)


def tokenize_caption(text: str) -> list[str]:
    """Splits a caption into words: lower case, ASCII punctuation deleted, cut at white space.

    The metrics compare what this returns; it is quicker than, and differs slightly from, the Java tokenizer of the COCO
    tools, so compare only scores made with the same tokenizer.

    Args:
        text: a caption as people write it.

    Returns:
        The words; an empty list where there are none.

    Example:
        >>> tokenize_caption("A dog's ball, in the air .")
        ['a', 'dogs', 'ball', 'in', 'the', 'air']
    """
    return text.lower().translate(_DELETE_PUNCTUATION).split()


def count_ngrams(tokens: Tokens, order: int) -> Counter[NGram]:
    """Counts the runs of `order` words in a caption.

    Args:
        tokens: the words of one caption.
        order: how many words a run has; at least 1.

    Returns:
        Each run as a tuple, with how often it occurs.

    Example:
        >>> count_ngrams(["a", "b", "a", "b"], 2)
        Counter({('a', 'b'): 2, ('b', 'a'): 1})
    """
    return Counter(zip(*(tokens[start:] for start in range(order)), strict=False))


def check_captions(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> None:
    """Checks that there is at least one candidate and that each one has references of its own, all as lists of words.

    Args:
        candidates: one caption per image, as words.
        references: the true captions of each image, as words.

    Raises:
        ValueError: nothing to score, unequal numbers, or an image without references.
        TypeError: a caption is a string instead of a list of words.

    Example:
        >>> check_captions([["a", "dog"]], [[["a", "dog"], ["one", "dog"]]])
    """
    if not candidates:
        raise ValueError("candidates must hold at least one caption; got none. Evaluate a split that is not empty.")
    if len(candidates) != len(references):
        raise ValueError(
            f"there must be one list of references for each of the {len(candidates)} candidates; got {len(references)}."
            " Pass both in the same order, one entry per image."
        )
    for index, (candidate, truths) in enumerate(zip(candidates, references, strict=True)):
        if not truths:
            raise ValueError(
                f"each image needs at least one reference; got [] for image {index}. "
                "Leave such images out of both lists."
            )
        text = next((caption for caption in (candidate, *truths) if isinstance(caption, str)), None)
        if text is not None:
            raise TypeError(
                f"captions must be lists of words; got the string {text!r} for image {index}. "
                "Pass fusionjax.metrics.tokenize_caption(text)."
            )
