"""The choice between the implementations of one operation."""

from collections.abc import Mapping

import jax


def on_platform(*platforms: str) -> bool:
    """Says whether JAX's default backend is one of the named ones (`"cpu"`, `"gpu"`, `"tpu"`)."""
    return jax.default_backend() in platforms


def select_implementation(
    operation: str, implementation: str | None, obstacles: Mapping[str, str | None], preferred: str
) -> str:
    """Returns the implementation to run: the named one, or else the first choice, or else the reference.

    Args:
        operation: the operation's name, for messages.
        implementation: what the caller asked for, or None to choose.
        obstacles: for every implementation, the reference first, None where it applies or else why it cannot.
        preferred: the implementation to choose where it applies.

    Returns:
        A key of `obstacles`.

    Raises:
        ValueError: there is no implementation of that name.
        NotImplementedError: the named implementation cannot serve this call.

    Example:
        >>> select_implementation("conv2d", None, {"xla": None, "taps": "the strides are (2, 2)"}, "taps")
        'xla'
    """
    if implementation is None:
        return preferred if obstacles[preferred] is None else next(iter(obstacles))
    if implementation not in obstacles:
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
    return implementation
