"""Photographs prepared as the files beside published weights say: the pixels of transformers, the rules of timm."""

import importlib.util
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusionjax import data, pretrained
from fusionjax.encoders.convolutional import IMAGENET_MEAN, IMAGENET_STD, normalize_images
from fusionjax.errors import InputError
from fusionjax.pretrained.convnext import ConvNeXtSizes
from fusionjax.pretrained.preparation import ImagePreparation, read_timm, read_transformers, to_transformers
from fusionjax.pretrained.vit import ViTSizes
from tests.parity import hub_images
from tests.parity.reference import reference

MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
PUBLISHED = ImagePreparation(
    size=(11, 11), shorter_side=13, interpolation="bicubic", rounding="down", mean=MEAN, std=STD
)
PATH = Path("preprocessor_config.json")


def read(settings: dict[str, Any], published: ImagePreparation = PUBLISHED) -> ImagePreparation:
    return read_transformers(published, settings, PATH)


def prepared(preparation: ImagePreparation) -> np.ndarray:
    """The photographs, from files, `[photographs, height, width, 3]`."""
    found = []
    for photograph in hub_images.photographs().values():
        file = io.BytesIO()
        photograph.save(file, "PNG")
        found.append(preparation(data.load_image(file.getvalue())))
    return np.stack(found)


@pytest.mark.parametrize("name", list(hub_images.CASES))
def test_the_pixels_are_those_of_transformers(name: str) -> None:
    stored = reference("images-hub", hub_images.MODELS["images-hub"], needs="transformers")
    preparation = read(hub_images.CASES[name])
    np.testing.assert_array_equal(prepared(preparation), stored[name])
    # What is saved for transformers is read as the same.
    again = read(to_transformers(preparation), ImagePreparation(size=(1, 1)))
    np.testing.assert_array_equal(prepared(again), stored[name])
    assert (again.mean, again.std, again.interpolation) == (MEAN, STD, preparation.interpolation)


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rescale_factor": 1 / 127.5},
        {"do_rescale": False, "image_mean": [90.0, 100.0, 110.0], "image_std": [60.0, 61.0, 62.0]},
        {"do_normalize": False},
    ],
)
def test_what_the_model_makes_of_the_pixels_is_what_transformers_gives_its_own(changes: dict[str, Any]) -> None:
    settings = {**hub_images.CASES["clip"], "image_mean": list(MEAN), "image_std": list(STD), **changes}
    preparation = read(
        settings, ImagePreparation(size=(1, 1), mean=(0.9,) * 3, std=(0.8,) * 3, interpolation="bicubic")
    )
    assert preparation.mean is not None and preparation.std is not None
    found = normalize_images(prepared(preparation), preparation.mean, preparation.std)
    expected = np.stack(hub_images.process(settings))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_settings_that_are_not_given_stay_as_published() -> None:
    assert read({}) == PUBLISHED
    assert read({"do_normalize": True, "resample": None, "crop_size": 7}) == PUBLISHED
    # Nor is it said whose they are: a number is the shorter side, and the centre is cut out, as published.
    assert (read({"size": 17}).size, read({"size": 17}).shorter_side) == ((11, 11), 17)
    assert read({"size": 17, "crop_size": 16}).size == (16, 16)
    shared = read({"size": 12, "crop_pct": 0.8})
    assert (shared.size, shared.shorter_side) == ((12, 12), 15)
    whole = ImagePreparation(size=(5, 7), mean=MEAN, std=STD)
    assert read({"size": 17}, whole).size == (17, 17) and read({"size": 17}, whole).shorter_side is None


def test_large_photographs_of_convnext_are_whole() -> None:
    found = read({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}, "crop_pct": 0.9})
    assert (found.size, found.shorter_side, found.scaled_size) == ((384, 384), None, None)
    found = read({"image_processor_type": "ConvNextImageProcessor", "size": 383, "crop_pct": 1.0})
    assert (found.size, found.shorter_side) == ((383, 383), 383)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"do_resize": False}, r"do_resize must be true; got False. Correct it, or remove the file"),
        ({"do_pad": True}, r"do_pad must be false; got True"),
        ({"rescale_offset": True}, r"rescale_offset must be false; got True"),
        ({"resample": 6}, r"resample must be a number from 0 to 5; got 6"),
        ({"resample": "bicubic"}, r"resample must be a number from 0 to 5; got 'bicubic'"),
        ({"size": {"longest_edge": 9}}, r'size must be a number, {"shortest_edge": number} or .*; got {\'longest_edge'),
        ({"size": {"shortest_edge": 9, "longest_edge": 20}}, r"size must be a number, .*; got {'shortest_edge': 9, 'l"),
        ({"size": 0}, r"size must be a number, .*; got 0"),
        (
            {"size": 9, "crop_size": {"height": 7}},
            r'crop_size must be a number or {"height": number, "width": number}; g',
        ),
        ({"size": 9, "do_center_crop": False}, r'size must be {"height": number, .*} where nothing is cut; got 9'),
        ({"image_mean": 0.5}, r"image_mean must be three numbers; got 0.5"),
        ({"image_std": [0.5, 0.5]}, r"image_std must be three numbers; got \[0.5, 0.5\]"),
    ],
)
def test_settings_that_have_no_equal_are_told(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"preprocessor_config.json: {message}"):
        read(settings)


def test_settings_of_timm() -> None:
    def take(**settings: Any) -> ImagePreparation:
        return read_timm(PUBLISHED, settings, Path("config.json"))

    found = take(input_size=[3, 240, 240], crop_pct=0.882, interpolation="bilinear", mean=[0.5] * 3, std=[0.25] * 3)
    assert found == ImagePreparation(
        size=(240, 240), shorter_side=272, interpolation="bilinear", mean=(0.5,) * 3, std=(0.25,) * 3
    )
    found = take(input_size=[3, 30, 40], crop_pct=0.9, crop_mode="squash")
    assert (found.size, found.scaled_size, found.shorter_side) == ((30, 40), (33, 44), None)
    assert (found.interpolation, found.rounding, found.mean) == ("bicubic", "even", MEAN)
    assert take(input_size=[3, 224, 224], crop_pct=1.0, crop_mode="squash").scaled_size is None
    # Seven eighths are cut out where nothing else is said.
    assert (take().size, take().shorter_side) == ((11, 11), 12)
    for settings, message in (
        ({"interpolation": "random"}, r"interpolation must be one of nearest, .*; got 'random'. Correct it, or remove"),
        ({"crop_mode": "border"}, r"crop_mode must be center or squash; got 'border'"),
        ({"input_size": [3, 30, 40]}, r"input_size must be three numbers, the last two equal; got \[3, 30, 40\]"),
        ({"mean": [1]}, r"mean must be three numbers; got \[1\]"),
    ):
        with pytest.raises(InputError, match=f"config.json: {message}"):
            take(**settings)


def test_published_sizes_of_torchvision() -> None:
    """As the metadata of its weights have them."""

    def side(name: str, sizes: Any) -> tuple[Any, ...]:
        found = pretrained.find_architecture(name).preparation(sizes)
        assert found is not None
        return found.size[0], found.shorter_side, found.interpolation

    def vit(features: int, patch_size: int, image_size: int = 224) -> ViTSizes:
        return ViTSizes(
            features=features,
            num_layers=2,
            num_heads=2,
            mlp_features=3,
            patch_size=patch_size,
            image_size=image_size,
            num_classes=5,
            norm_epsilon=1e-6,
        )

    def convnext(*stage_sizes: int, first: int = 96) -> ConvNeXtSizes:
        features = tuple(first * 2**stage for stage in range(4))
        return ConvNeXtSizes(stage_sizes=stage_sizes, features=features, pooled_epsilon=1e-6, num_classes=5)

    for name in ("vit-torchvision", "vit-torchvision-files"):
        assert side(name, vit(768, 16)) == side(name, vit(1024, 32)) == (224, 256, "bilinear")
        assert side(name, vit(1024, 16)) == (224, 242, "bilinear")
        assert side(name, vit(1280, 14)) == (224, 224, "bicubic")
        assert side(name, vit(1024, 16, 512)) == (512, 512, "bicubic")
    assert [side("convnext-torchvision", convnext(3, 3, depth, 3))[1] for depth in (9, 27)] == [236, 230]
    for first in (128, 192):
        assert side("convnext-torchvision", convnext(3, 3, 27, 3, first=first)) == (224, 232, "bilinear")
    for name in ("resnet-torchvision", "vgg-torchvision", "alexnet-torchvision"):
        assert side(name, None) == (224, 256, "bilinear")
    assert IMAGENET_MEAN == (0.485, 0.456, 0.406) and IMAGENET_STD == (0.229, 0.224, 0.225)
