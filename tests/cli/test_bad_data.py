"""`fusionjax train` on folders with something wrong: said in one line, nothing left half-written."""

import json
import shutil
from pathlib import Path

import pytest

from fusionjax.cli import main
from tests.recipes.tiny import CAPTIONER, SMALL, checksums, picture, write_flickr

Captured = pytest.CaptureFixture[str]
QUICK = "--reward.epochs 0 --training.epochs 1 --data.captions-per-image 2 --data.min-count 1 --data.color-jitter 0.1"


def words(folder: Path, run: Path, *more: str) -> list[str]:
    source = ["--data.source", "flickr", "--data.path", str(folder)]
    return ["train", "captioning", "--output", str(run), *source, *SMALL, *CAPTIONER, *QUICK.split(), *more]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_flickr(tmp_path / "folder")


def refused(capfd: Captured, folder: Path, *more: str) -> str:
    """What is said; the run directory is not made."""
    run = folder.parent / "run"
    assert main([*words(folder, run, *more), "--json"]) == 2
    output, errors = capfd.readouterr()
    assert output == ""
    assert "Traceback" not in errors
    assert not run.exists()
    assert errors.splitlines()[-1].startswith("fusionjax: ")
    return errors


def test_missing_columns(folder: Path, capfd: Captured) -> None:
    (folder / "captions.csv").write_text("file,text\n1.jpg,a picture\n")
    assert "expected the columns image and caption; found file, text." in refused(capfd, folder)


def test_images_without_captions(folder: Path, capfd: Captured) -> None:
    (folder / "captions.csv").write_text("image,caption\nother.jpg,a picture\n")
    assert "expected pictures with captions; none is left" in refused(capfd, folder)


def test_empty_vocabulary(folder: Path, capfd: Captured) -> None:
    message = "the vocabulary is empty: no word occurs 1000 times or more in 24 captions. Lower min_count"
    assert message in refused(capfd, folder, "--data.min-count", "1000")


def test_no_test_part(tmp_path: Path, capfd: Captured) -> None:
    folder = write_flickr(tmp_path / "folder", split="train")
    message = "the data must have a part 'test'; they have train. Choose one of these."
    assert message in refused(capfd, folder)
    assert message in refused(capfd, folder, "--data.validation-fraction", "0.2")


def test_settings_that_do_not_go_together(folder: Path, capfd: Captured) -> None:
    few = ["--data.image-size", "4", "--model.cnn-features", "4", "4", "4", "--model.padding", "VALID"]
    assert "the model must be one that can be built; got: " in refused(capfd, folder, *few)
    split = ["--reward.epochs", "1", "--reward.batch-size", "9", "--training.accumulate", "2"]
    assert "accumulate must divide reward.batch_size; got 2 and 9. Change one" in refused(capfd, folder, *split)


@pytest.mark.parametrize("name", ["0.jpg", "4.jpg"], ids=["training", "test"])
def test_broken_picture_stops_when_asked_to(folder: Path, capfd: Captured, name: str) -> None:
    (folder / "images" / name).write_bytes(b"text")
    errors = refused(capfd, folder, "--data.on-broken", "stop")
    assert errors.count("\n") == 1
    assert f"{name}: expected an image" in errors


def test_directory_that_holds_something_else(folder: Path, capfd: Captured) -> None:
    run = folder.parent / "thesis"
    run.mkdir()
    (run / "chapter.txt").write_text("years of work")
    assert main(words(folder, run)) == 2
    assert f"{run} must be a run directory or not exist; it holds something else." in capfd.readouterr().err
    assert [path.read_text() for path in run.iterdir()] == ["years of work"]


@pytest.mark.slow
def test_goes_on_without_broken_pictures_and_counts_them(folder: Path, capfd: Captured) -> None:
    (folder / "images" / "0.jpg").write_bytes(b"text")
    whole = (folder / "images" / "1.jpg").read_bytes()
    (folder / "images" / "1.jpg").write_bytes(whole[: len(whole) * 3 // 4])
    (folder / "images" / "4.jpg").write_bytes(b"")
    (folder / "images" / "5.jpg").unlink()
    picture(3).save(folder / "images" / "spare.jpg")
    run = folder.parent / "run"
    assert main([*words(folder, run), "--json"]) == 0
    output, errors = capfd.readouterr()
    metrics = json.loads(output)
    assert metrics == json.loads((run / "metrics.json").read_text())
    assert (metrics["test/images"], metrics["train/steps"]) == (3.0, 2.0)
    for part in (
        "0.jpg: expected an image",
        "1.jpg: the JPEG image is truncated or damaged",
        "4.jpg: expected an image, got an empty file",
        "2 of 11 pictures are broken and left out",
        "1 of 4 pictures are broken and left out",
        "left out 1 captioned images that are missing: 5.jpg",
        "left out 1 images without captions: spare.jpg",
    ):
        assert part in errors
    assert main([*words(folder, run), "--seed", "7"]) == 2
    assert f"{run} holds a run with other settings (seed 0, now 7). Choose another" in capfd.readouterr().err
    swap = [
        "classification" if word == "captioning" else word for word in ["train", "captioning", "--output", str(run)]
    ]
    assert main(swap) == 2
    assert f"{run} holds a run of captioning; this is classification." in capfd.readouterr().err


@pytest.mark.slow
def test_training_does_not_go_on_from_a_damaged_checkpoint(captioner: Path, tmp_path: Path, capfd: Captured) -> None:
    from tests.recipes.tiny import whole

    run = Path(shutil.copytree(captioner, tmp_path / "run"))
    (run / "metrics.json").unlink()
    newest = run / "checkpoints" / "train" / str(checksums(run, "train")["newest"])
    manifest = newest / "manifest.json"
    manifest.write_text(manifest.read_text()[:-40])
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main(whole(run)) == 2
    errors = capfd.readouterr().err
    assert errors.count("\n") == 1
    assert f"fusionjax: cannot use the checkpoint {newest}: " in errors
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
