"""Settings: every check, and the way into JSON and back."""

import dataclasses
import json

import pytest

from fusionjax.errors import InputError
from fusionjax.recipes import captioning, classification
from fusionjax.recipes.config import DataConfig, DecodingConfig, TrainingConfig, from_json, to_json
from fusionjax.recipes.reward import RewardConfig


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (DataConfig, {"image_size": 0}, r"image_size must be above 0; got 0\. Give a larger one"),
        (DataConfig, {"objects": 7}, r"objects must be 2 to 6 shapes in each picture; got 7\. Choose one of these"),
        (DataConfig, {"objects": 1}, r"objects must be 2 to 6 shapes in each picture; got 1\. Choose one of these"),
        (DataConfig, {"max_length": 2}, r"max_length must hold start, a word and end; got 2\. Give 3 or more"),
        (DataConfig, {"validation_fraction": 1.0}, r"validation_fraction must be in \[0, 1\); got 1\.0\. Try 0\.1"),
        (DataConfig, {"crop_area": 0.0}, r"crop_area must be in \(0, 1\]; got 0\.0\. Try 0\.6"),
        (DataConfig, {"color_jitter": 1.5}, r"color_jitter must be in \[0, 1\]; got 1\.5\. Try 0\.2"),
        (DataConfig, {"margin": -0.1}, r"margin must not be negative; got -0\.1\. Give 0 or more"),
        (DataConfig, {"num_workers": -1}, r"num_workers must not be negative; got -1"),
        (TrainingConfig, {"epochs": 0}, r"epochs must be above 0; got 0"),
        (TrainingConfig, {"ema_decay": 1.0}, r"ema_decay must be below 1; got 1\.0\. Try 0\.999"),
        (TrainingConfig, {"ema_decay": 0.0}, r"ema_decay must be above 0; got 0\.0"),
        (TrainingConfig, {"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\); got 1\.0\. Try 0\.1"),
        (
            TrainingConfig,
            {"accumulate": 5, "batch_size": 32},
            r"accumulate must divide batch_size; got 5 and 32\. Change",
        ),
        (DecodingConfig, {"num_beams": 0}, r"num_beams must be above 0; got 0"),
        (
            DecodingConfig,
            {"top_p": 1.5},
            r"top_p must be at most 1 and top_k at least 0; got 1\.5 and 0\. Correct them",
        ),
        (DecodingConfig, {"top_k": -2}, r"top_p must be at most 1 and top_k at least 0; got 1\.0 and -2"),
        (RewardConfig, {"samples": 1}, r"reward\.samples at least 2; got 0\.0 and 1\. Correct them"),
        (RewardConfig, {"epochs": -1.0}, r"reward\.epochs must be at least 0 and .*; got -1\.0 and 5"),
        (
            captioning.ModelConfig,
            {"cnn_features": ()},
            r"cnn_features must be one or more sizes above 0; got \(\)\. Try",
        ),
        (captioning.ModelConfig, {"dropout_rate": 1.0}, r"dropout_rate must be in \[0, 1\); got 1\.0\. Try 0\.3"),
        (captioning.CaptioningConfig, {"seed": -1}, r"seed must not be negative; got -1\. Give 0 or more"),
        (captioning.CaptioningConfig, {"report_samples": -1}, r"report_samples must not be negative; got -1"),
        (
            classification.ModelConfig,
            {"cnn_features": (3, 0)},
            r"cnn_features must be one or more sizes above 0; got \(3, 0",
        ),
        (classification.ModelConfig, {"dropout_rate": -0.1}, r"dropout_rate must be in \[0, 1\); got -0\.1\. Try 0\.1"),
        (
            classification.ModelConfig,
            {"hidden_features": (0,)},
            r"hidden_features must be sizes above 0; got \(0,\)\. Try",
        ),
        (classification.ClassificationConfig, {"seed": -2}, r"seed must not be negative; got -2"),
    ],
)
def test_checks(kind: type, values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind(**values)


def test_reward_batches_are_split_like_the_others() -> None:
    with pytest.raises(
        InputError, match=r"accumulate must divide reward\.batch_size; got 4 and 6\. Change one of them"
    ):
        captioning.CaptioningConfig(
            training=TrainingConfig(accumulate=4), reward=RewardConfig(epochs=1.0, batch_size=6)
        )


@pytest.mark.parametrize("recipe", [captioning, classification])
@pytest.mark.parametrize("source", ["scenes", "flickr", "coco", "tfds"])
def test_presets_survive_json(recipe: object, source: str) -> None:
    config = recipe.preset(source)  # type: ignore[attr-defined]
    assert config.data.source == source
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, fields=("image=picture",)))
    assert from_json(type(config), json.loads(json.dumps(to_json(config)))) == config


@pytest.mark.parametrize("recipe", [captioning, classification])
def test_no_preset(recipe: object) -> None:
    with pytest.raises(InputError, match=r"the source must be scenes, flickr, coco or tfds; got 'tape'\. Choose one"):
        recipe.preset("tape")  # type: ignore[attr-defined]


def test_bad_json() -> None:
    with pytest.raises(InputError, match=r"DecodingConfig must be a JSON object; got \[\]\. Restore the file"):
        from_json(DecodingConfig, [])  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=r"DecodingConfig has no setting beams, width; it has method, num_beams, .* Remove"
    ):
        from_json(DecodingConfig, {"width": 1, "beams": 2})
    with pytest.raises(InputError, match=r"DecodingConfig has a value of a wrong kind; got .*str.* Restore the file"):
        from_json(DecodingConfig, {"num_beams": "many"})


def test_stored_size_has_the_margin() -> None:
    assert DataConfig(image_size=80, margin=0.125).stored_size == 90
