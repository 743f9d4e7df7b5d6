"""Tensors that a file holds twice, or under the name of their copy."""

from collections.abc import Mapping

import numpy as np

from fusionjax.errors import InputError
from fusionjax.pretrained.files import Weights


def without_copies(weights: Weights, copies: Mapping[str, str]) -> Weights:
    """Leaves out what only repeats another tensor.

    Args:
        weights: as they lie in the files.
        copies: names of copies, and of what each repeats.

    Returns:
        The weights under the names of what is repeated; where a file has only the copy, it is read.

    Example:
        >>> from pathlib import Path
        >>> weights = Weights(Path("w"), {"head": (3, 5)}, {"head": np.ones((3, 5))}.__getitem__, {})
        >>> found = without_copies(weights, {"head": "words"})
        >>> found.shapes, found.read("words").shape
        ({'words': (3, 5)}, (3, 5))
    """
    # Copies come first, so that what stands under its own name is taken from there.
    stored = sorted(weights.shapes, key=lambda name: name not in copies)
    places = {copies.get(name, name): name for name in stored}
    shapes = {name: weights.shapes[place] for name, place in places.items()}
    return weights._replace(shapes=shapes, read=lambda name: weights.read(places[name]))


def check_copies(weights: Weights, copies: Mapping[str, str], source: str) -> None:
    """Checks that copies equal what they repeat.

    Args:
        weights: as they lie in the files.
        copies: names of copies, and of what each repeats.
        source: what the weights are, for messages.

    Raises:
        InputError: one differs.
    """
    for copy, name in copies.items():
        is_twice = copy in weights.shapes and name in weights.shapes
        if is_twice and not np.array_equal(weights.read(copy), weights.read(name)):
            raise InputError(
                f"{source}: {copy} must repeat {name}, with which it is tied; got other values. Give weights that were "
                "trained with the two tied."
            )
