"""The run directory: made once, found again, never overwritten."""

import dataclasses
import json
from pathlib import Path

import pytest

from fusionjax import recipes
from fusionjax.errors import InputError
from fusionjax.recipes.captioning import CaptioningConfig
from fusionjax.recipes.config import DataConfig
from fusionjax.recipes.run import finished_metrics, open_run, start_run, write_atomically

CONFIG = CaptioningConfig(data=DataConfig(fields=("image=a", "captions=b")))


def test_start_open_and_settings(tmp_path: Path) -> None:
    run = start_run(tmp_path / "deep" / "run", "captioning", CONFIG)
    assert open_run(run.path) == run == start_run(run.path, "captioning", CONFIG)
    assert run.settings(CaptioningConfig) == CONFIG
    assert [path.name for path in run.path.iterdir()] == ["config.json"]
    assert {path.parent for path in (run.checkpoints, run.tensorboard, run.tokenizer, run.report)} == {run.path}


def test_metrics(tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert finished_metrics(path, "captioning", CONFIG) is None
    assert not path.exists()
    path.mkdir()
    assert finished_metrics(path, "captioning", CONFIG) is None
    run = start_run(path, "captioning", CONFIG)
    assert finished_metrics(path, "captioning", CONFIG) is None
    run.write_metrics({"test/loss": 0.25})
    assert (
        finished_metrics(path, "captioning", CONFIG)
        == {"test/loss": 0.25}
        == json.loads((path / "metrics.json").read_text())
    )
    (path / "metrics.json").write_text("[]")
    with pytest.raises(
        InputError, match=r"metrics\.json must hold a JSON object; got \[\]\. Restore the file, or train"
    ):
        run.read_metrics()


def test_other_settings_are_named(tmp_path: Path) -> None:
    start_run(tmp_path, "captioning", CONFIG)
    changed = dataclasses.replace(CONFIG, seed=3, data=DataConfig(size=7))
    match = r"other settings \(data\.fields \['image=a', .*; data\.size 8000, now 7; seed 0, now 3\)\. Choose"
    with pytest.raises(InputError, match=match):
        start_run(tmp_path, "captioning", changed)
    start_run(tmp_path, "captioning", dataclasses.replace(CONFIG, output="the same place by another name"))


def test_a_setting_that_the_older_run_lacks_is_at_its_default(tmp_path: Path) -> None:
    start_run(tmp_path, "captioning", CONFIG)
    header = json.loads((tmp_path / "config.json").read_text())
    del header["config"]["data"]["objects"]
    (tmp_path / "config.json").write_text(json.dumps(header))
    start_run(tmp_path, "captioning", CONFIG)
    changed = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, objects=3))
    with pytest.raises(InputError, match=r"other settings \(data\.objects 2, now 3\)\. Choose"):
        start_run(tmp_path, "captioning", changed)


def test_refusals(tmp_path: Path) -> None:
    start_run(tmp_path / "run", "captioning", CONFIG)
    with pytest.raises(InputError, match=r"run holds a run of captioning; this is other\. Choose another --output"):
        start_run(tmp_path / "run", "other", CONFIG)
    with pytest.raises(
        InputError, match=r"must be a run directory or not exist; it holds something else\. Choose another"
    ):
        start_run(tmp_path, "captioning", CONFIG)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match=r"must be a run directory or not exist; it holds something else"):
        finished_metrics(file, "captioning", CONFIG)
    with pytest.raises(
        InputError, match=r"file/run must be a folder to write to; got .*Not a directory.*Choose another"
    ):
        start_run(file / "run", "captioning", CONFIG)
    (tmp_path / "run" / "config.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match=r"config\.json must name a recipe and its config; got .* Restore the file"):
        open_run(tmp_path / "run")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
        write_atomically(tmp_path / "a.txt", "new \udcff")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


def test_recipes_are_imported_by_name() -> None:
    assert recipes.captioning.RECIPE == "captioning"
    with pytest.raises(AttributeError, match=r"no attribute 'cooking'; it has captioning, classification"):
        _ = recipes.cooking
