"""Ten kills at random moments of one run, some in the middle of a save; run by hand with `make campaign`."""

import random
import signal
from pathlib import Path

from fusionjax.training import Checkpoints
from tests.training.small import Batches
from tests.training.worker import TOTAL_STEPS, digest, run_worker, train

KILLS = 10


def test_ten_random_kills_equal_the_whole_run(tmp_path: Path) -> None:
    expected = digest(train(tmp_path / "whole", Batches()).state)
    chance, run, latest = random.Random(), tmp_path / "killed", 0
    for kill in range(1, KILLS + 1):
        # One kill in each tenth of the run, so that every part of it is reached.
        step = max(latest, chance.randrange(TOTAL_STEPS * (kill - 1) // KILLS, TOTAL_STEPS * kill // KILLS))
        code, _, errors = run_worker(run, step, signal.SIGKILL, delay_s=chance.uniform(0, 0.02))
        assert errors == ""
        half = [path.name for path in run.glob("*orbax-checkpoint-tmp*")]
        with Checkpoints(run, read_only=True) as checkpoints:
            latest = checkpoints.latest_step or 0
        print(f"kill {kill}: aimed at step {step}, exit {code}, newest checkpoint {latest}, half-written {half}")
    code, output, errors = run_worker(run)
    assert (code, errors) == (0, "")
    assert output == f"done {TOTAL_STEPS} {expected}"
