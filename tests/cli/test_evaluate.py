"""`fusionjax evaluate`: on the run's own data, on folders it never saw, on damaged runs."""

import json
import shutil
from pathlib import Path

import pytest

from fusionjax.cli import main
from tests.recipes.tiny import write_coco, write_flickr

Captured = pytest.CaptureFixture[str]


def evaluate(capfd: Captured, *words: object) -> dict[str, float]:
    assert main(["evaluate", *map(str, words), "--json"]) == 0
    return json.loads(capfd.readouterr().out)


def refused(capfd: Captured, *words: object) -> str:
    """The one line that says why not."""
    assert main(["evaluate", *map(str, words)]) == 2
    output, errors = capfd.readouterr()
    assert (output, errors.count("\n"), errors[:11]) == ("", 1, "fusionjax: ")
    return errors


def test_equals_the_metrics_of_the_training(captioner: Path, capfd: Captured) -> None:
    trained = json.loads((captioner / "metrics.json").read_text())
    expected = {name: value for name, value in trained.items() if name.startswith("test/")}
    assert evaluate(capfd, captioner) == expected


def test_a_folder_that_training_never_saw(captioner: Path, tmp_path: Path, capfd: Captured) -> None:
    folder = write_flickr(tmp_path / "folder")
    test = evaluate(capfd, captioner, "--data.path", folder)
    every = evaluate(capfd, captioner, "--data.path", folder, "--data.split", "all", "--decoding.method", "greedy")
    assert (test["test/images"], every["all/images"]) == (4.0, 20.0)
    coco = write_coco(tmp_path / "coco")
    words = [captioner, "--data.source", "coco", "--data.path", coco, "--data.split", "validation"]
    assert evaluate(capfd, *words)["validation/images"] == 4.0


def test_without_json_a_table(captioner: Path, capfd: Captured) -> None:
    assert main(["evaluate", str(captioner), "--data.split", "validation"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines][-2:] == ["validation/perplexity", "validation/images"]


def test_parts_that_are_not_there(captioner: Path, tmp_path: Path, capfd: Captured) -> None:
    expected = "part 'nope'; they have train, validation, test. Choose one of these."
    assert expected in refused(capfd, captioner, "--data.split", "nope")
    folder = write_flickr(tmp_path / "folder", split="train")
    assert "part 'test'; they have train." in refused(capfd, captioner, "--data.path", folder)
    assert "there is none. Check the path" in refused(capfd, captioner, "--data.path", tmp_path / "none")


@pytest.fixture
def copy(captioner: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(captioner, tmp_path / "copy"))


def test_run_of_another_version(copy: Path, capfd: Captured) -> None:
    header = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**header, "format": 2, "fusionjax": "9.9"}))
    expected = (
        "must be a run of format 1; got format 2, written by fusionjax 9.9. Install that version, or train again."
    )
    assert f"{copy} {expected}" in refused(capfd, copy)


def test_setting_of_another_version(copy: Path, capfd: Captured) -> None:
    header = json.loads((copy / "config.json").read_text())
    header["config"]["model"]["wings"] = 2
    (copy / "config.json").write_text(json.dumps(header))
    assert "ModelConfig has no setting wings; it has decoder, cnn_features" in refused(capfd, copy)
    header["config"]["model"] = {"features": "many"}
    (copy / "config.json").write_text(json.dumps(header))
    assert "ModelConfig has a value of a wrong kind; got" in refused(capfd, copy)


def test_config_cut_off(copy: Path, capfd: Captured) -> None:
    text = (copy / "config.json").read_text()
    (copy / "config.json").write_text(text[: len(text) // 2])
    assert "config.json must be readable JSON; got" in refused(capfd, copy)


def test_recipe_of_another_version(copy: Path, capfd: Captured) -> None:
    header = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**header, "recipe": "dreaming"}))
    assert (
        "must be a run of captioning, classification, multi-task, retrieval or vqa; it is one of 'dreaming'"
        in refused(capfd, copy)
    )


def test_checkpoint_with_a_byte_flipped(copy: Path, capfd: Captured) -> None:
    (newest,) = [folder for folder in (copy / "checkpoints" / "reward").iterdir() if folder.name.isdigit()]
    file = max(newest.rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    errors = refused(capfd, copy)
    assert f"cannot use the checkpoint {newest}" in errors
    assert "delete this folder to start again" in errors


def test_files_that_are_gone(copy: Path, capfd: Captured) -> None:
    shutil.rmtree(copy / "checkpoints" / "reward")
    assert "no checkpoints in" in refused(capfd, copy)
    (copy / "tokenizer.json").unlink()
    assert "tokenizer.json: expected a tokenizer file" in refused(capfd, copy)
    (copy / "config.json").unlink()
    assert f"{copy} must be a run directory; it is a directory without config.json" in refused(capfd, copy)
    assert "it is no such directory. Give the --output of a training." in refused(capfd, copy / "none")


def test_traceback_when_asked_for(tmp_path: Path, capfd: Captured) -> None:
    assert main(["evaluate", str(tmp_path), "--traceback"]) == 2
    errors = capfd.readouterr().err
    assert "Traceback (most recent call last)" in errors
    assert errors.splitlines()[-1].startswith(f"fusionjax: {tmp_path} must be a run directory")
