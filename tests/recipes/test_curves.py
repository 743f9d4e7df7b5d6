"""Curves: what a killed run wrote after its last checkpoint is forgotten, what later stages wrote is not."""

from pathlib import Path

from fusionjax.recipes.curves import Curves, read_curves
from fusionjax.recipes.run import Run


def test_goes_on_after_the_last_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path, "captioning", {})
    assert read_curves(run) == []
    with Curves(run) as curves:
        for step in (1, 2, 3):
            curves.write(step, {"loss": step / 4})
    with (tmp_path / "curves.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert [row["step"] for row in read_curves(run)] == [1, 2, 3]
    with Curves(run, start_step=2) as curves:
        curves.write(3, {"loss": 9.0})
    assert read_curves(run) == [{"step": 1, "loss": 0.25}, {"step": 2, "loss": 0.5}, {"step": 3, "loss": 9.0}]


def test_a_later_stage_has_its_own_names_and_counts_on(tmp_path: Path) -> None:
    run = Run(tmp_path, "captioning", {})
    with Curves(run) as curves:
        curves.write(5, {"loss": 1.0})
    for start, value in ((0, 0.1), (1, 0.2)):
        with Curves(run, stage="reward", start_step=start, first_step=5) as curves:
            curves.write(start + 1, {"reward": value})
    assert read_curves(run) == [
        {"step": 5, "loss": 1.0},
        {"step": 6, "reward/reward": 0.1},
        {"step": 7, "reward/reward": 0.2},
    ]
