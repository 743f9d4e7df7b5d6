"""easy-VQA: the whole package where it is installed, and a false one of three pictures."""

import collections
import pickle
import re
import sys
import types

import numpy as np
import pytest

from fusionjax.data import EasyVQA, load_image


@pytest.fixture
def false_package(monkeypatch):
    """Three pictures, out of order; nothing is asked about the one of number 5."""
    package = types.ModuleType("easy_vqa")
    texts = ["is it red?", "what shape?", "is it not teal?", "what color?", "which shape?", "shape?"]
    answers = ["no", "triangle", "yes", "brown", "circle", "rectangle"]
    package.get_train_questions = lambda: (texts, answers, [30, 4, 4, 30, 30, 4])
    package.get_train_image_paths = lambda: {30: "30.png", 5: "5.png", 4: "4.png"}
    monkeypatch.setitem(sys.modules, "easy_vqa", package)
    return package


def test_in_order_of_the_pictures_numbers_with_the_types_of_the_answers(false_package):
    examples = EasyVQA("train")
    assert [(one["id"], one["image"]) for one in examples] == [
        ("easy-vqa-train-4", "4.png"),
        ("easy-vqa-train-30", "30.png"),
    ]
    said = [[(one["question"], one["answer"], one["type"]) for one in example["questions"]] for example in examples]
    assert said == [
        [
            ("what shape?", "triangle", "shape"),
            ("is it not teal?", "yes", "yes/no"),
            ("shape?", "rectangle", "shape"),
        ],
        [("is it red?", "no", "yes/no"), ("what color?", "brown", "color"), ("which shape?", "circle", "shape")],
    ]


def test_index(false_package):
    examples = EasyVQA("train")
    assert examples[np.int64(-1)] == examples[1] == examples[0:2][1]
    assert pickle.loads(pickle.dumps(examples))[0] == examples[0]
    assert repr(examples) == "EasyVQA('train')"
    for place in (2, -3):
        message = f"picture index must be in [0, 2); got {place}. Ask for one that is there."
        with pytest.raises(IndexError, match=re.escape(message)):
            examples[place]


def test_types_of_the_whole_set():
    package = pytest.importorskip("easy_vqa", reason="needs the package easy-vqa")
    train, test = EasyVQA("train"), EasyVQA("test")
    counts = [collections.Counter(one["type"] for each in part for one in each["questions"]) for part in (train, test)]
    assert counts == [
        {"yes/no": 28_407, "color": 5_166, "shape": 5_002},
        {"yes/no": 7_136, "color": 1_280, "shape": 1_257},
    ]
    assert {one["answer"] for each in train for one in each["questions"]} == set(package.get_answers())
    assert [one["id"] for one in train[9:11]] == ["easy-vqa-train-9", "easy-vqa-train-10"]


PAINTS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "black": (0, 0, 0), "yellow": (1, 1, 0)}


def test_a_colour_that_is_asked_for_can_be_seen():
    """The pictures belong to their questions: of the pure colours, the darkest pixel's nearest is the answer."""
    pytest.importorskip("easy_vqa", reason="needs the package easy-vqa")
    seen = 0
    for example in EasyVQA("test")[:200]:
        for one in example["questions"]:
            if one["type"] == "color" and one["answer"] in PAINTS:
                pixels = load_image(example["image"]).reshape(-1, 3) / 255
                paint = pixels[pixels.min(axis=1).argmin()]
                near = min(PAINTS, key=lambda name: np.abs(paint - PAINTS[name]).sum())
                assert near == one["answer"], (example["id"], paint)
                seen += 1
    assert seen > 50
