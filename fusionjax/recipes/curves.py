"""The curves of a run: TensorBoard files, and the same numbers as lines of JSON for the report."""

import json
from collections.abc import Mapping
from pathlib import Path

from fusionjax.recipes.run import Run, write_atomically
from fusionjax.training import MetricsWriter


class Curves(MetricsWriter):
    """Writes metrics to TensorBoard and `curves.jsonl`, and forgets what a killed run wrote after its last checkpoint.

    Args:
        run: the run directory.
        start_step: the step from which the stage goes on.
        stage: put before the names of the metrics of a later stage.
        first_step: steps of the stages before.
    """

    def __init__(self, run: Run, *, start_step: int = 0, stage: str = "", first_step: int = 0) -> None:
        start_step += first_step
        super().__init__(run.tensorboard, start_step=start_step)
        self._prefix, self._first_step = f"{stage}/" if stage else "", first_step
        self._path = run.path / "curves.jsonl"
        kept = [row for row in read_curves(run) if row["step"] <= start_step]
        write_atomically(self._path, "".join(json.dumps(row) + "\n" for row in kept))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds one point to the curve of each metric."""
        step += self._first_step
        metrics = {self._prefix + name: value for name, value in metrics.items()}
        super().write(step, metrics)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")


def read_curves(run: Run) -> list[dict[str, float]]:
    """Reads the curves of a run.

    Args:
        run: the run directory.

    Returns:
        One row a log: `step` and the metrics; a line cut off by a kill is left out.
    """
    path = run.path / "curves.jsonl"
    return [] if not path.exists() else list(_rows(path))


def _rows(path: Path) -> list[dict[str, float]]:
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows
