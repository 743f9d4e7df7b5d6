"""The table of an architecture: one row for each tensor, read in both directions."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from fusionjax.errors import InputError
from fusionjax.pretrained.layouts import CONV, DENSE, SAME, Layout

_MOST_NAMES = 5  # in a message

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Row:
    """Where a tensor of theirs lies in our variables.

    Attributes:
        ours: paths in the variables, such as `params/conv/kernel`: one, or several that theirs holds together.
        theirs: name of the tensor.
        layout: how it lies.
    """

    ours: tuple[str, ...]
    theirs: str
    layout: Layout = SAME


def conv_rows(ours: str, theirs: str, *, has_bias: bool = False) -> list[Row]:
    """The rows of a convolution.

    Args:
        ours: path of the layer below `params`.
        theirs: its name.
        has_bias: whether it has one.

    Returns:
        One or two rows.

    Example:
        >>> [row.theirs for row in conv_rows("stem", "conv1", has_bias=True)]
        ['conv1.weight', 'conv1.bias']
    """
    rows = [Row((f"params/{ours}/kernel",), f"{theirs}.weight", CONV)]
    return rows + [Row((f"params/{ours}/bias",), f"{theirs}.bias")] * has_bias


def dense_rows(ours: str, theirs: str, *, has_bias: bool = True, layout: Layout = DENSE) -> list[Row]:
    """The rows of a dense layer.

    Args:
        ours: path of the layer below `params`.
        theirs: its name.
        has_bias: whether it has one.
        layout: of the kernel.

    Returns:
        One or two rows.

    Example:
        >>> [row.ours for row in dense_rows("head", "fc")]
        [('params/head/kernel',), ('params/head/bias',)]
    """
    rows = [Row((f"params/{ours}/kernel",), f"{theirs}.weight", layout)]
    return rows + [Row((f"params/{ours}/bias",), f"{theirs}.bias")] * has_bias


def norm_rows(ours: str, theirs: str, leaves: tuple[str, str] = ("weight", "bias")) -> list[Row]:
    """The rows of a layer or group normalisation.

    Args:
        ours: path of the layer below `params`.
        theirs: its name.
        leaves: names of its two tensors.

    Returns:
        Two rows.

    Example:
        >>> [row.theirs for row in norm_rows("norm", "ln_1")]
        ['ln_1.weight', 'ln_1.bias']
    """
    return [
        Row((f"params/{ours}/{leaf}",), f"{theirs}.{name}")
        for leaf, name in zip(("scale", "bias"), leaves, strict=True)
    ]


def batch_norm_rows(ours: str, theirs: str) -> list[Row]:
    """The rows of a batch normalisation, with its running statistics.

    Args:
        ours: path of the layer below `params` and `batch_stats`.
        theirs: its name.

    Returns:
        Four rows.

    Example:
        >>> [row.ours for row in batch_norm_rows("norm", "bn1")][2:]
        [('batch_stats/norm/mean',), ('batch_stats/norm/var',)]
    """
    return [
        *norm_rows(ours, theirs),
        Row((f"batch_stats/{ours}/mean",), f"{theirs}.running_mean"),
        Row((f"batch_stats/{ours}/var",), f"{theirs}.running_var"),
    ]


def variables_from(
    rows: Sequence[Row],
    shapes: Shapes,
    read: Callable[[str], np.ndarray],
    expected: Any,
    *,
    is_ignored: Callable[[str], bool] = lambda name: False,
    place: Callable[[str, np.ndarray], Any] = lambda path, value: value,
    source: str = "the weights",
) -> dict[str, Any]:
    """Makes variables from tensors, one after the other, after every name and shape has been checked.

    Args:
        rows: of the architecture.
        shapes: of the tensors there are, by name.
        read: gives a tensor by name.
        expected: the variables' tree of `jax.ShapeDtypeStruct`.
        is_ignored: whether a tensor that no row names may be there.
        place: takes the path and the value of a variable and brings it to its device.
        source: what the weights are, for messages.

    Returns:
        The variables, in the dtypes of `expected`.

    Raises:
        InputError: tensors are missing or unexpected, or one has another shape or kind.

    Example:
        >>> expected = {"params": {"head": {"kernel": jax.ShapeDtypeStruct((3, 5), np.float32)}}}
        >>> rows = dense_rows("head", "fc", has_bias=False)
        >>> variables = variables_from(rows, {"fc.weight": (5, 3)}, lambda name: np.ones((5, 3)), expected)
        >>> variables["params"]["head"]["kernel"].shape
        (3, 5)
    """
    structs = flatten_dict(expected, sep="/")
    _check_table(rows, structs)
    _check_names([row.theirs for row in rows], [name for name in shapes if not is_ignored(name)], source)
    for row in rows:
        _check_shape(row, tuple(shapes[row.theirs]), structs, source)
    found = {}
    for row in rows:
        tensor = read(row.theirs)
        if not _is_number(tensor):
            raise InputError(
                f"{source}: {row.theirs} must hold floating-point numbers; got {tensor.dtype}. Give the weights as "
                "they were trained, not quantised."
            )
        for path, value in zip(row.ours, row.layout.to_ours(tensor), strict=True):
            found[path] = place(path, value.astype(structs[path].dtype, copy=False))
    return unflatten_dict(found, sep="/")


def tensors_from(rows: Sequence[Row], variables: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Makes tensors from variables.

    Args:
        rows: of the architecture.
        variables: of the model.

    Yields:
        Name and tensor of each row.

    Raises:
        InputError: the variables are not those of the architecture.

    Example:
        >>> [(name, tensor)] = tensors_from([Row(("params/a",), "b")], {"params": {"a": np.ones(3)}})
        >>> name, tensor.shape
        ('b', (3,))
    """
    flat = flatten_dict(variables, sep="/")
    _check_names([path for row in rows for path in row.ours], list(flat), "the variables")
    for row in rows:
        yield row.theirs, np.asarray(row.layout.to_theirs([np.asarray(flat[path]) for path in row.ours]), order="C")


def _check_table(rows: Sequence[Row], structs: Mapping[str, Any]) -> None:
    named = {path for row in rows for path in row.ours}
    if named != set(structs):
        raise ValueError(
            "the rows must name every variable of the model once; they differ in "
            f"{', '.join(sorted(named ^ set(structs))[:_MOST_NAMES])}. Mend the table of the architecture."
        )


def _check_names(wanted: Sequence[str], given: Sequence[str], source: str) -> None:
    missing, unexpected = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    if missing or unexpected:
        raise InputError(
            f"{source} must have the {len(wanted)} tensors of the architecture; missing: {_list(missing)}; unexpected: "
            f"{_list(unexpected)}. Name another architecture, or other weights."
        )


def _list(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _is_number(tensor: np.ndarray) -> bool:
    return bool(jax.numpy.issubdtype(tensor.dtype, np.floating))


def _check_shape(row: Row, shape: tuple[int, ...], structs: Mapping[str, Any], source: str) -> None:
    blanks = [np.broadcast_to(np.zeros((), np.float32), structs[path].shape) for path in row.ours]
    wanted = row.layout.to_theirs(blanks).shape
    if shape != wanted:
        raise InputError(
            f"{source}: {row.theirs} must have shape {list(wanted)}; got {list(shape)}. Name another "
            "architecture, or other weights."
        )
