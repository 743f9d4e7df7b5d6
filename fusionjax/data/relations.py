"""Scenes of more than two coloured shapes: which shapes, where, and questions about their relations."""

import functools
from typing import Literal, NamedTuple

import numpy as np

from fusionjax.data.grammar import (
    OBJECTS,
    Question,
    SceneObject,
    Statement,
    ask_looks,
    ask_presence,
    combination_split,
)
from fusionjax.data.layout import place_objects

_ALIKE_AT_MOST = 4
# How often the objects that are not alike the named one are alike among themselves.
_RIVALS = 0.75


class Arrangement(NamedTuple):
    """Objects, those of the statement first; their centres and radii in shares of the side; what is asked of them."""

    things: tuple[SceneObject, ...]
    centers: np.ndarray
    radii: np.ndarray
    questions: list[Question]


def arrange(statement: Statement, count: int, split: str, rng: np.random.Generator) -> Arrangement:
    """Makes a scene in which a statement is true, of more than its two objects, and asks questions about it.

    Two ask for the colour and for the shape of the statement's first object, naming the second: of what is in the
    relation to it, or of what is nearest to it. The third asks how many objects, it included, have the shape or the
    colour of one of the two. The others ask for one object by itself: whether it is there, how it looks. In training no
    two objects of a scene are a combination of another split.

    Args:
        statement: of objects that are a combination of the split.
        count: of objects, 3 to 6.
        split: "train", "validation" or "test".
        rng: chooses the others, the places and what is asked.

    Returns:
        The scene and its questions, of the types relation or nearest (two), alike, exists and, where one word tells an
        object from the others, color and shape.

    Example:
        >>> true = Statement(SceneObject("red", "circle"), "above", SceneObject("blue", "star"))
        >>> for question in arrange(true, 4, "train", np.random.default_rng(1)).questions[:3]:
        ...     print(question["question"], question["answer"])
        what color is the object above the blue star? red
        what shape is the object above the blue star? circle
        how many objects have the shape of the red circle? 3
    """
    things, alike = _choose_objects(statement, count, split, rng)
    kind: Literal["relation", "nearest"] = "relation" if rng.random() < 0.5 else "nearest"
    where = statement.relation if kind == "relation" else "nearest to"
    found: list[Question] = [
        {
            "question": f"what {field} is the object {where} the {statement.second}?",
            "answer": getattr(statement.first, field),
            "type": kind,
        }
        for field in SceneObject._fields
    ]
    centers, radii = place_objects(count, statement.relation, kind, rng)
    thing = things[int(rng.integers(count))]
    alone = [ask_presence(thing, things, rng), *ask_looks(thing, things)]
    return Arrangement(things, centers, radii, [*found, alike, *alone])


def _choose_objects(
    statement: Statement, count: int, split: str, rng: np.random.Generator
) -> tuple[tuple[SceneObject, ...], Question]:
    """Chooses the other objects and asks how many are alike, so that small and large numbers are about as common."""
    pair = (statement.first, statement.second)
    named = pair[int(rng.integers(2))]
    shared = [field for field in SceneObject._fields if getattr(pair[0], field) == getattr(pair[1], field)]
    field = shared[0] if shared else SceneObject._fields[int(rng.integers(2))]
    low, high = 1 + len(shared), min(count - 1 + len(shared), _ALIKE_AT_MOST)
    # Of three objects two would be alike too often.
    number = high if shared and count == 3 else int(rng.integers(low, high + 1))
    roles = ["alike"] * (number - low)
    roles += ["rival" if rng.random() < _RIVALS else "other"] * (count - 2 - len(roles))
    is_same, may_meet = _has_same(field), _may_meet(split)
    is_alike = is_same[OBJECTS.index(named)]
    chosen = None
    while chosen is None:
        chosen = _complete([OBJECTS.index(thing) for thing in pair], roles, is_same, is_alike, may_meet, rng)
    text = f"how many objects have the {field} of the {named}?"
    answer = str(int(is_alike[chosen].sum()))
    return tuple(OBJECTS[place] for place in chosen), {"question": text, "answer": answer, "type": "alike"}


def _complete(
    chosen: list[int],
    roles: list[str],
    is_same: np.ndarray,
    is_alike: np.ndarray,
    may_meet: np.ndarray,
    rng: np.random.Generator,
) -> list[int] | None:
    """Adds an object for each role, or one that is not alike where there is none; None where there is none at all."""
    chosen = list(chosen)
    for role in roles:
        is_free = may_meet[chosen].all(0)
        if role == "alike":
            is_wanted = is_alike
        elif role == "rival":
            # Alike among themselves, so that the largest number is not always the answer.
            is_wanted = is_same[chosen].any(0) & ~is_alike
        else:
            is_wanted = ~is_alike
        places = np.flatnonzero(is_free & is_wanted)
        if not len(places):
            places = np.flatnonzero(is_free & ~is_alike)
        if not len(places):
            return None
        chosen.append(int(places[int(rng.integers(len(places)))]))
    return chosen


@functools.cache
def _may_meet(split: str) -> np.ndarray:
    """Says which objects `[objects, objects]` may be in one picture besides the pair that it is about."""
    return np.array(
        [
            [one != other and (split != "train" or combination_split(one, other) == "train") for other in OBJECTS]
            for one in OBJECTS
        ]
    )


@functools.cache
def _has_same(field: str) -> np.ndarray:
    """Says which objects `[objects, objects]` have the same colour or shape."""
    looks = np.array([getattr(thing, field) for thing in OBJECTS])
    return looks[:, None] == looks
