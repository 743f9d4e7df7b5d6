"""Ctrl-C that lets the running step finish."""

import signal
import threading
import types
from typing import Any, Self


class InterruptGuard:
    """While open, the first Ctrl-C (SIGINT) only sets `requested`; a second one raises KeyboardInterrupt.

    Signals are delivered to the main thread alone, so in another thread this does nothing.

    Attributes:
        requested: whether Ctrl-C was pressed.

    Example:
        >>> with InterruptGuard() as guard:
        ...     guard.requested
        False
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def _handle(self, number: int, frame: types.FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
