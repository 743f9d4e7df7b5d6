"""Metrics as TensorBoard curves."""

import types
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from fusionjax._extras import require


class MetricsWriter:
    """Writes metrics to TensorBoard event files; `tensorboard --logdir DIRECTORY` shows them.

    Args:
        directory: where the files go; made if missing.
        start_step: the step from which a resumed run goes on; TensorBoard then drops what a killed run wrote
            after it.

    Raises:
        ImportError: tensorboardX is not installed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory, MetricsWriter(directory) as writer:
        ...     writer.write(1, {"train/loss": 2.5})
        ...     len(list(Path(directory).glob("events.out.tfevents.*")))
        1
    """

    def __init__(self, directory: str | Path, *, start_step: int = 0) -> None:
        tensorboard = require("tensorboardX", extra="cli")
        purge_step = start_step + 1 if start_step else None
        self._writer = tensorboard.SummaryWriter(str(directory), purge_step=purge_step, flush_secs=10)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds one point to the curve of each metric."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is buffered and closes the file."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self.close()
