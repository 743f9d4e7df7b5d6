"""What is said about a pair of coloured shapes in a scene: captions, sentences that are true or false, questions."""

import functools
import hashlib
import itertools
from collections.abc import Sequence
from typing import NamedTuple, NotRequired, TypedDict, TypeVar

import numpy as np

from fusionjax.data.shapes import SHAPES

COLORS: tuple[str, ...] = ("red", "green", "blue", "yellow", "purple", "orange")
# Each relation with the one that holds the other way round.
RELATIONS: dict[str, str] = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
SPLITS: tuple[str, ...] = ("train", "validation", "test")

_TEST_SHARE, _VALIDATION_SHARE = 0.15, 0.05
_Item = TypeVar("_Item")


class SceneObject(NamedTuple):
    """A coloured shape, such as a red circle."""

    color: str
    shape: str

    def __str__(self) -> str:
        return f"{self.color} {self.shape}"


class Statement(NamedTuple):
    """That the first object is in a relation to the second, such as a red circle above a blue square."""

    first: SceneObject
    relation: str
    second: SceneObject

    def __str__(self) -> str:
        return f"{_article(self.first)} {self.relation} {_article(self.second)}"

    def converse(self) -> "Statement":
        """Returns the statement that says the same from the other side."""
        return Statement(self.second, RELATIONS[self.relation], self.first)


class Question(TypedDict):
    """A question about an image, its answer, and its type.

    The types are color, shape, object, verify, exists and count of a scene of two objects; relation, nearest, alike,
    exists, color and shape of one of more. `answers` are those of several people, where there are any; `answer` is then
    the commonest.
    """

    question: str
    answer: str
    type: str
    answers: NotRequired[list[str]]


OBJECTS: tuple[SceneObject, ...] = tuple(itertools.starmap(SceneObject, itertools.product(COLORS, SHAPES)))


def _article(thing: SceneObject) -> str:
    return f"{'an' if thing.color[0] in 'aeiou' else 'a'} {thing}"


@functools.cache
def combination_split(first: tuple[str, str], second: tuple[str, str]) -> str:
    """Says in which split two objects may be seen together: a fixed hash holds back 15 % for test, 5 % for validation.

    The order of the two does not matter, nor does the seed of the scenes: what is held back is always the same.

    Args:
        first: its colour and its shape.
        second: those of the other object.

    Returns:
        "train", "validation" or "test".

    Example:
        >>> combination_split(("red", "circle"), ("blue", "star"))
        'train'
    """
    name = " and ".join(sorted((" ".join(first), " ".join(second))))
    place = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) / 2**64
    if place < _TEST_SHARE:
        return "test"
    return "validation" if place < _TEST_SHARE + _VALIDATION_SHARE else "train"


@functools.cache
def combinations(split: str) -> tuple[tuple[SceneObject, SceneObject], ...]:
    """Lists the pairs of different objects that may be seen together in a split.

    Example:
        >>> [len(combinations(split)) for split in SPLITS]
        [353, 21, 61]
    """
    return tuple(pair for pair in itertools.combinations(OBJECTS, 2) if combination_split(*pair) == split)


def _choose(rng: np.random.Generator, items: Sequence[_Item]) -> _Item:
    return items[int(rng.integers(len(items)))]


def _repainted(statement: Statement, field: str, values: Sequence[str]) -> list[Statement]:
    """Lists the statements that differ in one colour (or one shape) and stay within the split of the combination."""
    split = combination_split(statement.first, statement.second)
    changed = [
        statement._replace(**{which: getattr(statement, which)._replace(**{field: value})})
        for which in ("first", "second")
        for value in values
        if value != getattr(getattr(statement, which), field)
    ]
    return [
        other
        for other in changed
        if other.first != other.second and combination_split(other.first, other.second) == split
    ]


def make_false(statement: Statement, rng: np.random.Generator) -> Statement:
    """Changes one thing about a true statement so that it is false of the same scene.

    The one thing is the relation, the order of the objects, a colour or a shape. The combination of objects that it
    speaks of is always one of the same split, so that no sentence of the training split mentions a held-out combination
    and the words alone do not give the answer away.

    Args:
        statement: one that is true of the scene.
        rng: chooses what is changed.

    Returns:
        The false statement.

    Example:
        >>> true = Statement(SceneObject("red", "circle"), "above", SceneObject("blue", "star"))
        >>> str(make_false(true, np.random.default_rng(1)))
        'a blue star above a red circle'
    """
    kind = _choose(rng, ("relation", "order", "color", "shape"))
    changed: list[Statement] = []
    if kind == "color":
        changed = _repainted(statement, "color", COLORS)
    elif kind == "shape":
        changed = _repainted(statement, "shape", SHAPES)
    if kind == "order" or (kind != "relation" and not changed):
        return Statement(statement.second, statement.relation, statement.first)
    if kind == "relation":
        changed = [statement._replace(relation=other) for other in RELATIONS if other != statement.relation]
    return _choose(rng, changed)


def ask_looks(thing: SceneObject, present: Sequence[SceneObject]) -> list[Question]:
    """Asks for the colour and the shape of an object, where its other word tells it from all others.

    Args:
        thing: the object.
        present: all of the scene.

    Returns:
        None to two questions, of the types color and shape.

    Example:
        >>> thing, other = SceneObject("red", "circle"), SceneObject("red", "star")
        >>> ask_looks(thing, (thing, other))
        [{'question': 'what color is the circle?', 'answer': 'red', 'type': 'color'}]
    """
    others = [other for other in present if other != thing]
    questions: list[Question] = []
    if all(other.shape != thing.shape for other in others):
        questions.append({"question": f"what color is the {thing.shape}?", "answer": thing.color, "type": "color"})
    if all(other.color != thing.color for other in others):
        text = f"what shape is the {thing.color} object?"
        questions.append({"question": text, "answer": thing.shape, "type": "shape"})
    return questions


def ask_presence(thing: SceneObject, present: Sequence[SceneObject], rng: np.random.Generator) -> Question:
    """Asks whether an object is there: in one half of all cases the given one, else one that is not.

    Args:
        thing: the object.
        present: all of the scene.
        rng: chooses.

    Returns:
        The question, of the type exists.

    Example:
        >>> thing = SceneObject("red", "circle")
        >>> ask_presence(thing, (thing,), np.random.default_rng(1))["answer"]
        'no'
    """
    absent = [other for other in OBJECTS if other not in present]
    is_there = rng.random() < 0.5
    named = thing if is_there else _choose(rng, absent)
    text = f"is there {_article(named)}?"
    return {"question": text, "answer": "yes" if is_there else "no", "type": "exists"}


def ask_questions(statement: Statement, rng: np.random.Generator) -> list[Question]:
    """Asks one question of every type that has a single right answer about a scene.

    Args:
        statement: one that is true of the scene.
        rng: chooses what is asked; questions of yes or no get each answer half of the time.

    Returns:
        Four to six questions: color and shape only where the other word tells the two objects apart.

    Example:
        >>> true = Statement(SceneObject("red", "circle"), "above", SceneObject("blue", "star"))
        >>> ask_questions(true, np.random.default_rng(0))[0]
        {'question': 'what color is the star?', 'answer': 'blue', 'type': 'color'}
    """
    present = (statement.first, statement.second)
    thing = _choose(rng, present)
    questions = ask_looks(thing, present)
    text = f"what is {statement.relation} the {statement.second}?"
    questions.append({"question": text, "answer": str(statement.first), "type": "object"})

    is_true = rng.random() < 0.5
    claim = statement if is_true else make_false(statement, rng)
    text = f"is the {claim.first} {claim.relation} the {claim.second}?"
    questions.append({"question": text, "answer": "yes" if is_true else "no", "type": "verify"})

    questions.append(ask_presence(thing, present, rng))

    shape = _choose(rng, SHAPES) if rng.random() < 0.5 else thing.shape
    count = sum(other.shape == shape for other in present)
    plural = f"{shape}es" if shape.endswith("s") else f"{shape}s"
    questions.append({"question": f"how many {plural} are there?", "answer": str(count), "type": "count"})
    return questions
