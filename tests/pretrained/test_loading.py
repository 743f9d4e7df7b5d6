"""Whole models from and to files, under the names of several libraries."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import pretrained
from fusionjax.errors import InputError
from fusionjax.pretrained.files import write_safetensors
from fusionjax.pretrained.resnet import RESNET_TORCHVISION, ResNetSizes
from fusionjax.pretrained.rows import tensors_from
from fusionjax.pretrained.vit import ViTSizes
from tests.contracts.parameters import draw_variables
from tests.parity.hub_tokenizers import LENGTH, TEXTS, write_clip
from tests.pretrained.tiny_hub import write_pair

SIZES = ResNetSizes(stage_sizes=(1, 2), features=(5, 7), stem_features=3, is_bottleneck=False, num_classes=11)
IMAGES = np.random.default_rng(0).uniform(size=(2, 37, 41, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def variables() -> Any:
    return draw_variables(RESNET_TORCHVISION.build(SIZES), IMAGES)


@pytest.fixture(scope="module")
def tensors(variables) -> dict[str, np.ndarray]:
    return dict(tensors_from(RESNET_TORCHVISION.rows(SIZES), variables))


@pytest.fixture
def file(tmp_path: Path, tensors) -> Path:
    counters = {"bn1.num_batches_tracked": np.array(7, np.int64)}
    write_safetensors(tmp_path / "resnet.safetensors", {**tensors, **counters})
    return tmp_path / "resnet.safetensors"


def assert_equal(found: Any, expected: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_file_gives_the_model_and_its_variables(file: Path, variables) -> None:
    loaded = pretrained.load(file)
    assert loaded.architecture is RESNET_TORCHVISION and loaded.sizes == SIZES and loaded.labels == ()
    assert loaded.preparation.size == (224, 224)
    assert_equal(loaded.variables, jax.tree.map(np.asarray, variables))
    output = loaded.model.apply(loaded.variables, IMAGES)
    assert output.logits.shape == (2, 11) and np.isfinite(output.logits).all()


def test_saved_and_loaded_again_is_the_same(file: Path, tmp_path: Path, tensors) -> None:
    loaded = pretrained.load(file)
    pretrained.save(tmp_path / "out", loaded)
    again = pretrained.load(tmp_path / "out", architecture="resnet-torchvision")
    assert_equal(again.variables, loaded.variables)
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == ["model.safetensors"]


def test_other_names_for_the_same_weights(file: Path, tmp_path: Path) -> None:
    loaded = dataclasses.replace(pretrained.load(file), labels=tuple("abcdefghijk"))
    renamed = pretrained.rename(loaded, pretrained.find_architecture("resnet-transformers"))
    pretrained.save(tmp_path / "out", renamed)
    again = pretrained.load(tmp_path / "out")
    assert again.architecture.name == "resnet-transformers" and again.labels == loaded.labels
    assert_equal(again.variables, loaded.variables)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "resnet"


def test_names_that_cannot_hold_the_model_are_refused(file: Path) -> None:
    loaded = pretrained.load(file)
    message = (
        r"resnet-torchvision has no form that vgg-torchvision could hold. Name one of resnet-torchvision, resnet-tr"
    )
    with pytest.raises(InputError, match=message):
        pretrained.rename(loaded, pretrained.find_architecture("vgg-torchvision"))
    # Of the same family, but with other means of the photographs.
    sizes = ViTSizes(
        features=64,
        num_layers=1,
        num_heads=1,
        mlp_features=3,
        patch_size=2,
        image_size=4,
        num_classes=5,
        norm_epsilon=1e-6,
    )
    timm, torchvision = (pretrained.find_architecture(f"vit-{name}") for name in ("timm", "torchvision"))
    variables = draw_variables(timm.build(sizes), np.zeros((1, 4, 4, 3), np.float32))
    model = pretrained.Pretrained(timm, sizes, timm.build(sizes), variables)
    message = (
        r"vit-timm has no form that vit-torchvision could hold. Name one of vit-timm, vit-torchvision-files, vit-tr"
    )
    with pytest.raises(InputError, match=message):
        pretrained.rename(model, torchvision)
    with pytest.raises(
        InputError, match=r"the architecture must be one of alexnet.*; got 'resnet-torch'. Did you mean"
    ):
        pretrained.find_architecture("resnet-torch")


def test_parameters_go_straight_into_their_sharding(file: Path, variables) -> None:
    mesh = jax.make_mesh((8,), ("data",))
    placed = []

    def sharding(path: str, shape: tuple[int, ...]) -> jax.sharding.Sharding:
        placed.append((path, shape))
        spec = jax.sharding.PartitionSpec(*("data" if size % 8 == 0 else None for size in shape))
        return jax.sharding.NamedSharding(mesh, spec)

    loaded = pretrained.load(file, sharding=sharding)
    assert ("params/head/kernel", (7, 11)) in placed
    assert len(loaded.variables["params"]["head"]["kernel"].sharding.device_set) == 8
    assert_equal(loaded.variables, jax.tree.map(np.asarray, variables))
    whole = pretrained.load(file, sharding=jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(whole.variables)} == {8}


def test_parameters_take_the_dtype_asked_for_and_statistics_keep_theirs(file: Path) -> None:
    loaded = pretrained.load(file, param_dtype=jnp.bfloat16)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(loaded.variables["params"])} == {"bfloat16"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(loaded.variables["batch_stats"])} == {"float32"}


def test_weights_of_another_model_are_refused(file: Path, tmp_path: Path, tensors) -> None:
    write_safetensors(tmp_path / "other.safetensors", {"a.weight": np.ones((3, 5), np.float32)})
    message = r"other.safetensors must hold weights of one of alexnet-torchvision, .*; got a.weight, ... Name the archi"
    with pytest.raises(InputError, match=message):
        pretrained.load(tmp_path / "other.safetensors")
    message = r"resnet.safetensors must hold weights of vgg-torchvision; got bn1.bias, .* Name another architecture"
    with pytest.raises(InputError, match=message):
        pretrained.load(file, architecture="vgg-torchvision")
    fewer = {name: tensor for name, tensor in tensors.items() if name != "layer2.1.bn2.bias"}
    write_safetensors(tmp_path / "fewer.safetensors", {**fewer, "extra": np.ones(2, np.float32)})
    message = r"missing: layer2.1.bn2.bias; unexpected: extra. Name another architecture, or other weights"
    with pytest.raises(InputError, match=message):
        pretrained.load(tmp_path / "fewer.safetensors")


def test_every_architecture_has_a_name_of_its_own() -> None:
    names = [one.name for one in pretrained.ARCHITECTURES]
    assert len(set(names)) == len(names)
    for name in names:
        assert pretrained.find_architecture(name).name == name


def test_the_tokenizer_lies_beside_the_weights(tmp_path: Path, file: Path) -> None:
    write_pair(tmp_path / "clip", "clip")
    loaded = pretrained.load(tmp_path / "clip")
    assert loaded.tokenizer is not None and loaded.tokenizer.vocab_size == loaded.sizes.vocab_size
    assert loaded.tokenizer.max_length == LENGTH and loaded.tokenizer is loaded.tokenizer
    # And goes with them.
    pretrained.save(tmp_path / "copy", loaded)
    again = pretrained.load(tmp_path / "copy")
    assert again.tokenizer is not None
    np.testing.assert_array_equal(again.tokenizer.encode_batch(TEXTS), loaded.tokenizer.encode_batch(TEXTS))
    pretrained.save(tmp_path / "copy", again)
    assert pretrained.load(tmp_path / "copy").tokenizer is not None
    # There is none for a file alone, for images alone, and where the files are missing.
    assert dataclasses.replace(loaded, folder=None).tokenizer is None
    assert pretrained.load(file).tokenizer is None
    (tmp_path / "copy" / "merges.txt").unlink()
    assert pretrained.load(tmp_path / "copy").tokenizer is None


def test_the_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    write_pair(tmp_path, "siglip", vocab_size=35)
    with pytest.raises(InputError, match=r"must have at most the model's 35 tokens; it has 38. Put that of this model"):
        pretrained.load(tmp_path).tokenizer  # noqa: B018
    (tmp_path / "spiece.model").unlink()
    write_clip(tmp_path)
    assert pretrained.load(tmp_path).tokenizer is None


def test_files_beside_the_weights_correct_how_photographs_are_prepared(tmp_path: Path, file: Path) -> None:
    loaded = pretrained.load(file)
    assert loaded.preparation.mean == loaded.model.encoder.mean == (0.485, 0.456, 0.406)
    pretrained.save(tmp_path / "out", pretrained.rename(loaded, pretrained.find_architecture("resnet-transformers")))
    path = tmp_path / "out" / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    assert settings["size"] == {"shortest_edge": 256} and settings["image_mean"] == [0.485, 0.456, 0.406]
    path.write_text(json.dumps({**settings, "image_mean": [0.1, 0.2, 0.3], "crop_size": 96, "resample": 3}))
    corrected = pretrained.load(tmp_path / "out")
    assert corrected.preparation == dataclasses.replace(
        loaded.preparation, size=(96, 96), interpolation="bicubic", rounding="down", mean=(0.1, 0.2, 0.3)
    )
    assert (corrected.model.encoder.mean, corrected.model.encoder.std) == ((0.1, 0.2, 0.3), loaded.model.encoder.std)
    # The same pixels, shifted by the difference of the means, are the same to both models.
    shifted = IMAGES + np.subtract((0.1, 0.2, 0.3), (0.485, 0.456, 0.406)).astype(np.float32)
    logits = [one.model.apply(one.variables, images).logits for one, images in ((loaded, IMAGES), (corrected, shifted))]
    np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-4)
    # Newer folders have all settings in another file.
    (tmp_path / "out" / "processor_config.json").write_text(
        json.dumps({"image_processor": {"crop_size": 64, **settings}})
    )
    assert pretrained.load(tmp_path / "out").preparation.mean == loaded.preparation.mean
    (tmp_path / "out" / "processor_config.json").write_text(json.dumps({"processor_class": "Processor"}))
    assert pretrained.load(tmp_path / "out").preparation == corrected.preparation
    pretrained.save(tmp_path / "again", corrected)
    assert pretrained.load(tmp_path / "again").preparation == corrected.preparation
    # torchvision's file has no place for the means.
    with pytest.raises(InputError, match=r"resnet-transformers has no form that resnet-torchvision could hold"):
        pretrained.rename(corrected, pretrained.find_architecture("resnet-torchvision"))


def test_settings_of_timm_correct_how_photographs_are_prepared(tmp_path: Path, file: Path) -> None:
    file.rename(tmp_path / "model.safetensors")
    settings = {"input_size": [3, 176, 176], "crop_pct": 0.95, "mean": [0.5, 0.5, 0.5], "interpolation": "bicubic"}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet50", "pretrained_cfg": settings}))
    loaded = pretrained.load(tmp_path)
    assert (loaded.preparation.size, loaded.preparation.shorter_side) == ((176, 176), 185)
    assert loaded.model.encoder.mean == (0.5, 0.5, 0.5) and loaded.preparation.interpolation == "bicubic"


def test_means_of_a_vision_transformer_are_those_of_its_sizes(tmp_path: Path) -> None:
    sizes = ViTSizes(
        features=64,
        num_layers=1,
        num_heads=1,
        mlp_features=3,
        patch_size=2,
        image_size=4,
        num_classes=5,
        norm_epsilon=1e-12,
    )
    architecture = pretrained.find_architecture("vit-transformers")
    model = architecture.build(sizes)
    variables = draw_variables(model, np.zeros((1, 4, 4, 3), np.float32))
    pretrained.save(tmp_path, pretrained.Pretrained(architecture, sizes, model, variables))
    assert not (tmp_path / "preprocessor_config.json").exists()
    settings = {"feature_extractor_type": "DeiTFeatureExtractor", "size": 6, "crop_size": 4, "image_mean": [0.1] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    loaded = pretrained.load(tmp_path)
    assert loaded.sizes.mean == loaded.model.encoder.mean == loaded.preparation.mean == (0.1, 0.1, 0.1)
    assert loaded.preparation.scaled_size == (6, 6) and loaded.sizes.std == (0.5, 0.5, 0.5)
