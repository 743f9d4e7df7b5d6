"""The accuracy of answers to questions about images."""

import collections
import re
from collections.abc import Sequence

_ARTICLES = frozenset(("a", "an", "the"))
_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
# A word that lacks one of its apostrophes is one of these.
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
_CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTED.split()
    for place, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # the other way round, as the official script has it
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
# People whose answers decide: three of the others make an answer wholly right.
_ENOUGH = 3


def normalize_answer(answer: str) -> str:
    """Brings an answer to the form in which VQA compares them.

    Lower case, without articles, number words as digits, an apostrophe put back into contractions that lack it. All
    marks of a kind go if a space stands beside one of them or the answer has a comma within a number, and become spaces
    otherwise; a full stop stays only before a digit. Equal to the official script's form of a predicted answer.

    Args:
        answer: in words.

    Returns:
        The normal form.

    Example:
        >>> normalize_answer(" Two  dogs, dont! "), normalize_answer("1,000"), normalize_answer("The t-shirt.")
        ("2 dogs don't", '1000', 't shirt')

    References:
        Antol et al., "VQA: Visual Question Answering", 2015, arXiv:1505.00468; https://visualqa.org/evaluation.html.
    """
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    has_number_comma = re.search(r"\d,\d", text) is not None
    marked = text
    for mark in _PUNCTUATION:
        # Judged by the text as it came, not by what the marks before have left of it.
        has_space = f"{mark} " in marked or f" {mark}" in marked
        text = text.replace(mark, "" if has_space or has_number_comma else " ")
    text = re.sub(r"\.(?!\d)", "", text)
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def consensus_accuracy(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> float:
    """Computes VQA's accuracy: how far people agree with each answer, averaged.

    Of one question: the mean over its people of min(1, others who gave this answer / 3), others being all people but
    this one. Answers are compared in their normal form. The official script leaves articles, number words and
    contractions of people's answers as they are, and all of an answer that is the same of all people.

    Args:
        predictions: one answer for each question.
        answers: those of all people to each question, usually ten.

    Returns:
        The accuracy, in [0, 1].

    Raises:
        ValueError: no predictions, unequal numbers, or a question without answers.

    Example:
        >>> consensus_accuracy(["yes"], [["yes"] * 3 + ["no"] * 7])
        0.9

    References:
        Antol et al., "VQA: Visual Question Answering", 2015, arXiv:1505.00468, section 5 and the official evaluation.
    """
    if not predictions or len(predictions) != len(answers):
        raise ValueError(
            f"each question must have a prediction and answers; got {len(predictions)} and {len(answers)}. Pair them."
        )
    if not all(answers):
        empty = next(place for place, one in enumerate(answers) if not one)
        raise ValueError(f"every question must have the answers of people; number {empty} has none. Leave it out.")
    return sum(map(_agreement, predictions, answers)) / len(predictions)


def _agreement(prediction: str, answers: Sequence[str]) -> float:
    normal, given = normalize_answer(prediction), [normalize_answer(answer) for answer in answers]
    matches = given.count(normal)
    return sum(min(1.0, (matches - (one == normal)) / _ENOUGH) for one in given) / len(given)


def accuracy_by_type(right: Sequence[float], types: Sequence[str]) -> dict[str, float]:
    """Averages how right answers are over the questions of each type.

    Args:
        right: of each question, in [0, 1].
        types: of each question.

    Returns:
        The mean of each type, sorted by type.

    Raises:
        ValueError: unequal numbers.

    Example:
        >>> accuracy_by_type([1.0, 0.0, 1.0], ["count", "color", "color"])
        {'color': 0.5, 'count': 1.0}
    """
    if len(right) != len(types):
        raise ValueError(f"each question must have a type; got {len(right)} and {len(types)}. Pair them.")
    found: dict[str, list[float]] = collections.defaultdict(list)
    for one, name in zip(right, types, strict=True):
        found[name].append(one)
    return {name: sum(found[name]) / len(found[name]) for name in sorted(found)}
