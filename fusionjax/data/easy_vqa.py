"""easy-VQA: simple questions about one coloured shape."""

import collections
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import SupportsIndex, TypedDict, overload

import numpy as np

from fusionjax._extras import require
from fusionjax.data.grammar import Question
from fusionjax.errors import InputError

_SPLITS = ("train", "test")
_SHAPES = ("circle", "rectangle", "triangle")


class QuestionExample(TypedDict):
    """A picture, as a file or as uint8 `[height, width, 3]`, and the questions about it."""

    id: str
    image: str | Path | np.ndarray
    questions: list[Question]


class EasyVQA(Sequence[QuestionExample]):
    """The pictures of the package `easy-vqa`, 64x64 with one shape each, and their questions.

    4,000 pictures with 38,575 questions to train on, 1,000 with 9,673 to test. Types of questions: `yes/no`, `shape`
    and `color`, by the answer.

    Args:
        split: "train" or "test".

    Raises:
        InputError: there is no such split.
        ImportError: the package is not installed.

    Example:
        >>> EasyVQA("validation")
        Traceback (most recent call last):
        fusionjax.errors.InputError: the split of easy-vqa must be train or test; got 'validation'. Choose one.

    References:
        Zhou, "easy-VQA", 2019, https://github.com/vzhou842/easy-VQA.
    """

    def __init__(self, split: str = "train") -> None:
        if split not in _SPLITS:
            raise InputError(f"the split of easy-vqa must be {' or '.join(_SPLITS)}; got {split!r}. Choose one.")
        package = require("easy_vqa", extra="vqa")
        texts, answers, images = getattr(package, f"get_{split}_questions")()
        paths = getattr(package, f"get_{split}_image_paths")()
        questions: dict[int, list[Question]] = collections.defaultdict(list)
        for text, answer, image in zip(texts, answers, images, strict=True):
            questions[image].append({"question": text, "answer": answer, "type": _type_of(answer)})
        self.split = split
        self._examples: list[QuestionExample] = [
            {"id": f"easy-vqa-{split}-{image}", "image": paths[image], "questions": questions[image]}
            for image in sorted(questions)
        ]

    def __len__(self) -> int:
        return len(self._examples)

    def __repr__(self) -> str:
        return f"EasyVQA({self.split!r})"

    @overload
    def __getitem__(self, index: SupportsIndex) -> QuestionExample: ...
    @overload
    def __getitem__(self, index: slice) -> list[QuestionExample]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> QuestionExample | list[QuestionExample]:
        if isinstance(index, slice):
            return self._examples[index]
        place = operator.index(index)
        if not -len(self) <= place < len(self):
            raise IndexError(f"picture index must be in [0, {len(self)}); got {place}. Ask for one that is there.")
        return self._examples[place]


def _type_of(answer: str) -> str:
    if answer in ("yes", "no"):
        return "yes/no"
    return "shape" if answer in _SHAPES else "color"
