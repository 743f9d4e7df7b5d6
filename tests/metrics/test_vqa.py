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
        # A full stop stays only before a digit, whatever stands before it.
        ("3.", "3"),
        ("St. 5.", "st 5"),
        (".5", ".5"),
        # A space beside one mark takes all of its kind; a space around the answer, before it is taken off, does not.
        ("x-ray - old", "xray old"),
        (" -x-ray", "x ray"),
        ("x-ray,old", "x ray old"),
        ("x-ray 1,000", "xray 1000"),
        ("10:30", "10:30"),
        # One apostrophe that is missing is put back; "lets", "im" and "its" may be words of their own.
        ("shant", "shan't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("couldntve", "couldntve"),
        ("'twas", "'twas"),
        ("Y'alld've", "y'all'd've"),
        ("lets", "lets"),
        ("Im", "im"),
        ("somebody'd", "somebodyd"),
        ("the none of A", "0 of"),
        ("", ""),
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


def test_people_count_by_the_normal_form_of_their_answers():
    """Of six: four times 2 in three spellings, one wrong, one that nobody shares.

    To "two": those who said 2 leave three others, min(1, 3 / 3); the two others leave four, min(1, 4 / 3): 1.
    To "a Cat!": the one who said so leaves none, five leave one, 1 / 3: 5 / 18.
    To "dogs": nobody.
    """
    answers = ["2", "Two.", "the two", "2", "cat", "dog"]
    found = [consensus_accuracy([one], [answers]) for one in ("two", "a Cat!", "dogs")]
    assert found == pytest.approx([1, 5 / 18, 0])
    assert consensus_accuracy(["two", "a Cat!", "dogs"], [answers] * 3) == pytest.approx(23 / 54)
    # Of three who agree each leaves two, of one none.
    assert consensus_accuracy(["yes"], [["Yes"] * 3]) == pytest.approx(2 / 3)
    assert consensus_accuracy(["yes"], [["yes"]]) == 0


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
    assert list(accuracy_by_type([1, 1, 1], ["number", "other", "color"])) == ["color", "number", "other"]
    with pytest.raises(ValueError, match=r"each question must have a type; got 1 and 2. Pair them."):
        accuracy_by_type([1.0], ["a", "b"])
