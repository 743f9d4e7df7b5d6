"""The choice between the implementations of one operation."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fusionjax.ops.choices import Choice, Selection, note_selection, read_choices


def on_platform(*platforms: str) -> bool:
    """Says whether JAX's default backend is one of the named ones (`"cpu"`, `"gpu"`, `"tpu"`)."""
    return jax.default_backend() in platforms


def select_implementation(
    operation: str,
    implementation: str | None,
    obstacles: Mapping[str, str | None],
    preferred: str,
    *,
    shape_class: str | None = None,
    dtype: DTypeLike | None = None,
) -> str:
    """Returns the implementation to run: the named one; or else the measured best, the first choice or the reference.

    Args:
        operation: the operation's name, for messages and the table of choices.
        implementation: what the caller asked for, or None to choose.
        obstacles: for every implementation, the reference first, None where it applies or else why it cannot.
        preferred: the implementation to choose where it applies and the table of choices has none that does.
        shape_class: of the call, of `fusionjax.ops.shape_classes`; None if it has none.
        dtype: of the computation.

    Returns:
        A key of `obstacles`.

    Raises:
        ValueError: there is no implementation of that name.
        NotImplementedError: the named implementation cannot serve this call.

    Example:
        >>> select_implementation("conv2d", None, {"xla": None, "taps": "the strides are (2, 2)"}, "taps")
        'xla'
    """
    dtype_name = None if dtype is None else str(jnp.dtype(dtype))
    choice = None
    if implementation is None:
        choice = _find_choice(operation, shape_class, dtype_name)
        if choice is not None and obstacles.get(choice.implementation, "there is none of this name") is not None:
            choice = None
        fallback = preferred if obstacles[preferred] is None else next(iter(obstacles))
        implementation = fallback if choice is None else choice.implementation
    elif implementation not in obstacles:
        names = ", ".join(repr(name) for name in obstacles)
        raise ValueError(
            f"{operation} has the implementations {names}; got {implementation!r}. Name one of them, or None to choose."
        )
    obstacle = obstacles[implementation]
    if obstacle is not None:
        raise NotImplementedError(
            f"{operation} with implementation={implementation!r} cannot serve this call: {obstacle}. "
            "Pass implementation=None to choose one that can."
        )
    note_selection(Selection(operation, shape_class, dtype_name, implementation, choice))
    return implementation


def _find_choice(operation: str, shape_class: str | None, dtype: str | None) -> Choice | None:
    if shape_class is None or dtype is None:
        return None
    rows = read_choices().get((operation, shape_class, dtype), ())
    return next((row for row in rows if on_platform(row.platform)), None)
