"""How the process keeps host memory."""

import ctypes
import importlib.util
import platform
from importlib.metadata import entry_points

import jax

# Of malloc.h: return free memory above so many bytes to the system; take blocks above so many bytes from it directly;
# so many arenas at most.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
# Older versions of the C library refuse the first block size.
_LARGEST_BLOCKS, _MOST_KEPT = (2**31 - 1, 2**25), 2**31 - 1


def keep_host_memory() -> bool:
    """Lets the process keep the memory that XLA's CPU programs free, up to 2 GiB, for their next run.

    A CPU program allocates its buffers anew at every call. The C library of most Linux systems gives large blocks back
    at once, so that every step of a training asks for all of its pages again: up to a fifth of the time of a step. The
    command line calls this first; a training loop of your own can, once, at its start, before JAX computes anything:
    threads that have allocated before keep their own part of the memory. All threads then allocate from one part. Where
    JAX computes on an accelerator that gains nothing, and the many threads that compile for it would wait for each
    other: up to nine times as long.

    Returns:
        Whether the C library took the settings; False, and nothing changed, where it is not glibc, or JAX computes on
        an accelerator.

    Example:
        >>> keep_host_memory() in (True, False)
        True

    References:
        mallopt(3) in the Linux manual.
    """
    if platform.libc_ver()[0] != "glibc" or not _computes_on_cpu():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    taken = any(mallopt(_MMAP_THRESHOLD, size) == 1 for size in _LARGEST_BLOCKS)
    # The arena of a thread other than the first cannot hold a block of 64 MiB, and would take each from the system.
    return taken and mallopt(_TRIM_THRESHOLD, _MOST_KEPT) == 1 and mallopt(_ARENA_MAX, 1) == 1


def _computes_on_cpu() -> bool:
    """Asks JAX itself, whose threads then start, only where an accelerator may be."""
    platforms: str | None = jax.config.jax_platforms  # type: ignore[attr-defined]
    if platforms:
        return platforms.split(",")[0] == "cpu"
    plugins = ("jax_plugins", "libtpu")
    if not entry_points(group="jax_plugins") and not any(map(importlib.util.find_spec, plugins)):
        return True
    return jax.default_backend() == "cpu"
