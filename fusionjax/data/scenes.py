"""Scenes of two coloured shapes, drawn on the fly, with captions, sentences, questions and boxes."""

import operator
from collections.abc import Sequence
from typing import SupportsIndex, TypedDict, overload

import numpy as np

from fusionjax.data.grammar import SPLITS, Question, Statement, ask_questions, combinations, make_false
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
# In shares of the picture's side: the radius of a shape, and what stays free at the border and between two shapes.
_RADIUS = (0.125, 0.185)
_MARGIN, _GAP = 0.03, 0.05
# How far the two centres may be apart across the relation's direction, as a share of their distance along it.
_SLANT = 0.3


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
    """A sequence of pictures of two coloured shapes, each drawn when it is asked for.

    A picture depends on `seed`, `split` and its index alone, so any of them can be had at once, in any order, in any
    process. The pairs of objects of the validation and the test split (5 % and 15 % of all) are never seen together in
    training, in picture or in words, so a model must have learned the parts to be right about them.

    Each scene is a dictionary of: `image` uint8 `[image_size, image_size, 3]`; `captions`, all true captions of the
    grammar (such as "a red circle above a blue square"), and `caption`, one of them by chance; `sentence`, which is
    true of the picture (`label` 1, `label_name` "true") for one half of the scenes and differs in one thing for the
    other half; `questions` with their answers and types; `boxes`, the object that the first caption names first
    coming first; `id`.

    Args:
        split: "train", "validation" or "test".
        size: number of scenes; by default 10,000, 500 and 1,000. A longer sequence begins with the shorter one.
        image_size: side of the pictures in pixels, at least 16.
        seed: another seed gives other scenes of the same combinations.

    Raises:
        ValueError: the split is unknown, or `size`, `image_size` or `seed` is out of range.

    Example:
        >>> scenes = Scenes("test", size=10, image_size=32)
        >>> scenes[3]["caption"]
        'a purple circle below a red star'
        >>> scenes[3]["image"].shape
        (32, 32, 3)
    """

    def __init__(self, split: str = "train", size: int | None = None, image_size: int = 64, seed: int = 0) -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}. Choose one of these.")
        size = _DEFAULT_SIZES[split] if size is None else size
        if size < 0:
            raise ValueError(f"size must be 0 or more; got {size}. Give the number of scenes, or None for the default.")
        if image_size < 16:
            raise ValueError(
                f"image_size must be at least 16 pixels; got {image_size}. Smaller shapes cannot be told apart."
            )
        if seed < 0:
            raise ValueError(f"seed must be 0 or more; got {seed}. Give a non-negative integer.")
        self.split, self.size, self.image_size, self.seed = split, size, image_size, seed

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"Scenes({self.split!r}, size={self.size}, image_size={self.image_size}, seed={self.seed})"

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
        rng = np.random.default_rng((self.seed, SPLITS.index(self.split), index))
        pairs = combinations(self.split)
        first, second = pairs[int(rng.integers(len(pairs)))]
        relation = ("left of", "right of", "above", "below")[int(rng.integers(4))]
        true = Statement(first, relation, second)
        captions = [str(true), str(true.converse())]
        spoken = true if rng.random() < 0.5 else true.converse()
        label = _balanced_label(self.seed, index)
        image, boxes = _draw(true, self.image_size, rng)
        return {
            "id": f"scenes-{self.seed}-{self.split}-{index}",
            "image": image,
            "caption": captions[int(rng.integers(2))],
            "captions": captions,
            "sentence": str(spoken if label else make_false(spoken, rng)),
            "label": label,
            "label_name": _LABELS[label],
            "questions": ask_questions(spoken, rng),
            "boxes": boxes,
        }


def _balanced_label(seed: int, index: int) -> int:
    """Gives one scene of every two neighbours a true sentence, in an order that looks like chance."""
    mixed = ((seed * 2_654_435_761 + index // 2 + 1) * 0x9E3779B97F4A7C15) & (2**64 - 1)
    return ((mixed >> 40) ^ index) & 1


def _place(relation: str, radii: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Chooses the centres `[2 objects, (across, down)]`, in shares of the side, so that one relation alone holds."""
    free = 1 - 2 * _MARGIN - radii.sum()
    along = rng.uniform(radii.sum() + _GAP, free)
    across = rng.uniform(-_SLANT, _SLANT) * along
    # Offsets from the first to the second object, then the smallest and the largest place that the first can take.
    offset = np.array((along, across) if relation in ("left of", "right of") else (across, along))
    if relation in ("right of", "below"):
        offset = -offset
    low = np.maximum(_MARGIN + radii[0], _MARGIN + radii[1] - offset)
    high = np.minimum(1 - _MARGIN - radii[0], 1 - _MARGIN - radii[1] - offset)
    start = rng.uniform(low, high)
    return np.stack([start, start + offset])


def _draw(true: Statement, side: int, rng: np.random.Generator) -> tuple[np.ndarray, list[SceneBox]]:
    radii = rng.uniform(*_RADIUS, size=2)
    centers = _place(true.relation, radii, rng)
    # A light background whose shade runs from one corner to another.
    shades = rng.uniform(205, 250, size=3) + rng.uniform(-10, 10, size=(3, 3))
    ramp = np.linspace(0, 1, side, dtype=np.float32)
    canvas = (
        shades[0] + ramp[:, None, None] * (shades[1] - shades[0]) + ramp[None, :, None] * (shades[2] - shades[0])
    ).astype(np.float32)
    boxes: list[SceneBox] = []
    for thing, radius, center in zip((true.first, true.second), radii, centers, strict=True):
        paint = np.array(_PAINTS[thing.color]) * rng.uniform(0.85, 1.08) + rng.uniform(-12, 12, size=3)
        place = (float(center[0]) * side, float(center[1]) * side)
        box = paint_shape(canvas, thing.shape, paint.astype(np.float32), place, float(radius) * side)
        boxes.append({"box": box, "shape": thing.shape, "color": thing.color})
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8), boxes
