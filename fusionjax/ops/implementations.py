"""The choice between the implementations of one operation."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fusionjax.ops.choices import Choice, Selection, note_selection, read_choices

PLATFORMS = ("cpu", "gpu", "tpu")


class _Target(NamedTuple):
    platform: str
    num_devices: int | None


# A part of the key of JAX's caches: what was traced for one target is traced anew for another.
_target = jax.make_user_context(None)
_inside_loop = jax.make_user_context(False)
_only_references = jax.make_user_context(False)


@contextmanager
def for_platform(platform: str, num_devices: int | None = None) -> Iterator[None]:
    """Makes the operations that JAX traces inside of it choose their implementations for a platform.

    Without it they choose for JAX's default backend. Programs that are compiled on one machine for another, such as
    ahead of time for a TPU, need it around tracing: `jax.jit(...).lower(...)`. What was traced under another platform
    is not used again. It changes neither where arrays lie nor what a program is compiled for.

    Args:
        platform: `"cpu"`, `"gpu"` or `"tpu"`.
        num_devices: over how many devices a batch is spread; None for those that JAX has here.

    Yields:
        Nothing.

    Raises:
        ValueError: there is no platform of that name, or no device.

    Example:
        >>> with for_platform("tpu"):
        ...     on_platform("tpu"), on_platform("cpu", "gpu")
        (True, False)
    """
    if platform not in PLATFORMS:
        raise ValueError(f"the platform must be one of {', '.join(PLATFORMS)}; got {platform!r}. Name one of these.")
    if num_devices is not None and num_devices < 1:
        raise ValueError(
            f"num_devices must be at least 1; got {num_devices}. Leave it out for those that JAX has here."
        )
    with _target(_Target(platform, num_devices)):
        yield


@contextmanager
def inside_loop() -> Iterator[None]:
    """Makes the operations that JAX traces inside of it avoid what is slow in a loop.

    On a CPU XLA computes the gradient of a convolution for its kernel 15 to 90 times as slowly in the body of a loop
    (`jax.lax.scan`, `map`, `while_loop`) as outside of one (jax 0.10 and 0.12). Micro-batches and accumulated gradients
    of this library are within it already; a loop of your own over training steps needs it around what it traces.

    Yields:
        Nothing.

    Example:
        >>> with inside_loop():
        ...     is_inside_loop()
        True
    """
    with _inside_loop(True):
        yield


@contextmanager
def only_references() -> Iterator[None]:
    """Makes the operations that JAX traces inside of it run their plain references, where no implementation is named.

    What they compute is then written as its equations have it, to be counted or compared with.

    Yields:
        Nothing.

    Example:
        >>> with only_references():
        ...     select_implementation("conv2d", None, {"xla": None, "taps": None}, "taps")
        'xla'
    """
    with _only_references(True):
        yield


def is_inside_loop() -> bool:
    """Says whether `inside_loop` is around the call."""
    return bool(_inside_loop.value)


def target_platform() -> str:
    """Returns the platform of the `for_platform` around the call, or else JAX's default backend."""
    return jax.default_backend() if _target.value is None else _target.value.platform


def count_devices() -> int:
    """Returns over how many devices XLA may spread a batch: as `for_platform` says, or else all that JAX has here."""
    given = None if _target.value is None else _target.value.num_devices
    return jax.device_count() if given is None else given


def on_platform(*platforms: str) -> bool:
    """Says whether the operations run on one of the named platforms (`"cpu"`, `"gpu"`, `"tpu"`)."""
    return target_platform() in platforms


def select_implementation(
    operation: str,
    implementation: str | None,
    obstacles: Mapping[str, str | None],
    preferred: str,
    *,
    shape_class: str | None = None,
    dtype: DTypeLike | None = None,
    avoided: str | None = None,
) -> str:
    """Returns the implementation to run: the named one; or else the measured best, the first choice or the reference.

    Args:
        operation: the operation's name, for messages and the table of choices.
        implementation: what the caller asked for, or None to choose.
        obstacles: for every implementation, the reference first, None where it applies or else why it cannot.
        preferred: the implementation to choose where it applies and the table of choices has none that does.
        shape_class: of the call, of `fusionjax.ops.shape_classes`; None if it has none.
        dtype: of the computation.
        avoided: an implementation that the table of choices does not bring; it must be asked for, or preferred.

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
    if implementation is None and _only_references.value:
        implementation = next(iter(obstacles))
    elif implementation is None:
        choice = _find_choice(operation, shape_class, dtype_name)
        unfit = choice is None or obstacles.get(choice.implementation, "there is none of this name") is not None
        if unfit or (choice is not None and choice.implementation == avoided):
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
