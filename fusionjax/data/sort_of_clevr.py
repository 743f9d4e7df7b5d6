"""Sort-of-CLEVR: questions about six coloured shapes and their relations, drawn on the fly."""

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple, SupportsIndex, overload

import numpy as np

from fusionjax.data.easy_vqa import QuestionExample
from fusionjax.data.grammar import SPLITS, Question

_DEFAULT_SIZES = {"train": 9_800, "validation": 200, "test": 200}
_PAINTS = {
    "red": (220, 30, 30),
    "green": (30, 150, 50),
    "blue": (30, 60, 220),
    "orange": (245, 140, 20),
    "gray": (125, 125, 125),
    "yellow": (240, 220, 20),
}
_COLORS = tuple(_PAINTS)
_SHAPES = ("square", "circle")
# Half the width of an object and how near the border its centre may come, in shares of the picture's side.
_RADIUS = 5.5 / 75
_MARGIN = 5.5 / 75
# How much two distances from one object must differ, in shares of the side, for one to be the shortest or the longest.
_CLEAR = 0.5 / 75
_QUESTIONS_OF_A_KIND = 10
_MOST_KNOWN = 20_000  # pictures whose layouts are remembered, some kilobytes each
_KINDS = (
    ("non-relational", ("shape", "left", "top")),
    ("relational", ("closest", "furthest", "count")),
)
# As terse as the paper's eleven bits: sentences tell what is asked by many words and the colour by one, and a model of
# vectors then learns what can be said without the colour, and little else.
_TEXT = "{color} {subject}?"


class _Objects(NamedTuple):
    """Six objects in the order of the colours: centres `[6, (across, down)]` in shares of the side; who is a circle."""

    centers: np.ndarray
    is_circle: np.ndarray


class SortOfClevr(Sequence[QuestionExample]):
    """A sequence of pictures of six objects, one of each colour, each a square or a circle, with twenty questions.

    Ten of the questions ask for one object (its shape; whether it is on the left; at the top), ten for a relation (the
    shape of the object closest to it; furthest from it; how many have its shape, itself included); each ten are
    different ones of the 18 possible. Types: `non-relational shape`, `... left`, `... top`, `relational closest`, `...
    furthest`, `... count`. A question names a colour and what is asked of it: "red left?". A picture depends on `seed`,
    `split` and its index alone. Where two distances are too near to tell apart the objects are drawn again, so every
    question has one right answer.

    Args:
        split: "train", "validation" or "test".
        size: number of pictures; by default 9,800, 200 and 200. A longer sequence begins with the shorter one.
        image_size: side of the pictures in pixels, at least 30.
        seed: another seed gives other pictures.

    Raises:
        ValueError: the split is unknown, or `size`, `image_size` or `seed` is out of range.

    Example:
        >>> pictures = SortOfClevr("test", size=3)
        >>> pictures[2]["image"].shape, len(pictures[2]["questions"])
        ((75, 75, 3), 20)
        >>> pictures[2]["questions"][0]["question"]
        'red shape?'

    References:
        Santoro et al., "A Simple Neural Network Module for Relational Reasoning", 2017, arXiv:1706.01427, section 4.3.
    """

    def __init__(self, split: str = "train", size: int | None = None, image_size: int = 75, seed: int = 0) -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}. Choose one of these.")
        size = _DEFAULT_SIZES[split] if size is None else size
        if size < 0:
            raise ValueError(f"size must be 0 or more; got {size}. Give the number of pictures, or None.")
        if image_size < 30:
            raise ValueError(f"image_size must be at least 30 pixels; got {image_size}. Smaller shapes look alike.")
        if seed < 0:
            raise ValueError(f"seed must be 0 or more; got {seed}. Give a non-negative integer.")
        self.split, self.size, self.image_size, self.seed = split, size, image_size, seed
        # Objects and questions of pictures that were asked for: finding a place for all takes longer than drawing them.
        self._known: dict[int, tuple[_Objects, tuple[Question, ...]]] = {}

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"SortOfClevr({self.split!r}, size={self.size}, image_size={self.image_size}, seed={self.seed})"

    @overload
    def __getitem__(self, index: SupportsIndex) -> QuestionExample: ...
    @overload
    def __getitem__(self, index: slice) -> list[QuestionExample]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> QuestionExample | list[QuestionExample]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(self.size))]
        place = operator.index(index)
        if not -self.size <= place < self.size:
            raise IndexError(f"picture index must be in [0, {self.size}); got {place}. Ask for a larger size.")
        place %= self.size
        objects, questions = self._known.get(place) or self._lay_out(place)
        return {
            "id": f"sort-of-clevr-{self.seed}-{self.split}-{place}",
            "image": _draw(objects, self.image_size),
            "questions": [question.copy() for question in questions],
        }

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out what a copy, such as a worker's, finds again."""
        return {**self.__dict__, "_known": {}}

    def _lay_out(self, place: int) -> tuple[_Objects, tuple[Question, ...]]:
        rng = np.random.default_rng((self.seed, SPLITS.index(self.split), place, 2017))
        objects = _place_objects(rng)
        found = objects, tuple(_ask(objects, rng))
        if len(self._known) < _MOST_KNOWN:
            self._known[place] = found
        return found


def _place_objects(rng: np.random.Generator) -> _Objects:
    count = len(_COLORS)
    while True:
        centers = rng.uniform(_MARGIN, 1 - _MARGIN, (count, 2))
        # Squares overlap where both coordinates are nearer than a width.
        apart = np.abs(centers[:, None] - centers[None]).max(-1)
        apart[np.diag_indices(count)] = 1
        distances = np.sort(_distances(centers), axis=1)
        # Of each object: itself, the closest, the second, ...
        clear = min((distances[:, 2] - distances[:, 1]).min(), (distances[:, -1] - distances[:, -2]).min())
        halves = np.abs(centers - 0.5).min()
        if apart.min() > 2 * _RADIUS and clear > _CLEAR and halves > _CLEAR:
            return _Objects(centers, rng.random(count) < 0.5)


def _distances(centers: np.ndarray) -> np.ndarray:
    return np.linalg.norm(centers[:, None] - centers[None], axis=-1)


def _draw(objects: _Objects, side: int) -> np.ndarray:
    image = np.full((side, side, 3), 255, np.uint8)
    # Of every pixel's centre
    places = (np.arange(side) + 0.5) / side
    for paint, (across, down), is_circle in zip(_PAINTS.values(), *objects, strict=True):
        # The rows and columns that the object can reach
        (left, right), (top, bottom) = np.searchsorted(places, [(at - _RADIUS, at + _RADIUS) for at in (across, down)])
        box = image[top : bottom + 1, left : right + 1]
        beside, below = places[None, left : right + 1] - across, places[top : bottom + 1, None] - down
        if is_circle:
            inside = beside**2 + below**2 <= _RADIUS**2
        else:
            inside = np.maximum(np.abs(beside), np.abs(below)) <= _RADIUS
        box[inside] = paint
    return image


def _ask(objects: _Objects, rng: np.random.Generator) -> list[Question]:
    questions: list[Question] = []
    for kind, subjects in _KINDS:
        possible = [(color, subject) for color in range(len(_COLORS)) for subject in subjects]
        for place in rng.permutation(len(possible))[:_QUESTIONS_OF_A_KIND]:
            color, subject = possible[place]
            questions.append(
                {
                    "question": _TEXT.format(color=_COLORS[color], subject=subject),
                    "answer": _answer(objects, color, subject),
                    "type": f"{kind} {subject}",
                }
            )
    return questions


def _answer(objects: _Objects, color: int, subject: str) -> str:
    centers, is_circle = objects
    if subject in ("left", "top"):
        return "yes" if centers[color, ("left", "top").index(subject)] < 0.5 else "no"
    if subject == "count":
        return str(int((is_circle == is_circle[color]).sum()))
    which = color
    if subject != "shape":
        order = _distances(centers)[color].argsort()
        which = order[1 if subject == "closest" else -1]
    return _SHAPES[int(is_circle[which])]
