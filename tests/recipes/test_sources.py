"""Examples of every source, decoded once; parts that are held out; images brought to size."""

import dataclasses
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest

from fusionjax.errors import InputError
from fusionjax.recipes import sources
from fusionjax.recipes.config import DataConfig
from fusionjax.recipes.sources import DataParts, Examples, ImageTransform, Places, PlaceTransform
from tests.recipes.tiny import write_coco, write_flickr

RNG = np.random.default_rng(0)


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    folder = write_flickr(tmp_path / "folder")
    return DataConfig(source="flickr", path=str(folder), image_size=16, margin=0.25, size=5, evaluation_size=3)


def test_images_are_decoded_once_where_they_fit(config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[object] = []
    load = sources.data.load_image
    monkeypatch.setattr(
        sources.data, "load_image", lambda *words, **more: reads.append(words[0]) or load(*words, **more)
    )
    examples = DataParts(config)["test"]
    assert examples[0]["image"].shape == (20, 20, 3)
    assert examples[0] is examples[0]
    assert len(reads) == 1
    small = Examples(examples.source, dataclasses.replace(config, cache_mb=0))
    np.testing.assert_array_equal(small[0]["image"], examples[0]["image"])
    assert small[0] is not small[0]
    assert len(reads) == 4


def test_descriptions_decode_no_file(config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    examples, scenes = DataParts(config)["test"], DataParts(dataclasses.replace(config, source="scenes"))["test"]
    decoded = examples[1]
    monkeypatch.delattr(sources.data, "load_image")
    assert isinstance(examples.describe(0)["image"], Path)
    assert examples.describe(1) is decoded
    monkeypatch.undo()
    assert scenes.describe(2) is scenes[2]


def test_examples_travel_to_other_processes(config: DataConfig) -> None:
    examples = DataParts(config)["train"]
    expected = examples[3]
    copy = pickle.loads(pickle.dumps(examples))
    assert copy._kept == {}
    np.testing.assert_array_equal(copy[3]["image"], expected["image"])
    assert copy[3]["captions"] == expected["captions"]


def test_parts_of_a_folder(config: DataConfig) -> None:
    parts = DataParts(config)
    assert parts.names == ["train", "validation", "test"]
    ids = {part: [example["id"] for example in parts[part]] for part in (*parts.names, "all")}
    assert [len(ids[part]) for part in ("train", "validation", "test", "all")] == [12, 4, 4, 20]
    assert ids["all"] == ids["train"] + ids["validation"] + ids["test"]
    swapped = DataParts(dataclasses.replace(config, test_split="train", train_split="test"))
    assert [example["id"] for example in swapped["test"]] == ids["train"]


def test_parts_of_coco_and_scenes(config: DataConfig, tmp_path: Path) -> None:
    coco = DataParts(dataclasses.replace(config, source="coco", path=str(write_coco(tmp_path / "coco"))))
    assert [len(coco[part]) for part in ("train", "validation", "test")] == [12, 4, 4]
    scenes = DataParts(dataclasses.replace(config, source="scenes"))
    assert [len(scenes[part]) for part in ("train", "validation", "test", "all")] == [5, 3, 3, 11]
    assert scenes["train"][0]["image"].shape == (20, 20, 3)


def test_validation_is_held_out_of_training_where_there_is_none(config: DataConfig, tmp_path: Path) -> None:
    folder = write_flickr(tmp_path / "one", split="train")
    config = dataclasses.replace(config, path=str(folder), validation_fraction=0.3)
    train, validation = ({example["id"] for example in DataParts(config)[part]} for part in ("train", "validation"))
    assert (len(train), len(validation), train & validation) == (14, 6, set())
    assert {example["id"] for example in DataParts(config)["validation"]} == validation
    assert len(DataParts(dataclasses.replace(config, validation_fraction=0.0))["validation"]) == 0


def test_broken_images_are_left_out_or_stop(config: DataConfig, caplog: pytest.LogCaptureFixture) -> None:
    (Path(str(config.path)) / "images" / "0.jpg").write_bytes(b"")
    with caplog.at_level(logging.WARNING, logger="fusionjax"):
        assert len(DataParts(config)["train"]) == 11
    assert "1 of 12 pictures are broken and left out" in caplog.text
    with pytest.raises(InputError, match=r"0\.jpg: expected an image, got an empty file"):
        _ = DataParts(dataclasses.replace(config, on_broken="stop"))["train"]
    (Path(str(config.path)) / "images" / "1.jpg").unlink()
    with pytest.raises(InputError, match=r"1 captioned images that are missing: 1\.jpg"):
        DataParts(dataclasses.replace(config, on_broken="stop"))


def test_scenes_have_the_number_of_objects(config: DataConfig) -> None:
    scenes = DataParts(dataclasses.replace(config, source="scenes", objects=4, image_size=32))
    assert {len(scenes[part][0]["boxes"]) for part in ("train", "validation", "test")} == {4}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": None}, r"--data\.source flickr needs a folder; got no path\. Add --data\.path DIR"),
        ({"source": "tfds"}, r"--data\.source tfds needs a data set; got no name\. Add --data\.name NAME"),
        ({"source": "scenes", "image_size": 8, "margin": 0.0}, r"image_size must be at least 16 pixels; got 8"),
        ({"train_split": "nope"}, r"must have a part 'nope'; they have train, validation, test\. Choose one of these"),
    ],
)
def test_refusals(config: DataConfig, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _ = DataParts(dataclasses.replace(config, **changes))["train"]


def test_a_field_names_two_things() -> None:
    assert sources._field("captions=captions/text") == ("captions", "captions/text")
    with pytest.raises(
        InputError, match=r"must read name=field, such as captions=captions/text; got 'caption'\. Correct"
    ):
        sources._field("caption")


@pytest.mark.parametrize(
    "changes", [{}, {"crop_area": 0.5}, {"flip": True}, {"color_jitter": 0.4}], ids=["plain", "area", "flip", "colour"]
)
def test_training_images_vary_and_others_do_not(changes: dict[str, object]) -> None:
    config = DataConfig(image_size=17, margin=0.3, **changes)  # type: ignore[arg-type]
    image = RNG.integers(0, 256, (config.stored_size, config.stored_size, 3), np.uint8)
    train, test = ImageTransform(config, training=True), ImageTransform(config, training=False)
    drawn = {train(image, np.random.default_rng(seed)).tobytes() for seed in range(9)}
    assert len(drawn) > 5
    np.testing.assert_array_equal(train(image, np.random.default_rng(3)), train(image, np.random.default_rng(3)))
    assert train(image, RNG).shape == test(image, RNG).shape == (17, 17, 3)
    start = (config.stored_size - 17) // 2
    np.testing.assert_array_equal(test(image, RNG), image[start : start + 17, start : start + 17])


def test_places(config: DataConfig) -> None:
    examples = DataParts(config)["test"]
    places = Places(examples)
    assert [places[index]["place"] for index in range(len(places))] == [0, 1, 2, 3]
    made = PlaceTransform(lambda example, rng: {"drawn": np.array(len(example["captions"]))})(places[2], RNG)
    assert (made["place"].dtype, int(made["place"])) == (np.int32, 2)
    assert int(made["drawn"]) == len(examples[2]["captions"])
