"""A run that is killed and resumed equals the uninterrupted one, bit for bit."""

import functools
import random
import signal
import tempfile
from pathlib import Path

import pytest

from fusionjax.training import Checkpoints, FitResult
from tests.training.small import Batches, assert_same
from tests.training.worker import TOTAL_STEPS, digest, run_worker, train


@functools.cache
def whole_run() -> FitResult:
    """The run that nothing stops."""
    with tempfile.TemporaryDirectory() as directory:
        return train(Path(directory), Batches())


@pytest.mark.slow
def test_killed_twice_and_resumed_equals_the_whole_run(tmp_path: Path) -> None:
    for low, high in ((10, 30), (35, TOTAL_STEPS - 1)):
        step = random.randint(low, high)
        code, output, errors = run_worker(tmp_path, step, signal.SIGKILL)
        assert (code, output, errors) == (-signal.SIGKILL, "", ""), f"killed at step {step}"
        # What is lost: the steps since the last checkpoint, and that one if it was still being written.
        with Checkpoints(tmp_path, read_only=True) as checkpoints:
            assert step - 6 <= checkpoints.latest_step <= step
    code, output, errors = run_worker(tmp_path)
    assert (code, errors) == (0, "")
    assert output == f"done {TOTAL_STEPS} {digest(whole_run().state)}"


@pytest.mark.slow
def test_interrupted_run_saves_says_so_and_goes_on(tmp_path: Path) -> None:
    code, output, errors = run_worker(tmp_path, 20, signal.SIGINT)
    assert (code, errors) == (130, "")
    word, step, hashed = output.split()
    assert (word, step) == ("interrupted", "21")
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        restored, data_state, step = checkpoints.restore(whole_run().state)
    assert digest(restored) == hashed and data_state == {"position": 21} and step == 21
    # Evaluating more often changes nothing.
    resumed = train(tmp_path, Batches(), evaluate_every=4)
    assert_same(resumed.state, whole_run().state)
    assert not resumed.interrupted
    # Nothing is left to do: no batch is taken.
    finished = train(tmp_path, Batches(end=TOTAL_STEPS))
    assert finished.history == [] and not finished.interrupted
    assert_same(finished.state, whole_run().state)
