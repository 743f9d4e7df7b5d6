"""Folders of questions about photographs in the form of VQA v2."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusionjax.data.easy_vqa import QuestionExample
from fusionjax.data.folders import FolderBuilder, OnBroken, Report, check_folder, read_text, split_name
from fusionjax.errors import InputError


@dataclass(frozen=True, kw_only=True)
class QuestionFolder:
    """Pictures with questions, by split.

    Attributes:
        path: where they were read from.
        examples: the examples of each split.
        problems: one line for each thing that was left out.

    Example:
        >>> QuestionFolder(path=Path("vqa"), examples={"train": []}).splits
        ('train',)
    """

    path: Path
    examples: dict[str, list[QuestionExample]]
    problems: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""
        return tuple(self.examples)

    def split(self, name: str) -> Sequence[QuestionExample]:
        """Returns the examples of a split, in the order of their first questions.

        Raises:
            InputError: there is no such split.
        """
        examples = self.examples.get(split_name(name))
        if not examples:
            there = ", ".join(f"{split} ({len(members)})" for split, members in self.examples.items())
            raise InputError(f"{self.path}: expected a split {name!r}; there are {there}. Choose one of these.")
        return examples


def read_vqa(path: str | Path, *, on_broken: OnBroken = "skip", report: Report | None = None) -> QuestionFolder:
    """Reads photographs with questions in the form of VQA v2.

    Every `*questions.json` in the folder is read with the `*annotations.json` of the same split, which `train`, `val`
    or `test` in their names tells. A photograph `COCO_train2014_000000000042.jpg` is looked for in `train2014/`,
    `images/train2014/`, `images/` and the folder itself; a file that is named by its number alone is found too.

    Args:
        path: the folder.
        on_broken: "skip" leaves out and reports questions whose picture is missing or that have no answer; "stop"
        raises
            instead.
        report: takes the lines of the report; by default a warning in the log.

    Returns:
        The folder, each question with `answer`, `type` (the answer's) and, where there are any, the `answers` of all
        people; nothing is decoded yet.

    Raises:
        InputError: there is no folder, no questions or annotations, a file is damaged or of another form, or nothing is
        left.

    Example:
        >>> read_vqa("/none")
        Traceback (most recent call last):
        fusionjax.errors.InputError: /none: expected a folder of pictures and captions; there is none. Check the path.

    References:
        Goyal et al., "Making the V in VQA Matter", 2017, arXiv:1612.00837; https://visualqa.org/download.html.
    """
    root = check_folder(path)
    files = sorted(root.glob("*questions.json")) + sorted(root.glob("*/*questions.json"))
    if not files:
        raise InputError(f"{root}: expected *questions.json; found none. Add it, such as VQA v2's.")
    builder = FolderBuilder(root, on_broken, report)
    examples: dict[str, dict[str, QuestionExample]] = {}
    unanswered, missing = [], []
    for file in files:
        split = _split_of(file)
        answers = _read_annotations(file, split)
        found = examples.setdefault(split, {})
        for number, entry in enumerate(_read_list(file, "questions", ("question_id", "image_id", "question"))):
            place, annotation = f"{file.name}: questions[{number}]", answers.get(str(entry["question_id"]))
            if annotation is None:
                unanswered.append(place)
                continue
            key = str(entry["image_id"])
            if key not in found:
                image = _find_image(root, file, key)
                if image is None:
                    missing.append(f"{key} ({place})")
                    continue
                found[key] = {"id": key, "image": image, "questions": []}
            question: Any = {**annotation, "question": str(entry["question"])}
            found[key]["questions"].append(question)
    builder.leave_out("questions without an annotation", "Add it or remove them.", unanswered)
    builder.leave_out("questions whose image is missing", "Add the files or remove them.", missing)
    order = ("train", "validation", "test")
    kept = {split: list(examples[split].values()) for split in order if examples.get(split)}
    if not kept:
        raise InputError(
            f"{root}: expected questions with answers and images; none is left ({len(unanswered)} without an "
            f"annotation, {len(missing)} without an image). Add them."
        )
    return QuestionFolder(path=root, examples=kept, problems=tuple(builder.problems))


def _split_of(file: Path) -> str:
    named = re.search(r"(train|val|test)", file.stem.lower())
    if named is None:
        raise InputError(f"{file}: expected train, val or test in the name; there is none. Rename it.")
    return split_name(named[1])


def _read_annotations(questions: Path, split: str) -> dict[str, Any]:
    files = [file for file in sorted(questions.parent.glob("*annotations.json")) if _split_of(file) == split]
    if not files:
        raise InputError(f"{questions}: expected its *annotations.json beside it; there is none. Add it.")
    found = {}
    for file in files:
        for entry in _read_list(file, "annotations", ("question_id", "multiple_choice_answer")):
            answers = [str(one.get("answer", "")) for one in entry.get("answers", []) if isinstance(one, dict)]
            found[str(entry["question_id"])] = {
                "answer": str(entry["multiple_choice_answer"]),
                "type": str(entry.get("answer_type", "all")),
                **({"answers": answers} if answers else {}),
            }
    return found


def _read_list(file: Path, name: str, keys: Sequence[str]) -> list[dict[str, Any]]:
    try:
        content = json.loads(read_text(file))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{file}: expected JSON; it is damaged ({error}). Download or write it again.") from error
    entries = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        found = ", ".join(content) if isinstance(content, dict) else type(content).__name__
        raise InputError(f"{file}: expected an object with the list {name}; found {found[:80]}. Give VQA's file.")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or any(key not in entry for key in keys):
            got = ", ".join(entry) if isinstance(entry, dict) else repr(entry)
            raise InputError(f"{file}: {name}[{number}] must have {', '.join(keys)}; got {got[:80]}. Correct it.")
    return entries


def _find_image(root: Path, questions: Path, key: str) -> Path | None:
    number = int(key) if key.isdigit() else None
    folder = re.search(r"(?:train|val|test)\d{4}", questions.stem)
    ending = folder[0] if folder else _split_of(questions)
    names = [] if number is None else [f"COCO_{ending}_{number:012d}.jpg", f"{number:012d}.jpg"]
    for place in (root / ending, root / "images" / ending, root / "images", root):
        for name in (*names, f"{key}.jpg", f"{key}.png"):
            if (place / name).is_file():
                return place / name
    return None
