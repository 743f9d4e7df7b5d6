"""Stored features: those of the encoder itself, computed once, and anew for what has changed."""

import dataclasses
import logging
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusionjax import data, pretrained
from fusionjax.encoders import FeatureLayout
from fusionjax.errors import InputError
from fusionjax.recipes.backbones import Slot, open_backbones
from fusionjax.recipes.cache import cache_folder
from fusionjax.recipes.config import BackboneConfig, DataConfig, ImageBackboneConfig
from fusionjax.recipes.frozen import FeatureComputer, ModelInputs, TextFeatures
from fusionjax.recipes.sources import DataParts, Examples, ImageTransform, Views
from tests.contracts.parameters import run
from tests.recipes.published import write_image_weights, write_text_weights
from tests.recipes.tiny import picture, write_flickr

SIDE, LENGTH = 13, 5
NUMBERS = 16 * 13 + 13  # cells, and the pooled vector
SETTINGS = DataConfig(source="flickr", image_size=SIDE, margin=0.2, flip=True, max_length=LENGTH, min_count=1)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUSIONJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many inputs were computed, call by call."""
    counts: list[int] = []
    compute = FeatureComputer.compute

    def counted(self: FeatureComputer, inputs: np.ndarray) -> np.ndarray:
        counts.append(len(inputs))
        return compute(self, inputs)

    monkeypatch.setattr(FeatureComputer, "compute", counted)
    yield counts


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def text_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_weights(tmp_path_factory.mktemp("text"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_flickr(tmp_path / "folder", 5)


def image_inputs(weights: Path, config: DataConfig = SETTINGS, has_tokens: bool = True, **fields: Any) -> ModelInputs:
    slot = Slot(ImageBackboneConfig(weights=str(weights), **fields), "encoder", has_tokens)
    return ModelInputs(data.train_tokenizer(["a"]), open_backbones({"image": slot}, config))


def part(folder: Path, config: DataConfig = SETTINGS) -> Examples:
    return DataParts(dataclasses.replace(config, path=str(folder)))["train"]


def expected(weights: Path, pixels: np.ndarray) -> np.ndarray:
    """What the encoder itself gives: tokens, then the pooled vector."""
    found = pretrained.open_encoder(weights, "image")
    features = run(found.encoder, found.variables(), pixels)
    return np.concatenate([features.tokens.reshape(len(pixels), -1), features.pooled], 1)


def middle(examples: Examples) -> np.ndarray:
    start = (examples.config.stored_size - SIDE) // 2
    pixels = np.stack([examples.picture(place) for place in range(len(examples))])
    return pixels[:, start : start + SIDE, start : start + SIDE]


def rows_of(examples: Examples, view: int = 0) -> np.ndarray:
    views = [examples[place]["image"] for place in range(len(examples))]
    return np.stack([one.rows[one.places[view]] for one in views])


@pytest.mark.parametrize(("storage", "tolerance"), [("float16", 1e-3), ("float32", 1e-6)])
def test_stored_features_are_those_of_the_encoder(
    weights: Path, folder: Path, cache: Path, storage: str, tolerance: float
) -> None:
    examples = part(folder)
    stored = image_inputs(weights, storage=storage).store({"train": examples})["train"]
    assert len(stored) == 3 and stored[0]["captions"] == ["a red picture", "one red picture"]
    rows, own = rows_of(stored), expected(weights, middle(examples))
    assert rows.dtype == storage and rows.shape == (3, NUMBERS)
    np.testing.assert_allclose(rows, own, rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(stored.picture(1), examples.picture(1))
    assert "a red picture" in stored.describe(0)["captions"] and isinstance(stored.describe(0)["image"], Path)
    (about,) = cache.glob("*/about.json")
    assert "efficientnet-lite-timm" in about.read_text() and str(weights) in about.read_text()


def test_pooled_vectors_alone(weights: Path, folder: Path) -> None:
    stored = image_inputs(weights, has_tokens=False).store({"train": part(folder)})["train"]
    np.testing.assert_allclose(rows_of(stored), expected(weights, middle(stored))[:, -13:], rtol=1e-3, atol=1e-3)


def test_views_are_as_it_is_mirrored_and_cropped(weights: Path, folder: Path) -> None:
    examples = part(folder)
    stored = image_inputs(weights, views=4).store({"train": examples, "test": examples})
    pixels = middle(examples)
    np.testing.assert_allclose(rows_of(stored["train"], 1), expected(weights, pixels[:, :, ::-1]), rtol=1e-3, atol=1e-3)
    crops = [rows_of(stored["train"], view) for view in range(4)]
    differences = [np.abs(one - other).max() for one in crops for other in crops if one is not other]
    assert min(differences) > 0.01
    assert {len(stored[name][0]["image"].places) for name in stored} == {1, 4}
    np.testing.assert_array_equal(rows_of(stored["test"]), crops[0])
    # Training draws any of them, evaluation takes the first.
    views = stored["train"][0]["image"]
    draw = ImageTransform(SETTINGS, training=True)
    drawn = {draw(views, np.random.default_rng(seed)).tobytes() for seed in range(40)}
    assert drawn == {crop[0].tobytes() for crop in crops}
    np.testing.assert_array_equal(
        ImageTransform(SETTINGS, training=False)(views, np.random.default_rng(0)), crops[0][0]
    )
    again = image_inputs(weights, views=4).store({"train": part(folder)})["train"]
    np.testing.assert_array_equal(rows_of(again, 3), crops[3])


def test_nothing_is_computed_twice(
    weights: Path, folder: Path, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = image_inputs(weights, views=2)
    first = inputs.store({"train": part(folder)})["train"]
    assert computed == [6] and inputs._image._variables is None
    monkeypatch.setattr(pretrained.PublishedEncoder, "variables", None)
    second = image_inputs(weights, views=2).store({"train": part(folder), "test": part(folder)})
    assert computed == [6]
    np.testing.assert_array_equal(rows_of(second["train"], 1), rows_of(first, 1))
    assert rows_of(second["test"]).tolist() == rows_of(first).tolist()
    # What loads examples in another process finds them too.
    sent = pickle.loads(pickle.dumps(second["train"]))
    np.testing.assert_array_equal(rows_of(sent), rows_of(first))


def test_what_has_changed_is_computed_anew(weights: Path, folder: Path, tmp_path: Path, computed: list[int]) -> None:
    def run(weights: Path = weights, config: DataConfig = SETTINGS, **fields: Any) -> np.ndarray:
        computed.clear()
        return rows_of(image_inputs(weights, config, **fields).store({"train": part(folder, config)})["train"])

    first = run()
    assert computed == [3]
    # One image.
    picture(97).save(folder / "images" / "1.jpg")
    changed = run()
    assert computed == [1]
    np.testing.assert_array_equal(changed[[0, 2]], first[[0, 2]])
    assert np.abs(changed[1] - first[1]).max() > 0.01
    # The weights, the size, the way into the square, what is cut off, the way of storing: all.
    other = write_image_weights(tmp_path / "other", seed=1)
    for words in (
        {"weights": other},
        {"config": dataclasses.replace(SETTINGS, image_size=SIDE + 2)},
        {"config": dataclasses.replace(SETTINGS, fit="crop")},
        {"config": dataclasses.replace(SETTINGS, margin=0.3)},
        {"storage": "float32"},
    ):
        run(**words)
        assert computed == [3], words
    # The same weights in another place are the same.
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(weights.read_bytes())
    np.testing.assert_array_equal(run(copy), changed)
    assert computed == []


def test_damaged_features_are_computed_anew(
    weights: Path, folder: Path, cache: Path, computed: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    first = rows_of(image_inputs(weights).store({"train": part(folder)})["train"])
    (file,) = cache.glob("*/*.npy")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    computed.clear()
    with caplog.at_level(logging.WARNING, logger="fusionjax"):
        again = rows_of(image_inputs(weights).store({"train": part(folder)})["train"])
    assert computed == [1] and "are damaged; they are computed anew" in caplog.text
    np.testing.assert_allclose(again, first, rtol=1e-3, atol=1e-4)


def test_new_images_get_the_same_features(weights: Path, folder: Path, cache: Path) -> None:
    inputs = image_inputs(weights)
    stored = inputs.store({"train": part(folder)})["train"]
    before = sorted(cache.glob("*/*"))
    mixed = [middle(stored)[0], rows_of(stored)[1], *middle(stored)[1:]]
    found = np.stack(list(inputs.images(mixed)))
    np.testing.assert_allclose(found, rows_of(stored)[[0, 1, 1, 2]], rtol=2e-3, atol=2e-3)
    np.testing.assert_array_equal(found[1], rows_of(stored)[1])
    assert found.dtype == np.float16 and sorted(cache.glob("*/*")) == before
    # Nothing frozen: pixels stay pixels.
    plain = ModelInputs(data.train_tokenizer(["a"]))
    assert [one.shape for one in plain.images(middle(stored))] == [(SIDE, SIDE, 3)] * 3
    assert plain.store({"train": stored})["train"] is stored


def texts_of(example: dict[str, Any]) -> list[str]:
    return example["captions"]


@pytest.mark.parametrize("has_tokens", [True, False])
def test_texts(text_weights: Path, folder: Path, cache: Path, computed: list[int], has_tokens: bool) -> None:
    slots = {"text": Slot(BackboneConfig(weights=str(text_weights), storage="float32"), "text_encoder", has_tokens)}
    backbone = open_backbones(slots, SETTINGS)["text"]
    inputs = ModelInputs(backbone.tokenizer, {"text": backbone})
    examples = part(folder)
    assert inputs.store({"train": examples}, texts_of)["train"] is examples
    assert computed == [6]
    known, new = "one red picture", "a blue red green picture of words"
    found = inputs.texts.encode_batch([known, new, known], LENGTH)
    # The new one alone, cut, with its end.
    assert computed == [6, 1]
    tokens = np.array([[2, 5, 6, 9, 3], [2, 4, 8, 6, 3], [2, 5, 6, 9, 3]])
    np.testing.assert_array_equal(backbone.tokenizer.encode_batch([known, new, known], LENGTH), tokens)
    published = pretrained.open_encoder(text_weights, "text")
    own = run(published.encoder, published.variables(), tokens)
    expected = FeatureLayout.of(own, has_tokens=has_tokens).pack(own)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert backbone.layout.has_mask == has_tokens
    # Another run reads them; another length is another text.
    again = TextFeatures(FeatureComputer(backbone))
    again.store([known], LENGTH)
    assert computed == [6, 1]
    longer = open_backbones(slots, dataclasses.replace(SETTINGS, max_length=LENGTH + 1))["text"]
    TextFeatures(FeatureComputer(longer)).store([known], LENGTH + 1)
    assert computed == [6, 1, 1]
    sent = pickle.loads(pickle.dumps(inputs.texts))
    np.testing.assert_array_equal(sent.encode_batch([known], LENGTH)[0], found[0])
    with pytest.raises(ValueError, match=r"another process gives stored features alone; got a new text. Store it fir"):
        sent.encode_batch([new], LENGTH)


def test_pixels_as_sources(weights: Path, computed: list[int]) -> None:
    """Pictures that are drawn are known by their pixels."""
    config = dataclasses.replace(SETTINGS, source="scenes", size=4)
    for _ in range(2):
        stored = image_inputs(weights, config).store({"train": DataParts(config)["train"]})["train"]
    assert computed == [4] and rows_of(stored).shape == (4, NUMBERS)


def test_what_is_refused(weights: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = dataclasses.replace(SETTINGS, margin=0.0)
    with pytest.raises(InputError, match=r"3 views need crops or colours that differ; .* there are 2. Set one of them"):
        image_inputs(weights, plain, views=3).store({"train": part(folder, plain)})
    (tmp_path / "file").touch()
    monkeypatch.setenv("FUSIONJAX_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"must be a folder to write to; got Not a directory. Make room, or set FUSIO"):
        image_inputs(weights).store({"train": part(folder)})
    with pytest.raises(ValueError, match=r"features of texts need a tokenizer; got a backbone without one. Open one"):
        TextFeatures(image_inputs(weights)._image)


def test_features_that_are_too_large_for_their_storage(weights: Path) -> None:
    computer = image_inputs(weights)._image
    # ReLU6 bounds what this encoder gives; another may not.
    computer._encode = lambda variables, inputs: np.full((len(inputs), NUMBERS), 7e4, np.float32)
    with pytest.raises(InputError, match=r"must be finite as float16; got up to 7e\+04. Set image.storage to float32"):
        computer.compute(np.zeros((1, SIDE, SIDE, 3), np.uint8))


def test_where_features_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder("features") == tmp_path / "cache" / "features"
    monkeypatch.delenv("FUSIONJAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("features") == tmp_path / "xdg" / "fusionjax" / "features"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("features") == tmp_path / ".cache" / "fusionjax" / "features"


def test_a_view_is_one_row() -> None:
    rows = [np.array([1.0, 2.0]), np.array([3.0, 4.0])]
    transform = ImageTransform(SETTINGS, training=False)
    assert transform(Views(rows, (1,)), np.random.default_rng(0)).tolist() == [3.0, 4.0]
