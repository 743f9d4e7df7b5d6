"""`fusionjax train`: what it leaves, and what it does the second time."""

import json
from pathlib import Path

import pytest

from fusionjax.cli import main
from tests.recipes.tiny import whole


def test_leaves_everything_that_a_run_has(captioner: Path) -> None:
    names = {path.name for path in captioner.iterdir()}
    assert names == {
        "checkpoints",
        "config.json",
        "curves.jsonl",
        "metrics.json",
        "report.html",
        "tensorboard",
        "tokenizer.json",
    }
    assert list((captioner / "tensorboard").glob("events.out.tfevents.*"))
    assert [path.name for path in sorted((captioner / "checkpoints").iterdir())] == ["reward", "train"]
    metrics = json.loads((captioner / "metrics.json").read_text())
    assert {"test/bleu_4", "test/cider_d", "test/exact_match", "test/perplexity", "train/steps"} <= set(metrics)
    assert all(isinstance(value, float) for value in metrics.values())
    assert (metrics["test/images"], metrics["train/steps"]) == (12.0, 18.0)


def test_curves_go_through_both_stages(captioner: Path) -> None:
    rows = [json.loads(line) for line in (captioner / "curves.jsonl").read_text().splitlines()]
    losses = [row["step"] for row in rows if "train/loss" in row]
    rewards = [row["step"] for row in rows if "reward/train/reward" in row]
    assert (losses, rewards) == (list(range(1, 13)), list(range(13, 19)))
    assert [row["step"] for row in rows if "validation/loss" in row] == [6, 12]


def test_same_command_again_gives_the_finished_metrics(
    captioner: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(captioner.parent)
    before = {path: path.stat().st_mtime_ns for path in captioner.rglob("*")}
    assert main([*whole(Path(captioner.name)), "--json"]) == 0
    output, errors = capfd.readouterr()
    assert json.loads(output) == json.loads((captioner / "metrics.json").read_text())
    assert errors == "captioner has ended already; these are its metrics\n"
    assert {path: path.stat().st_mtime_ns for path in captioner.rglob("*")} == before
