"""Classes of a photograph, the most probable first."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Label:
    """A class of a photograph.

    Attributes:
        label: its name.
        probability: among the classes asked for, in (0, 1].
    """

    label: str
    probability: float


def most_probable(names: Sequence[str], probabilities: np.ndarray, top: int) -> list[Label]:
    """Picks the most probable classes.

    Args:
        names: of the classes.
        probabilities: of each, `[classes]`.
        top: how many at most.

    Returns:
        The classes, the most probable first; of equal ones the first.

    Example:
        >>> most_probable(["cat", "dog", "cup"], np.array([0.2, 0.7, 0.1]), 2)
        [Label(label='dog', probability=0.7), Label(label='cat', probability=0.2)]
    """
    best = np.argsort(-probabilities, kind="stable")[:top]
    return [Label(names[place], float(probabilities[place])) for place in best]
