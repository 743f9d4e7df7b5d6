"""Tables of architectures at work: tensors into variables, and traces that tests share."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fusionjax.pretrained.architecture import Architecture
from fusionjax.pretrained.rows import variables_from

Tensors = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]

_EXPECTED: dict[Any, Any] = {}


def recognise(among: Sequence[Architecture], shapes: Shapes, config: Mapping[str, Any]) -> tuple[Architecture, Any]:
    """The one architecture that takes these tensors for its own."""
    found = [(one, one.recognise(shapes, config)) for one in among]
    (pair,) = [(one, sizes) for one, sizes in found if sizes is not None]
    return pair


def shapes_of(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def expected_of(architecture: Architecture, sizes: Any) -> Any:
    """Shapes of the variables, traced once for all sizes that differ in numbers that change no shape."""
    key = architecture.build, _without_floats(sizes)
    if key not in _EXPECTED:
        model = architecture.build(sizes)
        _EXPECTED[key] = jax.eval_shape(model.init, jax.random.key(0), *architecture.example(sizes))
    return _EXPECTED[key]


def _without_floats(value: Any) -> Any:
    """What of a description of sizes can change a shape: not an epsilon, nor the means of channels."""
    if dataclasses.is_dataclass(value):
        return tuple(_without_floats(getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, tuple):
        return tuple(map(_without_floats, value))
    return None if isinstance(value, float) else value


def load(tensors: Tensors, architecture: Architecture, sizes: Any) -> Any:
    return variables_from(
        architecture.rows(sizes),
        shapes_of(tensors),
        tensors.__getitem__,
        expected_of(architecture, sizes),
        is_ignored=architecture.is_ignored,
    )


def shapes_written(architecture: Architecture, sizes: Any) -> dict[str, tuple[int, ...]]:
    """Of every tensor that the table would write, from zeros that take no memory."""
    blank = jax.tree.map(
        lambda leaf: np.broadcast_to(np.zeros((), np.float32), leaf.shape), expected_of(architecture, sizes)
    )
    return {
        row.theirs: row.layout.to_theirs([_at(blank, path) for path in row.ours]).shape
        for row in architecture.rows(sizes)
    }


def _at(tree: Any, path: str) -> np.ndarray:
    return functools.reduce(lambda node, key: node[key], path.split("/"), tree)
