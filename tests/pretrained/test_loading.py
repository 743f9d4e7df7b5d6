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
