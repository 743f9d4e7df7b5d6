"""The accuracy of VQA, against numbers worked out by hand."""

import pytest

from fusionjax.metrics import accuracy_by_type, consensus_accuracy, normalize_answer


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("Yes", "yes"),
        ("a red  car\n", "red car"),
        ("none", "0"),
        ("Ten", "10"),
        ("isnt", "isn't"),
        ("it's", "it's"),
        ("cat/dog", "cat dog"),
        ("cat / dog", "cat dog"),
        ("10,000", "10000"),
        ("3.5 m.", "3.5 m"),
        ("what?", "what"),
    ],
)
def test_the_normal_form(answer, normal):
    assert normalize_answer(answer) == normal


@pytest.mark.parametrize(("agreeing", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_of_ten_people(agreeing, expected):
    """Each of those who agree is left out once: then one fewer is left of the others."""
    answers = ["Two"] * agreeing + [f"other {number}" for number in range(10 - agreeing)]
    assert consensus_accuracy(["2"], [answers]) == pytest.approx(expected)
    assert consensus_accuracy(["2", "6"], [answers, ["six"] * 5]) == pytest.approx((expected + 1) / 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), "each question must have a prediction and answers; got 0 and 0. Pair them."),
        ((["yes"], []), "each question must have a prediction and answers; got 1 and 0. Pair them."),
        ((["a", "b"], [["a"], []]), "every question must have the answers of people; number 1 has none. Leave it out."),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        consensus_accuracy(*arguments)


def test_by_type():
    assert accuracy_by_type([0.5, 1, 0, 0], ["b", "a", "b", "b"]) == {"a": 1.0, "b": pytest.approx(1 / 6)}
    with pytest.raises(ValueError, match=r"each question must have a type; got 1 and 2. Pair them."):
        accuracy_by_type([1.0], ["a", "b"])
