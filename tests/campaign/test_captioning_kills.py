"""Ten kills at random steps of a captioning run by its command, both stages and the loader included."""

import random
import signal
from pathlib import Path

import pytest

from fusionjax.cli import main
from tests.cli.test_interrupt import assert_equal_runs
from tests.recipes.tiny import quick_compilation, start, stop_at, whole

KILLS, LONG = 10, ("--training.epochs", "6", "--reward.epochs", "4")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_ten_random_kills_of_the_command_equal_the_whole_run(tmp_path: Path, num_workers: int) -> None:
    words = [*LONG, "--data.num-workers", num_workers]
    with quick_compilation(tmp_path):
        assert main(whole(tmp_path / "whole", *words)) == 0
        chance, run, code = random.Random(), tmp_path / "killed", -9
        for kill in range(KILLS):
            # 36 steps, then 24 of the reward: one kill in each tenth, a few milliseconds after the step.
            step = chance.randrange(60 * kill // KILLS, 60 * (kill + 1) // KILLS) + 1
            code, _, errors = stop_at(start(whole(run, *words), tmp_path), run, step, signal.SIGKILL)
            print(f"kill {kill + 1}: aimed at step {step}, exit {code}: {errors.splitlines()[:1]}")
            assert "Traceback" not in errors
            assert code == -signal.SIGKILL
        assert not (run / "metrics.json").exists()
        assert main(whole(run, *words)) == 0
        assert_equal_runs(run, tmp_path / "whole")
