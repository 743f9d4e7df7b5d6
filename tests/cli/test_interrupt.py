"""Ctrl-C and SIGKILL during `fusionjax train`: nothing is lost, and the same command ends with the same bits."""

import json
import random
import shlex
import signal
from pathlib import Path

import pytest

from fusionjax.cli import main
from tests.recipes.tiny import checksums, start, stop_at, whole


def assert_equal_runs(run: Path, other: Path) -> None:
    """The states of both stages, the curves and the metrics are equal, the times apart."""
    for stage in ("train", "reward"):
        assert checksums(run, stage) == checksums(other, stage)
    assert (run / "curves.jsonl").read_text() == (other / "curves.jsonl").read_text()
    mine, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (run, other))
    same = {name for name in mine if "second" not in name}
    assert same >= {"test/cider_d", "train/steps"}
    assert {name: mine[name] for name in same} == {name: theirs[name] for name in same}


@pytest.mark.slow
def test_ctrl_c_saves_says_how_to_go_on_and_the_same_command_does(
    captioner: Path, shared: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "with space"
    code, output, errors = stop_at(start([*whole(run), "--json"], shared), run, 3, signal.SIGINT)
    assert (code, json.loads(output)) == (130, {"interrupted": True, "output": str(run)})
    assert not (run / "metrics.json").exists()
    last = errors.splitlines()[-1]
    assert last == f"stopped; a checkpoint is saved. To go on: fusionjax {shlex.join(whole(run))}"
    assert "Traceback" not in errors
    saved = checksums(run, "train")["newest"]
    words = shlex.split(last.partition("To go on: fusionjax ")[2])
    assert main(words) == 0
    assert f"going on from step {saved} of 12" in capfd.readouterr().err
    assert_equal_runs(run, captioner)


@pytest.mark.slow
def test_a_run_killed_at_a_random_step_ends_with_the_same_bits(captioner: Path, shared: Path, tmp_path: Path) -> None:
    run, step = tmp_path / "killed", random.Random().randint(1, 17)
    code, output, errors = stop_at(start(whole(run), shared), run, step, signal.SIGKILL)
    assert (code, output) == (-signal.SIGKILL, ""), errors
    assert not (run / "metrics.json").exists()
    assert main(whole(run)) == 0
    assert_equal_runs(run, captioner)
