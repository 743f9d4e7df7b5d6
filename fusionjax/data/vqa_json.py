"""Folders of questions about photographs in the form of VQA v2."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
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

    Every `*questions.json` in the folder or in a folder within it is read with the `*annotations.json` of the same
    split, which `train`, `val` or `test` in their names tells; beside it or, if there is none, anywhere in the folder.
    A photograph `COCO_train2014_000000000042.jpg` is looked for in `train2014/`, `train/`, `images/` with or without
    these, `Images/mscoco/train2014/` and the folder itself; a file that is named by its number alone is found too. A
    question that several files ask, as those of VQA v1 do, is taken once.

    Args:
        path: the folder.
        on_broken: "skip" leaves out and reports questions whose picture is missing or that have no answer, and files of
            questions without annotations, such as VQA's own of the test split; "stop" raises instead.
        report: takes the lines of the report; by default a warning in the log.

    Returns:
        The folder, each question with `answer`, `type` (the answer's) and, where there are any, the `answers` of all
        people; nothing is decoded yet.

    Raises:
        InputError: there is no folder, no questions or annotations, a file is damaged or of another form, nothing is
            left, or something is left out and `on_broken` is "stop".

    Example:
        >>> read_vqa("/none")
        Traceback (most recent call last):
        fusionjax.errors.InputError: /none: expected a folder of pictures and captions; there is none. Check the path.

    References:
        Goyal et al., "Making the V in VQA Matter", 2017, arXiv:1612.00837; https://visualqa.org/download.html.
    """
    root = check_folder(path)
    files = _within(root, "*questions.json")
    if not files:
        raise InputError(f"{root}: expected *questions.json; found none. Add it, such as VQA v2's.")
    builder = FolderBuilder(root, on_broken, report)
    annotations = {file: _find_annotations(root, file) for file in files}
    if not any(annotations.values()):
        raise InputError(f"{files[0]}: expected its *annotations.json beside it; there is none. Add it.")
    lonely = [str(file.relative_to(root)) for file, found in annotations.items() if not found]
    builder.leave_out("files of questions without *annotations.json", "Add it or move them away.", lonely)
    splits = {split: _Split() for split in ("train", "validation", "test")}
    for file in files:
        if annotations[file]:
            _read_questions(root, file, _read_annotations(annotations[file]), splits[_split_of(file)])
    unanswered = [place for split in splits.values() for place in split.unanswered]
    missing = [place for split in splits.values() for place in split.missing]
    builder.leave_out("questions without an annotation", "Add it or remove them.", unanswered)
    builder.leave_out("questions whose image is missing", "Add the files or remove them.", missing)
    kept = {name: list(split.examples.values()) for name, split in splits.items() if split.examples}
    if not kept:
        raise InputError(
            f"{root}: expected questions with answers and images; none is left ({len(unanswered)} without an "
            f"annotation, {len(missing)} without an image). Add them."
        )
    return QuestionFolder(path=root, examples=kept, problems=tuple(builder.problems))


@dataclass
class _Split:
    """What is read of a split: examples by the image's number, questions seen, places of those that are left out."""

    examples: dict[str, QuestionExample] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    unanswered: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def _within(root: Path, pattern: str) -> list[Path]:
    return sorted(root.glob(pattern)) + sorted(root.glob(f"*/{pattern}"))


def _named_split(file: Path) -> re.Match[str] | None:
    """Finds the split's name and year in that of a file; VQA's test-dev is of the photographs of its test split."""
    return re.search(r"(train|val|test)(?:-dev)?(\d{4})?", file.stem.lower())


def _split_of(file: Path) -> str:
    named = _named_split(file)
    if named is None:
        raise InputError(f"{file}: expected train, val or test in the name; there is none. Rename it.")
    return split_name(named[1])


def _find_annotations(root: Path, questions: Path) -> list[Path]:
    split = _split_of(questions)
    for files in (sorted(questions.parent.glob("*annotations.json")), _within(root, "*annotations.json")):
        found = [file for file in files if _named_split(file) and _split_of(file) == split]
        if found:
            return found
    return []


def _read_questions(root: Path, file: Path, answers: dict[str, dict[str, Any]], split: _Split) -> None:
    images: dict[str, Path | None] = {}
    for number, entry in enumerate(_read_list(file, "questions", ("question_id", "image_id", "question"))):
        name, key, place = str(entry["question_id"]), str(entry["image_id"]), f"{file.name}: questions[{number}]"
        if name in split.seen:
            continue
        split.seen.add(name)
        if name not in answers:
            split.unanswered.append(place)
            continue
        if key not in images:
            images[key] = _find_image(root, file, key)
        image = images[key]
        if image is None:
            split.missing.append(f"{key} ({place})")
            continue
        question: Any = {**answers[name], "question": str(entry["question"])}
        split.examples.setdefault(key, {"id": key, "image": image, "questions": []})["questions"].append(question)


def _read_annotations(files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    found = {}
    for file in files:
        for number, entry in enumerate(_read_list(file, "annotations", ("question_id", "multiple_choice_answer"))):
            people = entry.get("answers") or []
            if not isinstance(people, list) or not all(isinstance(one, dict) and "answer" in one for one in people):
                got = repr(people)[:80]
                raise InputError(
                    f"{file}: answers of annotations[{number}] must be a list of objects with answer; got {got}. "
                    "Correct it."
                )
            found[str(entry["question_id"])] = {
                "answer": str(entry["multiple_choice_answer"]),
                "type": str(entry.get("answer_type", "all")),
                **({"answers": [str(one["answer"]) for one in people]} if people else {}),
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
    named = _named_split(questions)
    split, year = (named[1], named[2] or "") if named else ("", "")
    names = [f"{key}.jpg", f"{key}.png"]
    if re.fullmatch(r"[0-9]{1,12}", key):
        names = [f"COCO_{split}{year}_{int(key):012d}.jpg", f"{int(key):012d}.jpg", *names]
    folders = dict.fromkeys((split + year, split, split_name(split)))
    places = [root / parent / folder for folder in folders for parent in ("", "images", "Images/mscoco")]
    for place in (*places, root / "images", root):
        for name in names:
            if (place / name).is_file():
                return place / name
    return None
