"""Tests of `fusionjax.training.progress`."""

import io
from typing import Any

import pytest

from fusionjax.training import Progress
from fusionjax.training import progress as module


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that a test sets."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_plain_lines_say_loss_speed_and_time_left(clock: Clock) -> None:
    stream = io.StringIO()
    progress = Progress(1010, start_step=10, stream=stream, plain_every_s=5.0)
    for step in range(11, 21):
        clock.now += 1.0
        progress.update(step, examples=32)
        progress.show(step, {"train/loss": 3.25})
    # 10 steps of 32 in 10 s; 990 steps are left.
    assert progress.examples_per_second == pytest.approx(32.0)
    assert progress.seconds_left == pytest.approx(990.0)
    assert stream.getvalue().splitlines() == [
        "step 15/1010  loss 3.2500  32.0 images/s  16:35 left",
        "step 20/1010  loss 3.2500  32.0 images/s  16:30 left",
    ]


def test_last_step_is_always_shown_and_hours_are_written(clock: Clock) -> None:
    stream = io.StringIO()
    progress = Progress(4, stream=stream, unit="sentences")
    clock.now += 3600
    progress.update(1, 8)
    progress.show(1, {"loss": 2.0})
    progress.show(1, {"validation/accuracy": 0.5})
    progress.show(4, {"loss": 1.0})
    first, last = stream.getvalue().splitlines()
    assert first == "step 1/4  loss 2.0000  0.0 sentences/s  3:00:00 left"
    assert last.startswith("step 4/4  loss 1.0000")


def test_what_has_no_loss(clock: Clock) -> None:
    stream = io.StringIO()
    progress = Progress(6, stream=stream, unit="texts", label="texts", plain_every_s=5.0)
    for step in range(1, 7):
        clock.now += 2.0
        progress.update(step, 1)
        progress.show(step, None)
        progress.show(step, {})
    assert stream.getvalue().splitlines() == ["texts 3/6  0.5 texts/s  0:06 left", "texts 6/6  0.5 texts/s  0:00 left"]


def test_quiet_shows_only_messages() -> None:
    stream = io.StringIO()
    with Progress(4, stream=stream, quiet=True, plain_every_s=0.0) as progress:
        progress.update(4, 8)
        progress.show(4, {"loss": 1.0})
        progress.message("saved")
    assert stream.getvalue() == "saved\n"


def test_bar_on_a_terminal() -> None:
    stream = Terminal()
    with Progress(4, stream=stream) as progress:
        progress.show(2, {"train/loss": 2.5})
        progress.update(2, 8)
        progress.message("a [message] above the bar")
    progress.close()
    text = stream.getvalue()
    assert "step 2/4" in text and "loss 2.5000" in text and "images/s" in text
    assert "a [message] above the bar\n" in text


def test_standard_error_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(1, plain_every_s=0.0) as progress:
        progress.show(1, {"loss": 1.0})
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("step 1/1  loss 1.0000")


def test_missing_rich_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, **settings: Any) -> Any:
        raise ImportError(f'pip install "fusionjax[{settings["extra"]}]"')

    monkeypatch.setattr(module, "require", missing)
    Progress(4, stream=io.StringIO()).message("no need of rich")
    with pytest.raises(ImportError, match=r'pip install "fusionjax\[cli\]"'):
        Progress(4, stream=Terminal())
