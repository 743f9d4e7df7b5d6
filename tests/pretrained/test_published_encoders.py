"""An encoder of images or texts within published weights, before and after they are read."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from fusionjax import pretrained
from fusionjax.encoders import EfficientNetLite, TextTransformer, VisionTransformer
from fusionjax.errors import InputError
from fusionjax.pretrained.files import write_safetensors
from fusionjax.pretrained.towers import TowerSizes, TwoTowerSizes
from tests.contracts.parameters import draw_variables
from tests.recipes.published import write_image_weights, write_text_weights

TOWER = TowerSizes(features=6, num_layers=1, num_heads=2, mlp_features=7, norm_epsilon=1e-5, activation="quick_gelu")
CLIP = TwoTowerSizes(
    image=TOWER, text=TOWER, patch_size=3, image_size=9, vocab_size=11, max_length=5, features=4, end_id=None
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    write_image_weights(folder / "image")
    write_text_weights(folder / "text")
    found = pretrained.find_architecture("clip-transformers")
    model = found.build(CLIP)
    variables = draw_variables(model, *found.example(CLIP))
    pretrained.save(folder / "clip", pretrained.Pretrained(found, CLIP, model, variables))
    return folder


@pytest.mark.parametrize(
    ("name", "part", "kind", "place"),
    [
        ("image", "image", EfficientNetLite, "encoder"),
        ("text", "text", TextTransformer, ""),
        ("clip", "image", VisionTransformer, "image_encoder"),
        ("clip", "text", TextTransformer, "text_encoder"),
    ],
)
def test_an_encoder_and_its_variables(folder: Path, name: str, part: Any, kind: type, place: str) -> None:
    published = pretrained.open_encoder(folder / name, part)
    whole = pretrained.load(folder / name)
    assert isinstance(published.encoder, kind) and published.folder == folder / name
    assert (published.preparation is None) == (name == "text")
    found = flatten_dict(published.variables(), sep="/")
    expected = flatten_dict(whole.variables, sep="/")
    for path, leaf in found.items():
        kind_of, _, rest = path.partition("/")
        np.testing.assert_array_equal(leaf, expected[f"{kind_of}/{place}/{rest}" if place else path])
    example = np.zeros((1, 9, 9, 3), np.float32) if part == "image" else np.ones((1, 5), np.int32)
    features = published.encoder.apply(published.variables(), example)
    assert np.isfinite(features.tokens).all()


def test_a_header_is_enough_to_build_it(folder: Path) -> None:
    for name, part in (("image", "image"), ("text", "text"), ("clip", "text")):
        published = pretrained.open_encoder(folder / name, part)
        header = json.loads(json.dumps(published.header))
        again = pretrained.encoder_of_header(published.source, part, published.architecture.name, header)
        assert (again.encoder, again.sizes) == (published.encoder, published.sizes)
        assert again.fingerprint() == published.fingerprint()
        gone = pretrained.encoder_of_header("gone", part, published.architecture.name, header)
        assert gone.encoder == published.encoder
        with pytest.raises(InputError, match=r"there is no gone. Check the name"):
            gone.variables()


def test_a_fingerprint_is_that_of_the_tensors(folder: Path, tmp_path: Path) -> None:
    published = pretrained.open_encoder(folder / "image", "image")
    first = published.fingerprint()
    assert len(first) == 64 and published.fingerprint() == first
    tensors = pretrained.files.open_weights(folder / "image")
    read = {name: tensors.read(name) for name in tensors.shapes}
    # Another file, in another order.
    write_safetensors(tmp_path / "a.safetensors", dict(reversed(read.items())))
    assert pretrained.open_encoder(tmp_path / "a.safetensors", "image").fingerprint() == first
    name = min(read)
    for changed in (read[name] + 1e-3, read[name].astype(np.float16)):
        write_safetensors(tmp_path / "b.safetensors", {**read, name: changed.astype(changed.dtype)})
        assert pretrained.open_encoder(tmp_path / "b.safetensors", "image").fingerprint() != first


def test_what_a_folder_of_sentence_transformers_says_of_pooling(folder: Path) -> None:
    """The same tensors are a BERT without that."""
    assert pretrained.load(folder / "text").architecture.name == "sentence-bert-transformers"
    pooling = folder / "text" / "1_Pooling" / "config.json"
    before = pooling.read_text()
    try:
        pooling.write_text('{"pooling_mode_mean_tokens": false}')
        assert pretrained.load(folder / "text").architecture.name == "bert-transformers"
        pooling.write_text("{")
        with pytest.raises(InputError, match=r"1_Pooling/config.json must be JSON; .* Fetch it anew"):
            pretrained.load(folder / "text")
    finally:
        pooling.write_text(before)


def test_weights_without_such_an_encoder(folder: Path) -> None:
    with pytest.raises(InputError, match=r"image must hold weights of an encoder of texts; got efficientnet-lite-timm"):
        pretrained.open_encoder(folder / "image", "text")
    with pytest.raises(InputError, match=r"text must hold weights of an encoder of images; got sentence-bert-transfor"):
        pretrained.open_encoder(folder / "text", "image")
    with pytest.raises(InputError, match=r"must hold weights of vgg-torchvision; got "):
        pretrained.open_encoder(folder / "image", "image", architecture="vgg-torchvision")
