"""Tests of `fusionjax.training.interrupt`."""

import os
import signal
import threading

import pytest

from fusionjax.training import InterruptGuard


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_first_press_is_noted_and_the_second_raises() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=r"^$"), InterruptGuard() as guard:
        assert not guard.requested
        press()
        assert guard.requested
        press()
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_are_left_alone() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def inside() -> None:
        with InterruptGuard() as guard:
            seen.extend([guard.requested, signal.getsignal(signal.SIGINT) is before])

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [False, True]
