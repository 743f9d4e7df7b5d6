"""Scenes of two or more coloured shapes, drawn on the fly, with captions, sentences, questions and boxes."""

import operator
from collections.abc import Sequence
from typing import SupportsIndex, TypedDict, overload

import numpy as np

from fusionjax.data.grammar import SPLITS, Question, SceneObject, Statement, ask_questions, combinations, make_false
from fusionjax.data.layout import place_pair
from fusionjax.data.relations import arrange
from fusionjax.data.shapes import paint_shape

_DEFAULT_SIZES = {"train": 10_000, "validation": 500, "test": 1_000}
_PAINTS = {
    "red": (214, 40, 40),
    "green": (46, 160, 67),
    "blue": (38, 84, 212),
    "yellow": (247, 214, 30),
    "purple": (140, 54, 176),
    "orange": (243, 129, 18),
}
_LABELS = ("false", "true")
# Of two shapes, in shares of the picture's side.
_RADIUS = (0.125, 0.185)


class SceneBox(TypedDict):
    """A shape of a scene: its box (left, top, right, bottom) in pixels, its shape and its colour."""

    box: tuple[float, float, float, float]
    shape: str
    color: str


class SceneExample(TypedDict):
    """A scene and what is true of it; see `Scenes`."""

    id: str
    image: np.ndarray
    caption: str
    captions: list[str]
    sentence: str
    label: int
    label_name: str
    questions: list[Question]
    boxes: list[SceneBox]


class Scenes(Sequence[SceneExample]):
    """A sequence of pictures of two to six coloured shapes, each drawn when it is asked for.

    A picture depends on `seed`, `split`, `objects` and its index alone, so any of them can be had at once, in any
    order, in any process. The pairs of objects of the validation and the test split (5 % and 15 % of all) are never
    seen together in training, in picture or in words, so a model must have learned the parts to be right about them.

    Each scene is a dictionary of: `image` uint8 `[image_size, image_size, 3]`; `captions`, all true captions of the
    grammar (such as "a red circle above a blue square"), and `caption`, one of them by chance; `sentence`, which is
    true of the picture (`label` 1, `label_name` "true") for one half of the scenes and differs in one thing for the
    other half; `questions` with their answers and types; `boxes`, the object that the first caption names first
    coming first; `id`.

    With more than two objects, all different, each scene is about a main pair, a combination of the split, whose boxes
    come first: captions and sentence speak of the pair alone. Two questions name an object of the pair and ask for the
    colour and the shape of the other: one half of the scenes ask what lies left of (right of, above, below) it, type
    `relation`, where one object alone lies further in that direction than to either side; the other half what is
    nearest to it, type `nearest`. The others are placed so that the answer is hardly more often than by chance the
    nearest or the outermost one of a `relation`, or the one straightest beside the named of a `nearest`. A third, type
    `alike`, asks how many objects have the shape (the color) of one of the pair, it included: 1 to 4. The rest ask for
    one object by itself: `exists` and, where one word tells it from the others, `color` and `shape`.

    Args:
        split: "train", "validation" or "test".
        size: number of scenes; by default 10,000, 500 and 1,000. A longer sequence begins with the shorter one.
        image_size: side of the pictures in pixels, at least 16; 32 for more than two objects.
        seed: another seed gives other scenes of the same combinations.
        objects: shapes in each picture, 2 to 6.

    Raises:
        ValueError: the split is unknown, or `size`, `image_size`, `seed` or `objects` is out of range.

    Example:
        >>> scenes = Scenes("test", size=10, image_size=32)
        >>> scenes[3]["caption"]
        'a purple circle below a red star'
        >>> scenes[3]["image"].shape
        (32, 32, 3)
    """

    def __init__(
        self, split: str = "train", size: int | None = None, image_size: int = 64, seed: int = 0, objects: int = 2
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}. Choose one of these.")
        size = _DEFAULT_SIZES[split] if size is None else size
        if size < 0:
            raise ValueError(f"size must be 0 or more; got {size}. Give the number of scenes, or None for the default.")
        if seed < 0:
            raise ValueError(f"seed must be 0 or more; got {seed}. Give a non-negative integer.")
        if not 2 <= objects <= 6:
            raise ValueError(f"objects must be 2 to 6 shapes in each picture; got {objects}. Choose one of these.")
        smallest = 16 if objects == 2 else 32
        if image_size < smallest:
            raise ValueError(
                f"image_size must be at least {smallest} pixels; got {image_size}. Smaller shapes cannot be told apart."
            )
        self.split, self.size, self.image_size, self.seed, self.objects = split, size, image_size, seed, objects

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        objects = "" if self.objects == 2 else f", objects={self.objects}"
        return f"Scenes({self.split!r}, size={self.size}, image_size={self.image_size}, seed={self.seed}{objects})"

    @overload
    def __getitem__(self, index: SupportsIndex) -> SceneExample: ...
    @overload
    def __getitem__(self, index: slice) -> list[SceneExample]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> SceneExample | list[SceneExample]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(self.size))]
        place = operator.index(index)
        if not -self.size <= place < self.size:
            raise IndexError(f"scene index must be in [0, {self.size}); got {place}. Ask for a larger size.")
        return self._make(place % self.size)

    def _make(self, index: int) -> SceneExample:
        key = (self.seed, SPLITS.index(self.split), index)
        rng = np.random.default_rng(key if self.objects == 2 else (*key, self.objects))
        pairs = combinations(self.split)
        first, second = pairs[int(rng.integers(len(pairs)))]
        relation = ("left of", "right of", "above", "below")[int(rng.integers(4))]
        true = Statement(first, relation, second)
        if self.objects > 2 and rng.random() < 0.5:
            true = true.converse()
        captions = [str(true), str(true.converse())]
        spoken = true if rng.random() < 0.5 else true.converse()
        label = _balanced_label(self.seed, index)
        if self.objects == 2:
            things: tuple[SceneObject, ...] = (true.first, true.second)
            radii = rng.uniform(*_RADIUS, size=2)
            centers, questions = place_pair(relation, radii, rng), None
        else:
            things, centers, radii, questions = arrange(true, self.objects, self.split, rng)
        image, boxes = _draw(things, centers, radii, self.image_size, rng)
        name = "scenes" if self.objects == 2 else f"scenes-of-{self.objects}"
        return {
            "id": f"{name}-{self.seed}-{self.split}-{index}",
            "image": image,
            "caption": captions[int(rng.integers(2))],
            "captions": captions,
            "sentence": str(spoken if label else _make_false_of(things, spoken, rng)),
            "label": label,
            "label_name": _LABELS[label],
            "questions": ask_questions(spoken, rng) if questions is None else questions,
            "boxes": boxes,
        }


def _make_false_of(things: Sequence[SceneObject], true: Statement, rng: np.random.Generator) -> Statement:
    """Changes a true statement into one that cannot be true of other objects of the scene by chance."""
    while True:
        false = make_false(true, rng)
        named = {false.first, false.second}
        if named == {true.first, true.second} or not named <= set(things):
            return false


def _balanced_label(seed: int, index: int) -> int:
    """Gives one scene of every two neighbours a true sentence, in an order that looks like chance."""
    mixed = ((seed * 2_654_435_761 + index // 2 + 1) * 0x9E3779B97F4A7C15) & (2**64 - 1)
    return ((mixed >> 40) ^ index) & 1


def _draw(
    things: Sequence[SceneObject], centers: np.ndarray, radii: np.ndarray, side: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[SceneBox]]:
    # A light background whose shade runs from one corner to another.
    shades = rng.uniform(205, 250, size=3) + rng.uniform(-10, 10, size=(3, 3))
    ramp = np.linspace(0, 1, side, dtype=np.float32)
    canvas = (
        shades[0] + ramp[:, None, None] * (shades[1] - shades[0]) + ramp[None, :, None] * (shades[2] - shades[0])
    ).astype(np.float32)
    boxes: list[SceneBox] = []
    for thing, radius, center in zip(things, radii, centers, strict=True):
        paint = np.array(_PAINTS[thing.color]) * rng.uniform(0.85, 1.08) + rng.uniform(-12, 12, size=3)
        place = (float(center[0]) * side, float(center[1]) * side)
        box = paint_shape(canvas, thing.shape, paint.astype(np.float32), place, float(radius) * side)
        boxes.append({"box": box, "shape": thing.shape, "color": thing.color})
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8), boxes
