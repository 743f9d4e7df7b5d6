"""Published weights at work, by the recipe and by the command line."""

import importlib.util
import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

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
from fusionjax.recipes import search, weights
from tests.contracts.parameters import draw_variables, run
from tests.pretrained.tiny_hub import write_pair

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
        pixels = data.prepare_image(data.load_image(path), (224, 224), shorter_side=256, interpolation="bilinear")
        logits = run(loaded.model, loaded.variables, pixels[None]).logits[0]
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
        (
            ["--weights", file, "--classes", "ape", "bee", "--labels", "l.txt"],
            "--labels can be used with a classifier's own classes only; got --classes. Leave out one",
        ),
        (["--weights", file, "--templates", "a {}"], "--templates can be used with --classes only; got none. Leave"),
        (
            ["--weights", file, "--classes", "ape", "bee"],
            "w.safetensors must hold weights of a model of images and texts; got resnet-torchvision. Give others.",
        ),
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


PROMPTS = ("a photo of the {}", "it's two {}s")
CLASSES = ("cat", "dog", "CAFÉ")


@pytest.fixture(scope="module", params=["clip", "siglip"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two towers that have learned nothing, as they lie on the hub."""
    folder = tmp_path_factory.mktemp("pair") / request.param
    write_pair(folder, request.param)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def vectors_of_transformers(pair: Path, files: list[str], texts: list[str]) -> tuple[Any, np.ndarray, np.ndarray]:
    """Their model of the folder, and its vectors of photographs and texts."""
    import torch
    import transformers

    is_clip = pair.name == "clip"
    model = (transformers.CLIPModel if is_clip else transformers.SiglipModel).from_pretrained(pair).eval()
    processor = transformers.CLIPImageProcessorPil.from_pretrained(pair)
    pixels = torch.tensor(np.concatenate([processor(Image.open(file))["pixel_values"] for file in files]))
    if is_clip:
        tokenizer = transformers.CLIPTokenizerFast.from_pretrained(pair)
        tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=13)["input_ids"]
    else:
        # Theirs needs another library; `tests/data/test_published_tokenizer.py` compares the two.
        tokens = data.read_tokenizer(pair, "siglip", 13).encode_batch(texts).tolist()
    with torch.no_grad():
        output = model(input_ids=torch.tensor(tokens), pixel_values=pixels)
    return model, output.image_embeds.numpy(), output.text_embeds.numpy()


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_classes_by_prompts_equal_those_of_transformers(pair: Path, folder: Path) -> None:
    files = photographs(folder)[:3]
    prompts = [prompt.replace("{}", name) for name in CLASSES for prompt in PROMPTS]
    model, images, texts = vectors_of_transformers(pair, files, prompts)
    means = texts.reshape(3, 2, -1).mean(1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    scores = np.exp(model.logit_scale.item()) * images @ means.T
    if pair.name == "clip":
        expected = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    else:
        expected = 1 / (1 + np.exp(-scores - model.logit_bias.item()))
    found = weights.classify(pair, files, classes=CLASSES, templates=PROMPTS)
    for labels, row in zip(found, expected, strict=True):
        by_name = {one.label: one.probability for one in labels}
        np.testing.assert_allclose([by_name[name] for name in CLASSES], row, rtol=1e-4)
    assert np.std(expected, axis=0).min() > 1e-5
    embedder = weights.load_embedder(pair)
    np.testing.assert_allclose(embedder.photographs(files), images, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(embedder.texts(prompts), texts, rtol=1e-4, atol=1e-5)


def test_the_program_of_the_docs(pair: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    docs = (Path(__file__).parents[2] / "docs" / "weights.md").read_text("utf-8")
    programs = re.findall(r"```python\n(.*?)```", docs, re.DOTALL)
    (program,) = (one for one in programs if "encode_image" in one)
    (photograph,) = photographs(folder)[:1]
    exec(program.replace("clip-vit-large-patch14", str(pair)).replace("cat.jpg", photograph), names := {})
    embedder = weights.load_embedder(pair)
    expected = embedder.photographs([photograph]) @ embedder.texts(["a cat", "a dog"]).T
    np.testing.assert_allclose(names["image"] @ names["text"].T, expected, atol=1e-5)
    assert capsys.readouterr().out


def test_a_folder_is_searched_and_encoded_once(
    pair: Path, folder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["search", "the photo of two cats", "--weights", str(pair), "--images", str(folder), "--top", "3"]
    assert main([*words, "--json"]) == 0
    output = capfd.readouterr()
    hits = json.loads(output.out)
    embedder = weights.load_embedder(pair)
    scores = embedder.photographs(photographs(folder)) @ embedder.texts(["The photo of two cats"])[0]
    best = np.argsort(-scores)[:3]
    assert [hit["image"] for hit in hits] == [photographs(folder)[place] for place in best]
    np.testing.assert_allclose([hit["score"] for hit in hits], scores[best], atol=1e-5)
    assert "encoding 9 photographs" in output.err and "the photo of two cats" in Path("search.html").read_text()
    assert main([*words, "--page", "other.html"]) == 0
    output = capfd.readouterr()
    assert "encoding" not in output.err and "page: other.html" in output.out
    assert len(list(cache.glob("fusionjax/indexes/*/*/photographs.json"))) == 1


def test_an_index_is_of_the_weights_and_of_how_photographs_are_prepared(
    tmp_path: Path, folder: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "fusionjax")
    for changed in (True, False):
        pair = tmp_path / "pair"
        write_pair(pair, "clip", seed=7 if changed else 0)
        assert search.build_index(weights.load_embedder(pair), folder).encoded == 9
    settings = json.loads((pair / "preprocessor_config.json").read_text())
    (pair / "preprocessor_config.json").write_text(json.dumps({**settings, "image_mean": [0.1, 0.2, 0.3]}))
    assert search.build_index(weights.load_embedder(pair), folder).encoded == 9
    assert search.build_index(weights.load_embedder(pair), folder).encoded == 0


def test_what_a_model_of_images_and_texts_needs(pair: Path, folder: Path, tmp_path: Path, capfd: Any) -> None:
    photograph = photographs(folder)[0]
    shutil.copytree(pair, tmp_path / "alone", ignore=shutil.ignore_patterns("vocab.json", "spiece.model"))
    for words, message in (
        (["classify", photograph, "--weights", str(pair)], "classes must be two different names or more; got []"),
        (
            ["classify", photograph, "--weights", str(pair), "--classes", "a", "b", "--templates", "x"],
            "templates must be texts with {} for the class; got ['x']",
        ),
        (["search", "--weights", str(pair), "--images", str(folder)], "search needs a text; got none. Quote the text."),
        (
            ["search", "a", "cat", "--weights", str(pair), "--images", str(folder)],
            "search needs a text; got a cat. Quote the text.",
        ),
        (
            ["search", " ", "--weights", str(pair), "--images", str(folder)],
            "a text must have a word that the model was trained with; got ' '. Say it otherwise.",
        ),
        (
            ["search", "cat", "--weights", str(tmp_path / "alone"), "--images", str(folder)],
            "must have a tokenizer beside the weights; there is none. Give a folder with its tokenizer.json.",
        ),
    ):
        assert main(words) == 2
        errors = capfd.readouterr().err
        assert message in errors and errors.count("\n") == 1
    with pytest.raises(InputError, match=r"expected an image, but there is no such file"):
        weights.classify(pair, [tmp_path / "gone.png"], classes=CLASSES)
