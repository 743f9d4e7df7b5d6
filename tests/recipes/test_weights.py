"""Published weights at work, by the recipe and by the command line."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from fusionjax import data, pretrained
from fusionjax.cli import main
from fusionjax.errors import InputError
from fusionjax.pretrained.files import write_safetensors
from fusionjax.pretrained.resnet import RESNET_TORCHVISION, ResNetSizes
from fusionjax.pretrained.rows import tensors_from
from fusionjax.recipes import weights
from tests.contracts.parameters import draw_variables

SIZES = ResNetSizes(stage_sizes=(1,), features=(3,), stem_features=3, is_bottleneck=False, num_classes=5)
NAMES = ("ape", "bee", "cat", "dog", "eel")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that has learned nothing, photographs, and labels."""
    folder = tmp_path_factory.mktemp("weights")
    variables = draw_variables(RESNET_TORCHVISION.build(SIZES), np.zeros((1, 32, 32, 3), np.float32))
    write_safetensors(folder / "w.safetensors", dict(tensors_from(RESNET_TORCHVISION.rows(SIZES), variables)))
    rng = np.random.default_rng(0)
    for place in range(9):
        pixels = rng.integers(0, 256, (3 + place, 7, 3), np.uint8)
        Image.fromarray(pixels).resize((70, 50)).save(folder / f"{place}.png")
    (folder / "labels.txt").write_text("\n".join(NAMES) + "\n")
    return folder


def photographs(folder: Path) -> list[str]:
    return [str(folder / f"{place}.png") for place in range(9)]


def test_photographs_are_prepared_and_named(folder: Path) -> None:
    found = weights.classify(folder / "w.safetensors", photographs(folder), labels=folder / "labels.txt", top=5)
    loaded = pretrained.load(folder / "w.safetensors")
    for path, labels in zip(photographs(folder), found, strict=True):
        pixels = data.prepare_image(
            data.load_image(path), (224, 224), shorter_side=256, interpolation=loaded.preparation.interpolation
        )
        logits = loaded.model.apply(loaded.variables, pixels[None]).logits[0]
        expected = dict(zip(NAMES, jax.nn.softmax(logits).tolist(), strict=True))
        assert [one.label for one in labels] == sorted(expected, key=expected.__getitem__, reverse=True)
        np.testing.assert_allclose([one.probability for one in labels], sorted(expected.values())[::-1], rtol=1e-4)
    assert len({labels[0].label for labels in found} | {labels[-1].label for labels in found}) > 1


def test_without_labels_classes_are_numbers_or_those_beside_the_weights(folder: Path, tmp_path: Path) -> None:
    photograph = photographs(folder)[:1]
    named = weights.classify(folder / "w.safetensors", photograph, labels=folder / "labels.txt", top=1)
    numbered = weights.classify(folder / "w.safetensors", photograph, top=1)
    assert NAMES[int(numbered[0][0].label)] == named[0][0].label
    weights.convert(folder / "w.safetensors", tmp_path, to="resnet-transformers")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({**config, "id2label": {str(place): name for place, name in enumerate(NAMES)}})
    )
    assert len(weights.classify(tmp_path, photograph, top=2)[0]) == 2
    assert weights.classify(tmp_path, photograph, top=1)[0][0].label in NAMES


def test_what_cannot_be_used_is_told(folder: Path, tmp_path: Path) -> None:
    file, photograph = folder / "w.safetensors", photographs(folder)[:1]
    with pytest.raises(InputError, match=r"top must be at least 1; got 0. Ask for 5"):
        weights.classify(file, photograph, top=0)
    (tmp_path / "labels.txt").write_text("ape\nbee\n")
    with pytest.raises(InputError, match=r"labels.txt must have a label for each of the 5 classes; got 2. Correct it"):
        weights.classify(file, photograph, labels=tmp_path / "labels.txt")
    with pytest.raises(InputError, match=r"nothing.txt must be a text file of labels; .*Check the path"):
        weights.classify(file, photograph, labels=tmp_path / "nothing.txt")


def test_the_commands(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(folder / "w.safetensors")
    words = ["classify", *photographs(folder)[:2], "--weights", file, "--labels", str(folder / "labels.txt")]
    assert main([*words, "--top", "2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["image"] for row in rows] == photographs(folder)[:2]
    assert all(len(row["top"]) == 2 and row["top"][0]["probability"] >= row["top"][1]["probability"] for row in rows)
    assert main(["convert", file, str(tmp_path / "out"), "--to", "resnet-transformers"]) == 0
    assert capsys.readouterr().out == f"resnet-torchvision to resnet-transformers: {tmp_path}/out/model.safetensors\n"
    assert main(["convert", file, str(tmp_path / "out"), "--to", "resnet"]) == 2
    assert "the architecture must be one of" in capsys.readouterr().err
    for more, message in (
        (["--weights", file, "--classes", "ape", "bee"], "--classes can be used with a run only; got --weights. Leave"),
        (
            ["--labels", "l.txt", "--architecture", "x"],
            "--architecture and --labels can be used with --weights only; got",
        ),
        (["--weights", str(folder)], "fusionjax:"),
    ):
        assert main(["classify", "run", photographs(folder)[0], *more]) == 2
        errors = capsys.readouterr().err
        assert message in errors and errors.count("\n") == 1
    assert main(["classify", "--weights", file]) == 2
    assert "classify needs at least one photograph; got none. Name image files." in capsys.readouterr().err
