"""What a run shows on standard error while it trains."""

import sys
import time
import types
from collections.abc import Mapping
from typing import Any, Self, TextIO

from fusionjax._extras import require

_SHOWN = ("train/loss", "loss")


class Progress:
    """Shows step, loss, images per second and time left: a bar on a terminal, else a line now and then.

    Args:
        total_steps: the step at which the run ends.
        start_step: the step from which it goes on.
        quiet: shows nothing but messages.
        stream: where to write; None is standard error.
        unit: what an example is called.
        label: what is counted.
        plain_every_s: seconds between lines where the stream is not a terminal.

    Raises:
        ImportError: the stream is a terminal and rich is not installed.

    Example:
        >>> import io
        >>> with Progress(4, stream=io.StringIO(), plain_every_s=0.0) as progress:
        ...     progress.update(1, examples=8)
        ...     progress.show(1, {"train/loss": 2.5})
        ...     progress.stream.getvalue()[:23]
        'step 1/4  loss 2.5000  '
    """

    def __init__(
        self,
        total_steps: int,
        *,
        start_step: int = 0,
        quiet: bool = False,
        stream: TextIO | None = None,
        unit: str = "images",
        label: str = "step",
        plain_every_s: float = 10.0,
    ) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.total_steps = total_steps
        self.unit = unit
        self._label = label
        self._quiet = quiet
        self._plain_every_s = plain_every_s
        self._start_step = self._step = start_step
        self._examples = 0
        self._loss = ""
        self._started = self._last_line = time.monotonic()
        self._bar: Any = None
        self._task: Any = None
        if not quiet and self.stream.isatty():
            self._start_bar()

    def _start_bar(self) -> None:
        console = require("rich.console", extra="cli").Console(file=self.stream)
        rich = require("rich.progress", extra="cli")
        columns = (
            rich.TextColumn(f"{self._label} {{task.completed:.0f}}/{{task.total:.0f}}"),
            rich.BarColumn(),
            rich.TextColumn("{task.fields[status]}"),
            rich.TimeRemainingColumn(),
        )
        self._bar = rich.Progress(*columns, console=console, redirect_stdout=False)
        self._task = self._bar.add_task("train", total=self.total_steps, completed=self._step, status="")
        self._bar.start()

    @property
    def examples_per_second(self) -> float:
        """Examples per second since the start, evaluation and saving included."""
        return self._examples / max(time.monotonic() - self._started, 1e-9)

    @property
    def seconds_left(self) -> float:
        """Estimated seconds until the last step; 0 before the first."""
        done = self._step - self._start_step
        elapsed = time.monotonic() - self._started
        return elapsed / done * (self.total_steps - self._step) if done else 0.0

    def update(self, step: int, examples: int) -> None:
        """Counts a step that has been started; cheap enough for every step."""
        self._step = step
        self._examples += examples
        if self._bar is not None:
            self._bar.update(self._task, completed=step, status=self._status())

    def show(self, step: int, metrics: Mapping[str, float] | None) -> None:
        """Shows new metrics: the loss in the bar; where there is no terminal, a line if it is time for one.

        What has no loss at all passes None; metrics without one, such as an evaluation's, give no line.
        """
        losses = [metrics[name] for name in _SHOWN if name in metrics] if metrics else []
        if losses:
            self._loss = f"loss {losses[0]:.4f}  "
        now = time.monotonic()
        is_due = now - self._last_line >= self._plain_every_s or step >= self.total_steps
        if self._bar is None and not self._quiet and (losses or metrics is None) and is_due:
            self._last_line = now
            left = _clock(self.seconds_left)
            self.stream.write(f"{self._label} {step}/{self.total_steps}  {self._status()}  {left} left\n")
            self.stream.flush()

    def _status(self) -> str:
        return f"{self._loss}{self.examples_per_second:.1f} {self.unit}/s"

    def message(self, text: str) -> None:
        """Writes a line above the bar, also when quiet."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            self.stream.write(f"{text}\n")
            self.stream.flush()

    def close(self) -> None:
        """Ends the bar; may be called twice."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self.close()


def _clock(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
