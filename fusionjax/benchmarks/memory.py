"""The memory of this process, as the system counts it."""

import contextlib
import ctypes
from pathlib import Path


def resident_mb(entry: str) -> float:
    """Reads how much memory this process has.

    Args:
        entry: `VmRSS` now, `VmHWM` at most, `RssAnon` now without what is mapped from files.

    Returns:
        MB; 0 where the system does not tell.

    Example:
        >>> resident_mb("VmHWM") >= 0
        True
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(entry)), 0.0)


def give_back_free_memory() -> None:
    """Returns what has been freed to the system, so that it is not missing in the next peak."""
    with contextlib.suppress(OSError, TypeError, AttributeError):  # of C libraries, only glibc has the function
        ctypes.CDLL(None).malloc_trim(0)


def forget_peak() -> None:
    """Starts the count of the most memory anew, where the system lets it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
