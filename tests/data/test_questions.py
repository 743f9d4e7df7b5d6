"""Sources of questions about images: easy-VQA, Sort-of-CLEVR, folders in the form of VQA v2."""

import collections
import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

from fusionjax.data import EasyVQA, SortOfClevr, read_vqa
from fusionjax.errors import InputError


def test_easy_vqa_that_is_not_there(monkeypatch):
    with pytest.raises(InputError, match=r"the split of easy-vqa must be train or test; got 'val'. Choose one."):
        EasyVQA("val")
    monkeypatch.setitem(sys.modules, "easy_vqa", None)
    with pytest.raises(ImportError, match=r'needs the module \'easy_vqa\'.* pip install "fusionjax\[vqa\]"'):
        EasyVQA("test")


def test_twenty_different_questions_of_two_kinds():
    counts = collections.Counter()
    for example in SortOfClevr("train", size=30):
        questions = [one["question"] for one in example["questions"]]
        assert len(set(questions)) == 20
        kinds = collections.Counter(one["type"].split()[0] for one in example["questions"])
        assert kinds == {"non-relational": 10, "relational": 10}
        counts.update(one["answer"] for one in example["questions"])
    assert set(counts) == {"square", "circle", "yes", "no", *"123456"}


def test_pictures_depend_on_seed_split_and_index_alone():
    whole, short = SortOfClevr("train", size=9), SortOfClevr("train", size=4)
    assert np.array_equal(whole[3]["image"], short[-1]["image"]) and whole[3]["questions"] == short[3]["questions"]
    others = [SortOfClevr("train", seed=1)[3], SortOfClevr("test")[3], whole[4]]
    assert not any(np.array_equal(whole[3]["image"], other["image"]) for other in others)
    assert repr(short) == "SortOfClevr('train', size=4, image_size=75, seed=0)" and len(short[1:3]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "dev"}, "split must be one of train, validation, test; got 'dev'. Choose one of these."),
        ({"size": -1}, "size must be 0 or more; got -1. Give the number of pictures, or None."),
        ({"image_size": 29}, "image_size must be at least 30 pixels; got 29. Smaller shapes look alike."),
        ({"seed": -3}, "seed must be 0 or more; got -3. Give a non-negative integer."),
    ],
)
def test_sort_of_clevr_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        SortOfClevr(**options)


def test_a_picture_beyond_the_last():
    with pytest.raises(IndexError, match=r"picture index must be in \[0, 4\); got 4. Ask for a larger size."):
        SortOfClevr("test", size=4)[4]


@pytest.fixture
def folder(tmp_path):
    """Two splits in the form of VQA v2, with one picture missing and one question without an annotation."""
    for split, number in (("train2014", 42), ("val2014", 7)):
        place = tmp_path / split
        place.mkdir()
        Image.new("RGB", (8, 6)).save(place / f"COCO_{split}_{number:012d}.jpg")
        questions = [
            {"question_id": 10 * number, "image_id": number, "question": "Is it black?"},
            {"question_id": 10 * number + 1, "image_id": number, "question": "How many?"},
            {"question_id": 10 * number + 2, "image_id": 99, "question": "Where?"},
            {"question_id": 10 * number + 3, "image_id": number, "question": "Who?"},
        ]
        annotations = [
            {
                "question_id": one["question_id"],
                "image_id": one["image_id"],
                "multiple_choice_answer": answer,
                "answer_type": kind,
                "question_type": "none of the above",
                "answers": [{"answer": given, "answer_id": 1} for given in (answer, "no")],
            }
            for one, (answer, kind) in zip(
                questions, [("yes", "yes/no"), ("2", "number"), ("here", "other")], strict=False
            )
        ]
        name = f"v2_OpenEnded_mscoco_{split}_questions.json"
        (tmp_path / name).write_text(json.dumps({"questions": questions}))
        (tmp_path / f"v2_mscoco_{split}_annotations.json").write_text(json.dumps({"annotations": annotations}))
    return tmp_path


def test_a_folder_of_vqa(folder):
    said = []
    found = read_vqa(folder, report=said.append)
    assert found.splits == ("train", "validation")
    (example,) = found.split("val")
    assert example["id"] == "7" and example["image"] == folder / "val2014" / "COCO_val2014_000000000007.jpg"
    assert example["questions"] == [
        {"question": "Is it black?", "answer": "yes", "type": "yes/no", "answers": ["yes", "no"]},
        {"question": "How many?", "answer": "2", "type": "number", "answers": ["2", "no"]},
    ]
    assert len(found.problems) == 4 and len(said) == 2
    assert "left out 2 questions without an annotation" in said[0]
    assert "left out 2 questions whose image is missing: 99 (" in said[1]


def test_a_folder_that_must_be_whole(folder):
    with pytest.raises(InputError, match=r"2 questions without an annotation: .* Add it or remove them."):
        read_vqa(folder, on_broken="stop")


def _remove(folder, pattern):
    for file in folder.glob(pattern):
        file.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: _remove(folder, "*questions.json"), r"expected \*questions.json; found none. Add it"),
        (
            lambda folder: _remove(folder, "*annotations.json"),
            r"expected its \*annotations.json beside it; there is none.",
        ),
        (lambda folder: _remove(folder, "*/*.jpg"), r"none is left \(2 without an annotation, 6 without an image\)"),
        (lambda folder: (folder / "my_questions.json").write_text("{}"), r"expected train, val or test in the name"),
        (lambda folder: (folder / "a_train_questions.json").write_text("{"), r"expected JSON; it is damaged"),
        (
            lambda folder: (folder / "a_train_questions.json").write_text('{"info": 1}'),
            r"expected an object with the list questions; found info. Give VQA's file.",
        ),
        (
            lambda folder: (folder / "a_train_questions.json").write_text('{"questions": [{"question": "?"}]}'),
            r"questions\[0\] must have question_id, image_id, question; got question. Correct it.",
        ),
    ],
)
def test_a_damaged_folder(folder, damage, message):
    damage(folder)
    with pytest.raises(InputError, match=message):
        read_vqa(folder, report=lambda text: None)


def test_a_split_that_is_not_there(folder):
    found = read_vqa(folder, report=lambda text: None)
    message = re.escape(f"{folder}: expected a split 'test'; there are train (1), validation (1). Choose one of these.")
    with pytest.raises(InputError, match=message):
        found.split("test")
