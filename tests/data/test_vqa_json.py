"""Folders in the form of VQA v2: as they are downloaded, of other layouts, with files that are missing or damaged."""

import json
import re

import pytest
from PIL import Image

from fusionjax.data import read_vqa
from fusionjax.errors import InputError

PEOPLE = ["yes", "yes", "no", "yes", "yes", "yes", "no", "yes", "maybe", "yes"]


def write_questions(path, *numbers):
    """Writes one question of the image `number // 10` for each number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [{"question_id": one, "image_id": one // 10, "question": f"Is it {one}?"} for one in numbers]
    path.write_text(json.dumps({"info": {}, "questions": entries}))


def write_annotations(path, *numbers, **changed):
    path.parent.mkdir(parents=True, exist_ok=True)
    answers = [
        {"answer": answer, "answer_confidence": "yes", "answer_id": place} for place, answer in enumerate(PEOPLE, 1)
    ]
    entry = {"multiple_choice_answer": "yes", "question_type": "is it", "answer_type": "yes/no", "answers": answers}
    entries = [{**entry, "question_id": one, "image_id": one // 10, **changed} for one in numbers]
    path.write_text(json.dumps({"annotations": entries}))


def write_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3)).save(path)
    return path


def read(folder, **options):
    said = []
    return read_vqa(folder, report=said.append, **options), said


def test_a_question_has_the_answers_of_all_ten_people(tmp_path):
    write_questions(tmp_path / "v2_OpenEnded_mscoco_train2014_questions.json", 421, 70, 422)
    write_annotations(tmp_path / "v2_mscoco_train2014_annotations.json", 422, 421, 70)
    paths = [write_image(tmp_path / "train2014" / f"COCO_train2014_{number:012d}.jpg") for number in (42, 7)]
    folder, said = read(tmp_path)
    assert (folder.splits, folder.problems, said, folder.path) == (("train",), (), [], tmp_path)
    common = {"answer": "yes", "type": "yes/no", "answers": PEOPLE}
    assert folder.split("training") == [
        {
            "id": "42",
            "image": paths[0],
            "questions": [{"question": "Is it 421?", **common}, {"question": "Is it 422?", **common}],
        },
        {"id": "7", "image": paths[1], "questions": [{"question": "Is it 70?", **common}]},
    ]


@pytest.mark.parametrize(
    ("questions", "annotations", "image"),
    [
        ("train2014_questions.json", "train2014_annotations.json", "images/train2014/COCO_train2014_000000000042.jpg"),
        ("train2014_questions.json", "train2014_annotations.json", "images/COCO_train2014_000000000042.jpg"),
        ("v2_val2014_questions.json", "v2_val2014_annotations.json", "COCO_val2014_000000000042.jpg"),
        ("val_questions.json", "val_annotations.json", "val/000000000042.jpg"),
        ("val_questions.json", "val_annotations.json", "validation/42.png"),
        ("train_questions.json", "train_annotations.json", "images/42.jpg"),
        ("test-dev2015_questions.json", "test_annotations.json", "test2015/COCO_test2015_000000000042.jpg"),
        (
            "Questions/v2_OpenEnded_mscoco_train2014_questions.json",
            "Annotations/v2_mscoco_train2014_annotations.json",
            "Images/mscoco/train2014/COCO_train2014_000000000042.jpg",
        ),
    ],
)
def test_where_the_files_may_lie(tmp_path, questions, annotations, image):
    write_questions(tmp_path / questions, 420)
    write_annotations(tmp_path / annotations, 420)
    path = write_image(tmp_path / image)
    folder, said = read(tmp_path, on_broken="stop")
    assert [example["image"] for example in folder.split(folder.splits[0])] == [path]
    assert said == []


def test_images_of_two_splits_may_have_one_number(tmp_path):
    for split, person in (("train2014", "red"), ("val2014", "blue")):
        write_questions(tmp_path / f"{split}_questions.json", 420)
        write_annotations(tmp_path / f"{split}_annotations.json", 420, multiple_choice_answer=person)
        write_image(tmp_path / split / f"COCO_{split}_000000000042.jpg")
    folder, _ = read(tmp_path)
    found = {split: folder.split(split)[0] for split in folder.splits}
    assert {split: one["questions"][0]["answer"] for split, one in found.items()} == {
        "train": "red",
        "validation": "blue",
    }
    assert found["train"]["image"] != found["validation"]["image"]


def test_questions_of_the_test_split_that_has_no_annotations_are_left_out(tmp_path):
    """As VQA is downloaded: nobody but its authors has the answers of the test split."""
    write_questions(tmp_path / "v2_OpenEnded_mscoco_train2014_questions.json", 420)
    write_annotations(tmp_path / "v2_mscoco_train2014_annotations.json", 420)
    write_image(tmp_path / "train2014" / "COCO_train2014_000000000042.jpg")
    names = [f"v2_OpenEnded_mscoco_{split}_questions.json" for split in ("test-dev2015", "test2015")]
    for name in names:
        write_questions(tmp_path / name, 990)
    folder, said = read(tmp_path)
    assert folder.splits == ("train",)
    assert folder.problems == tuple(f"files of questions without *annotations.json: {name}" for name in names)
    assert said == [f"{tmp_path}: left out 2 files of questions without *annotations.json: {', '.join(names)}"]
    message = f"{tmp_path}: 2 files of questions without *annotations.json: {', '.join(names)}. Add it or move them"
    with pytest.raises(InputError, match=re.escape(message)):
        read_vqa(tmp_path, on_broken="stop")


def test_a_question_that_two_files_ask_is_taken_once(tmp_path):
    for kind in ("OpenEnded", "MultipleChoice"):
        write_questions(tmp_path / f"{kind}_mscoco_train2014_questions.json", 420, 421)
    write_annotations(tmp_path / "mscoco_train2014_annotations.json", 420, 421)
    write_image(tmp_path / "train2014" / "COCO_train2014_000000000042.jpg")
    (example,) = read(tmp_path)[0].split("train")
    assert [one["question"] for one in example["questions"]] == ["Is it 420?", "Is it 421?"]


@pytest.mark.parametrize("changed", [{"answers": None}, {"answers": []}])
def test_without_the_answers_of_people(tmp_path, changed):
    write_questions(tmp_path / "train_questions.json", 420)
    write_annotations(tmp_path / "train_annotations.json", 420, **changed)
    write_image(tmp_path / "train" / "42.jpg")
    # Another file of annotations, of no split, is not of VQA's.
    (tmp_path / "my_annotations.json").write_text("{")
    (example,) = read(tmp_path)[0].split("train")
    assert example["questions"] == [{"question": "Is it 420?", "answer": "yes", "type": "yes/no"}]


@pytest.mark.parametrize(("given", "shown"), [([1], "[1]"), ("yes", "'yes'"), ([{"text": "a"}], "[{'text': 'a'}]")])
def test_answers_of_another_form(tmp_path, given, shown):
    write_questions(tmp_path / "train_questions.json", 420)
    write_annotations(tmp_path / "train_annotations.json", 420, answers=given)
    message = f"answers of annotations[0] must be a list of objects with answer; got {shown}. Correct it."
    with pytest.raises(InputError, match=re.escape(message)):
        read_vqa(tmp_path)


def test_missing_images_stop_the_reading_where_that_is_asked(tmp_path):
    write_questions(tmp_path / "train_questions.json", 420, 70)
    write_annotations(tmp_path / "train_annotations.json", 420, 70)
    write_image(tmp_path / "train" / "42.jpg")
    folder, said = read(tmp_path)
    assert [example["id"] for example in folder.split("train")] == ["42"]
    left_out = "questions whose image is missing: 7 (train_questions.json: questions[1])"
    assert folder.problems == (left_out,) and said == [f"{tmp_path}: left out 1 {left_out}"]
    with pytest.raises(InputError, match=re.escape(f"1 {left_out}. Add the files or remove them.")):
        read_vqa(tmp_path, on_broken="stop")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1", "expected JSON; it is damaged (Expecting ',' delimiter: line 1 column 3 (char 2)). Download or write"),
        ("[]", "expected an object with the list annotations; found list. Give VQA's file."),
        (
            '{"annotations": [{"question_id": 1}]}',
            "annotations[0] must have question_id, multiple_choice_answer; got question_id. Correct it.",
        ),
        ('{"annotations": [5]}', "annotations[0] must have question_id, multiple_choice_answer; got 5. Correct it."),
    ],
)
def test_damaged_annotations(tmp_path, text, message):
    write_questions(tmp_path / "train_questions.json", 420)
    (tmp_path / "train_annotations.json").write_text(text)
    with pytest.raises(InputError, match=re.escape(f"{tmp_path / 'train_annotations.json'}: {message}")):
        read_vqa(tmp_path)


def test_no_folder_and_a_wrong_choice(tmp_path):
    with pytest.raises(InputError, match=r"/none: expected a folder of pictures and captions; there is none. Check"):
        read_vqa("/none")
    write_questions(tmp_path / "train_questions.json", 420)
    with pytest.raises(ValueError, match=r"on_broken must be 'skip' or 'stop'; got 'raise'. Choose one of these."):
        read_vqa(tmp_path, on_broken="raise")
