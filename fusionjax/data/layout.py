"""Where the shapes of a scene lie: two in a relation, and others that leave no doubt about it."""

from typing import Literal

import numpy as np

# In shares of the picture's side: what stays free at the border and between two shapes, and between more of them.
_MARGIN, _GAP, _NARROW_GAP = 0.03, 0.05, 0.03
# How far the two centres may be apart across the relation's direction, as a share of their distance along it.
_SLANT = 0.3
# Of more than two: the radii, how far the first two may be apart, and by how much the others miss the right answer and
# rivals exceed it.
_RADIUS, _LONGEST, _CLEAR, _BEYOND = (0.085, 0.11), 0.45, 0.07, 0.03
# Places tried for each of the other shapes before all begin again.
_TRIES = 96
_AHEAD: dict[str, tuple[float, float]] = {
    "left of": (-1.0, 0.0),
    "right of": (1.0, 0.0),
    "above": (0.0, -1.0),
    "below": (0.0, 1.0),
}


def place_pair(relation: str, radii: np.ndarray, rng: np.random.Generator, longest: float = 1.0) -> np.ndarray:
    """Chooses the centres of two shapes so that one relation alone holds.

    Args:
        relation: of the first to the second.
        radii: `[2]`, in shares of the side.
        rng: chooses.
        longest: distance along the relation's direction.

    Returns:
        `[2 objects, (across, down)]`, in shares of the side.
    """
    free = min(1 - 2 * _MARGIN - radii.sum(), longest)
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


def place_objects(
    count: int, relation: str, asked: Literal["relation", "nearest"], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Chooses centres and radii of more than two shapes so that the first alone answers a question about the second.

    The first is in the relation to the second and in no other: it lies further in that direction than to either side.
    Every other misses that by a clear margin (`asked` "relation"), or is clearly further from the second ("nearest").
    So that no simpler rule finds the first, others are often further out in the direction or nearer to the second
    ("relation"), or straighter beside it ("nearest"). Where a shape finds no room all are placed again.

    Args:
        count: of shapes, 3 to 6.
        relation: of the first to the second.
        asked: the question.
        rng: chooses.

    Returns:
        Centres `[count, (across, down)]` and radii `[count]`, in shares of the side.

    Example:
        >>> centers, radii = place_objects(5, "left of", "relation", np.random.default_rng(0))
        >>> centers.shape, bool(centers[0, 0] + radii[0] < centers[1, 0] - radii[1])
        ((5, 2), True)
    """
    roles = _choose_roles(count, asked, rng)
    while True:
        radii = rng.uniform(*_RADIUS, size=count)
        pair = place_pair(relation, radii[:2], rng, _LONGEST)
        places, suits = _choose_places(pair, relation, asked, rng)
        centers = list(pair)
        for radius, role in zip(radii[2:], roles, strict=True):
            # Boxes are apart where the centres are, along one of the two directions.
            apart = np.abs(places[:, None] - np.array(centers)).max(-1)
            is_free = suits[role] & (apart >= radius + radii[: len(centers)] + _NARROW_GAP).all(1)
            if not is_free.any():
                break
            centers.append(places[is_free.argmax()])
        else:
            return np.array(centers), radii


def _choose_roles(count: int, asked: str, rng: np.random.Generator) -> list[str]:
    """Says what each of the others must be, so that such rules are right hardly more often than a guess."""
    is_often, is_half = rng.random(2) < (1 - 1 / (count - 1), 0.5)
    roles = []
    if asked == "nearest":
        roles += ["straighter"] if is_half else []
    elif count == 3:
        roles += ["further" if is_half else "nearer"]
    else:
        roles += (["further"] if is_often else []) + (["nearer"] if is_half else [])
    return roles + ["any"] * (count - 2 - len(roles))


def _choose_places(
    pair: np.ndarray, relation: str, asked: str, rng: np.random.Generator
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Lists places `[places, 2]` where another shape leaves the answer clear, and which of them suit each role."""
    edge = _MARGIN + _RADIUS[1]
    # The answer's own place comes first.
    places = np.concatenate([pair[:1], rng.uniform(edge, 1 - edge, (_TRIES, 2))])
    offsets = places - pair[1]
    distances, ahead = np.hypot(*offsets.T), np.array(_AHEAD[relation])
    along, across = offsets @ ahead, np.abs(offsets @ ahead[::-1])
    slants = np.abs(offsets).min(1) / np.abs(offsets).max(1)
    is_clear = along + _CLEAR <= across if asked == "relation" else distances >= distances[0] + _CLEAR
    suits = {
        "any": is_clear,
        "further": along > along[0] + _BEYOND,
        "nearer": distances < distances[0] - _BEYOND,
        "straighter": slants < slants[0],
    }
    return places[is_clear], {role: does[is_clear] for role, does in suits.items()}
