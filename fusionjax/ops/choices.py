"""The table of choices: for each kind of call, the implementation that was measured to be the best."""

import functools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import resources
from typing import NamedTuple

import jax


class Choice(NamedTuple):
    """A row of the table.

    Attributes:
        platform: that it was measured on: `"cpu"`, `"gpu"` or `"tpu"`.
        jax: the minor version, such as `"0.10"`.
        op: the operation's name.
        shape_class: of `fusionjax.ops.shape_classes`.
        dtype: of the computation.
        implementation: the one to run.
        gain: plain Flax's time over its own, forward pass and training together.
    """

    platform: str
    jax: str
    op: str
    shape_class: str
    dtype: str
    implementation: str
    gain: float


class Selection(NamedTuple):
    """What an operation ran in a call.

    Attributes:
        op: the operation's name.
        shape_class: of the call; None if the operation has no classes.
        dtype: of the computation.
        implementation: that ran.
        choice: the row of the table that said so; None where the caller or the operation's rule did.
    """

    op: str
    shape_class: str | None
    dtype: str | None
    implementation: str
    choice: Choice | None


def choices_path() -> str:
    """Returns where the table in force lies."""
    return str(resources.files("fusionjax.ops") / "choices.json")


@functools.cache
def read_choices() -> Mapping[tuple[str, str, str], tuple[Choice, ...]]:
    """Reads the rows for the version of JAX that runs, once.

    Returns:
        By operation, shape class and dtype, a row for each platform.

    Example:
        >>> read_choices() is read_choices()
        True
    """
    table = json.loads((resources.files("fusionjax.ops") / "choices.json").read_text())
    found: dict[tuple[str, str, str], tuple[Choice, ...]] = {}
    for row in table:
        choice = Choice(**row)
        if choice.jax == jax_minor_version():
            key = choice.op, choice.shape_class, choice.dtype
            found[key] = (*found.get(key, ()), choice)
    return found


def jax_minor_version() -> str:
    """Returns the first two numbers of JAX's version."""
    return ".".join(jax.__version__.split(".")[:2])


_selections: ContextVar[list[Selection] | None] = ContextVar("selections", default=None)


@contextmanager
def record_selections() -> Iterator[list[Selection]]:
    """Lists what the operations called inside of it run, the outer operation before those that it calls.

    Yields:
        The list, which grows with every call that JAX traces or runs.

    Example:
        >>> import jax.numpy as jnp
        >>> from fusionjax.ops import max_pool2d
        >>> with record_selections() as selections:
        ...     _ = max_pool2d(jnp.ones((1, 4, 4, 1)), implementation="xla")
        >>> selections[0].op, selections[0].implementation
        ('max_pool2d', 'xla')
    """
    selections: list[Selection] = []
    token = _selections.set(selections)
    try:
        yield selections
    finally:
        _selections.reset(token)


def note_selection(selection: Selection) -> None:
    """Adds to the list of the `record_selections` around the call, if there is one.

    Args:
        selection: what an operation runs.
    """
    selections = _selections.get()
    if selections is not None:
        selections.append(selection)
