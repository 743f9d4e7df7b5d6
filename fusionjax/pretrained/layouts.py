"""How a tensor of PyTorch lies as parameters of ours: one object for both directions."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """Two functions that undo each other.

    Attributes:
        to_ours: one tensor of theirs to the tensors of a row's `ours`, in order.
        to_theirs: back.
    """

    to_ours: Callable[[np.ndarray], Sequence[np.ndarray]]
    to_theirs: Callable[[Sequence[np.ndarray]], np.ndarray]


def permuted(*axes: int) -> Layout:
    """The axes in another order.

    Args:
        axes: of theirs, in our order.

    Returns:
        The layout.

    Example:
        >>> layout = permuted(1, 0)
        >>> layout.to_ours(np.ones((3, 5)))[0].shape, layout.to_theirs([np.ones((5, 3))]).shape
        ((5, 3), (3, 5))
    """
    back = tuple(int(axis) for axis in np.argsort(axes))
    return Layout(lambda tensor: [tensor.transpose(axes)], lambda ours: ours[0].transpose(back))


def reshaped(ours: Sequence[int], theirs: Sequence[int]) -> Layout:
    """The same numbers in the same order under another shape.

    Args:
        ours: shape of the parameter.
        theirs: shape of the tensor.

    Returns:
        The layout.

    Example:
        >>> reshaped((5,), (1, 1, 5)).to_ours(np.ones((1, 1, 5)))[0].shape
        (5,)
    """
    return Layout(lambda tensor: [tensor.reshape(ours)], lambda parts: parts[0].reshape(theirs))


def split(count: int, part: Layout | None = None) -> Layout:
    """One tensor that holds several of ours one after the other along its first axis, such as query, key and value.

    Args:
        count: of parts, all of the same size.
        part: layout of each; None for that of ours.

    Returns:
        The layout of a row with `count` names of ours.

    Example:
        >>> [one.shape for one in split(3, DENSE).to_ours(np.ones((12, 7)))]
        [(7, 4), (7, 4), (7, 4)]
    """
    part = part or SAME

    def to_ours(tensor: np.ndarray) -> list[np.ndarray]:
        return [part.to_ours(one)[0] for one in np.split(tensor, count)]

    return Layout(to_ours, lambda ours: np.concatenate([part.to_theirs([one]) for one in ours]))


def after_flatten(channels: int, height: int, width: int) -> Layout:
    """The kernel of a dense layer that reads a flattened grid: theirs channels first, ours channels last.

    Args:
        channels: of the grid.
        height: of the grid.
        width: of the grid.

    Returns:
        The layout.

    Example:
        >>> after_flatten(2, 3, 5).to_ours(np.ones((7, 30)))[0].shape
        (30, 7)
    """

    def to_ours(tensor: np.ndarray) -> list[np.ndarray]:
        grid = tensor.reshape(-1, channels, height, width).transpose(2, 3, 1, 0)
        return [grid.reshape(-1, grid.shape[-1])]

    def to_theirs(ours: Sequence[np.ndarray]) -> np.ndarray:
        grid = ours[0].reshape(height, width, channels, -1).transpose(3, 2, 0, 1)
        return grid.reshape(len(grid), -1)

    return Layout(to_ours, to_theirs)


SAME = Layout(lambda tensor: [tensor], lambda ours: ours[0])
DENSE = permuted(1, 0)  # [outputs, inputs] of theirs
CONV = permuted(2, 3, 1, 0)  # [features, channels, height, width] of theirs
